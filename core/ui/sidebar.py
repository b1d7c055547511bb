"""The sidebar: everything that is chosen beside the prompt."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import gradio as gr
from pydantic import Field, ValidationError

from .. import chat_template
from ..checkpoints.sources import HERE, whereabouts
from ..checkpoints.tokenizers import tokenizers_at_hand
from ..errors import UserError
from ..pairs import Pair, label
from ..pool import Pool
from ..prompts import Tokenizer
from ..types import (
    DEFAULT_SAMPLING,
    FRAMINGS,
    SIDES,
    Comparison,
    Conversation,
    Framing,
    Record,
    Sampling,
    Side,
    Switches,
    Value,
    explain,
    in_common,
)
from . import preview, theme
from .markup import FRAMING, KIND, notice
from .own_pair import OwnPair
from .room import QUIET, Update, dropdown, number, slider

# What each setting does, in one sentence, shown while it is pointed at or has the focus.
_DOES = {
    "pair": "Two models of one lineage, before and after post-training.",
    "system": "Text that is sent before everything else, on every turn.",
    "temperature": "How far the draw may stray from the likeliest token; at 0 nothing is drawn, the likeliest is taken.",
    "top_p": "Draws among the likeliest tokens that together have this probability; 1 leaves all of them.",
    "max_new_tokens": "The longest reply, in tokens; one that was cut off says so.",
    "seed": "Chooses the luck of the draw, the same for both models. Same inputs and seed, same tokens.",
    "top_k": "Draws among so many of the likeliest tokens; 0 leaves all of them.",
    "min_p": "Draws among tokens with at least this share of the likeliest one's probability; 0 leaves all of them.",
    "repetition_penalty": "Above 1, tokens that are there already become less likely.",
    "framing_base": "How the chat becomes the text that the base model reads: bare, as a transcript, or in the sibling's chat template.",
    "framing_post": "How the chat becomes the text that the post-trained model reads: bare, as a transcript, or in its chat template.",
}


class Choices(Value):
    """Everything that is chosen beside the prompt."""

    pair: str
    system: str
    sampling: Sampling
    framing_base: Framing
    framing_post: Framing
    chat_template_kwargs: Switches = Field(default={})

    @classmethod
    def of(cls, asked: Comparison | Record) -> "Choices":
        system = asked.system if isinstance(asked, Record) else asked.conversation.system
        return cls(**{**in_common(asked, cls), "system": system})


class Sidebar:
    """Builds the widgets inside the current Blocks and reads them as one value."""

    def __init__(self, pool: Pool):
        self.pool = pool
        gr.HTML(
            f"<div class='brand'>{theme.LOGO.format(size=30)}<div><h1>Same Seed</h1><p>One prompt. Two stages of training.</p></div></div>",
            elem_id="brand",
        )
        sampling = DEFAULT_SAMPLING
        self._titles = {pair.id: _titled(pair) for pair in pool.pairs}
        self._at_hand: dict[str, Mapping[Side, Tokenizer] | None] = {}
        self.pair = dropdown("Model pair", "pair", self._rows(), value=pool.default.id)
        self.bare = gr.HTML(self._said_of(pool.default.id), elem_id="bare")
        self.own = OwnPair(pool, self._brought) if pool.settings.own_pairs != "nobody" else None
        self.system = gr.Textbox(
            label="System prompt", placeholder="Empty: nothing is added", lines=2, max_lines=6, elem_id="system"
        )
        self.temperature = slider("Temperature", "temperature", 0, 2, sampling.temperature, 0.05)
        self.top_p = slider("Top-p", "top_p", 0.05, 1, sampling.top_p, 0.05)
        self.max_new_tokens = slider("Max new tokens", "max_new_tokens", 16, 1024, sampling.max_new_tokens, 8)
        with gr.Row(elem_id="seed_row", equal_height=True):
            self.seed = number("Seed", "seed", sampling.seed, min_width=120, scale=4)
            self.dice = gr.Button("Roll", elem_id="dice", size="sm", min_width=74, scale=1)
        with gr.Accordion("More sampling and framing", open=False, elem_id="more") as more:
            self.top_k = slider("Top-k (0 is off)", "top_k", 0, 200, sampling.top_k, 1)
            self.min_p = slider("Min-p", "min_p", 0, 0.5, sampling.min_p, 0.01)
            self.repetition_penalty = slider(
                "Repetition penalty", "repetition_penalty", 1, 2, sampling.repetition_penalty, 0.05
            )
            framings: dict[str, Any] = {
                "choices": [(FRAMING[framing], framing) for framing in FRAMINGS],
                "elem_classes": "framing",
            }
            self.framing_base = dropdown("Framing, base", "framing_base", value="document", **framings)
            self.framing_post = dropdown(
                "Framing, post-trained", "framing_post", value=self._usual_framing(pool.default.id), **framings
            )
            self.sent = gr.HTML("", js_on_load=preview.SCRIPT, apply_default_css=False, elem_id="framed")
            self.reset = gr.Button("Reset all of these", elem_id="reset", size="sm")
        self.switches = gr.Textbox(
            label="Chat template switches", elem_id="switches", **_offered(self.read_by(pool.default.id))
        )
        for name, sentence in _DOES.items():
            getattr(self, name).info = sentence
        self.dice.click(None, None, self.seed, js="() => Math.floor(Math.random() * 2147483648)")
        settings = [self.framing_base, self.framing_post, *self._sampling.values()]
        sampled = [getattr(DEFAULT_SAMPLING, name) for name in self._sampling]
        self.reset.click(
            lambda pair: ["document", self._usual_framing(pair), *sampled], self.pair, settings, queue=False, **QUIET
        )
        framed = [self.framing_post, self.bare]
        self.pair.input(self.fit, [self.pair, self.framing_post], framed, queue=False, **QUIET)
        shapes: list[Any] = [self.pair, self.system, self.framing_base, self.framing_post, self.switches]
        for looks in (more.expand, self.sent.typed, *(each.change for each in shapes)):
            looks(
                self._preview,
                [self.sent, *shapes],
                self.sent,
                js=preview.READ_BOX,
                queue=False,
                trigger_mode="always_last",
                **QUIET,
            )
        if self.own is not None:
            self.own.connect([self.pair, self.switches, *framed])

    @property
    def _sampling(self) -> dict[str, gr.Component]:
        names = ("seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
        return {name: getattr(self, name) for name in names}

    @property
    def outputs(self) -> list[gr.Component]:
        """Everything here that another conversation can change."""
        return [*self.widgets, self.bare]

    @property
    def widgets(self) -> list[gr.Component]:
        return [self.pair, self.system, self.framing_base, self.framing_post, self.switches, *self._sampling.values()]

    def read(self, values: dict[Any, Any]) -> Choices:
        """What is chosen now.

        Raises:
            UserError: a field is empty or out of range.
        """
        chosen = {name: values[widget] for name, widget in self._sampling.items()}
        for name, value in chosen.items():
            if value is None:
                raise UserError(f"{name.replace('_', ' ').capitalize()} is empty; type a number.")
        try:
            sampling = Sampling.model_validate(chosen)
        except ValidationError as error:
            raise explain(error) from None
        chosen = {name: values[getattr(self, name)] for name in ("pair", "framing_base", "framing_post")}
        switches = _parsed(values[self.switches] or "")
        try:
            return Choices(**chosen, system=values[self.system] or "", sampling=sampling, chat_template_kwargs=switches)
        except ValidationError as error:
            raise explain(error) from None

    def show(self, choices: Choices) -> dict[gr.Component, Any]:
        """Put choices back into the widgets."""
        texts = {
            getattr(self, name): text for name, text in choices if name not in ("sampling", "chat_template_kwargs")
        }
        return (
            texts
            | self.choose(choices.pair)
            | {self.bare: self._said_of(choices.pair)}
            | self.offer(self.read_by(choices.pair), choices.chat_template_kwargs)
            | {widget: _setting(widget, getattr(choices.sampling, name)) for name, widget in self._sampling.items()}
        )

    def offer(self, read: tuple[str, ...], given: Mapping[str, Any] | None = None) -> dict[gr.Component, Any]:
        """Show the field for what a chat template reads, or for what was `given` to one; hide it, empty, where there is nothing."""
        value: dict[str, Any] = {"value": _spelled(given or {})} if given is not None or not read else {}
        return {self.switches: gr.update(**_offered(read, always=bool(given)), **value)}

    def arrived(self) -> Update:
        """What a page that is opened shows beside its prompt, as far as that was not known when it was built."""
        default = self.pool.default.id
        pairs = {self.pair: gr.update(choices=self._rows())} if self._has_grown else {}
        return pairs | (self._framed(default, "chat") if self._is_bare(default) else {})

    def choose(self, id: str) -> Update:
        """Choose a pair, which may be one that somebody brought after the page was built."""
        return {self.pair: gr.update(choices=self._rows(), value=id) if self._has_grown else id}

    @property
    def _has_grown(self) -> bool:
        return len(self.pool.pairs) > len(self._titles)

    def _rows(self) -> list[tuple[str, str]]:
        return [(self._titles.get(pair.id, pair.title), pair.id) for pair in self.pool.pairs]

    def _brought(self, pair: Pair) -> Update:
        return self.choose(pair.id) | self.offer(self.read_by(pair.id)) | self._framed(pair.id, "chat")

    def fit(self, id: str, framing: Framing) -> Update:
        """A pair was chosen, or is in memory now: a model without a chat template is not asked under one."""
        return self._framed(id, framing)

    def _framed(self, id: str, framing: Framing) -> Update:
        framed = {self.framing_post: self._usual_framing(id)} if framing == "chat" else {}
        return framed | {self.bare: self._said_of(id)}

    def _usual_framing(self, id: str) -> Framing:
        return "transcript" if self._is_bare(id) else "chat"

    def _said_of(self, id: str) -> str:
        name = self.name_of(id, "post")
        said = f"{name} has no chat template, so it is asked under the transcript framing at first."
        return notice(said if self._is_bare(id) else "")

    def _is_bare(self, id: str) -> bool:
        """Whether the post-trained model of a pair is known to have no chat template."""
        tokenizers = self.tokenizers(id)
        return tokenizers is not None and not chat_template.of(tokenizers["post"])

    def _preview(
        self, prompt: str, pair: str, system: str, framing_base: Framing, framing_post: Framing, switches: str
    ) -> str:
        """What both sides would be sent, by the models' tokenizers; nothing is loaded for it."""
        try:
            asked = Comparison(
                pair=pair,
                conversation=Conversation(system=system or ""),
                prompt=prompt.strip() or preview.EXAMPLE,
                sampling=DEFAULT_SAMPLING,
                framing_base=framing_base,
                framing_post=framing_post,
                today=date.today().isoformat(),
                chat_template_kwargs=_parsed(switches or ""),
            )
            return preview.preview(asked, self.tokenizers(pair))
        except ValidationError as error:
            return notice(str(explain(error)), "error")
        except UserError as error:
            return notice(str(error), "error")

    def read_by(self, id: str) -> tuple[str, ...]:
        """What the chat template of a pair reads, where its tokenizer is here."""
        tokenizers = self.tokenizers(id)
        return chat_template.switches(tokenizers["post"]) if tokenizers else ()

    def tokenizers(self, id: str) -> Mapping[Side, Tokenizer] | None:
        """Those of a pair that is in memory, or whose folders are here."""
        pair = next((pair for pair in self.pool.pairs if pair.id == id), None)
        if pair is None:
            return None
        lease = self.pool.peek(id)
        if lease is not None:
            with lease:
                return {side: lease.side(side).tokenizer for side in SIDES}
        if id not in self._at_hand:
            self._at_hand[id] = tokenizers_at_hand(pair)
        return self._at_hand[id]

    def name_of(self, id: str, side: Side) -> str:
        """How a side of a pair is called before it is loaded."""
        pair = next((pair for pair in self.pool.pairs if pair.id == id), None)
        if pair is None:  # a kept turn may be of a pair that this start of the app does not have
            return f"{KIND[side]} model"
        return label(pair.spec(side)).split("/")[-1].partition("@")[0]


def _titled(pair: Pair) -> str:
    """A pair as the list names it: with what is to be downloaded, where it was not here when the app started."""
    where = whereabouts(pair)
    return pair.title if where == HERE else f"{pair.title} \u00b7 {where}"


def _offered(read: tuple[str, ...], *, always: bool = False) -> dict[str, Any]:
    """How the field for switches looks: it names them, and is not there where a template has none."""
    names = ", ".join(f"{name}=" for name in read)
    return {"visible": always or bool(read), "placeholder": names, "info": "As name=value, with commas between them"}


def _parsed(text: str) -> dict[str, Any]:
    """What is written as `name=value, name=value`; a value is JSON or a bare word. Raises UserError."""
    found: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not name or not equals or not value:
            raise UserError("Chat template switches are written as name=value, as in enable_thinking=false.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _spelled(switches: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in switches.items()
    )


def _setting(widget: gr.Component, value: float) -> Any:
    """A value for a widget; a slider becomes as long as a value from elsewhere needs."""
    if not isinstance(widget, gr.Slider):
        return value
    return gr.update(value=value, minimum=min(widget.minimum, value), maximum=max(widget.maximum, value))
