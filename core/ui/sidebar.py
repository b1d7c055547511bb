"""The sidebar: everything that is chosen beside the prompt."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic import ValidationError

from ..errors import UserError
from ..pairs import label
from ..pool import Pool
from ..types import DEFAULT_SAMPLING, FRAMINGS, MAX_SEED, Comparison, Framing, Record, Sampling, Side, explain
from . import theme
from .markup import FRAMING, KIND
from .room import unchecked


@dataclass(frozen=True)
class Choices:
    """Everything that is chosen beside the prompt."""

    pair: str
    system: str
    sampling: Sampling
    framing_base: Framing
    framing_post: Framing

    @classmethod
    def of(cls, record: Record) -> "Choices":
        return cls(record.pair, record.system, record.sampling, record.framing_base, record.framing_post)

    @classmethod
    def of_comparison(cls, asked: Comparison) -> "Choices":
        return cls(asked.pair, asked.conversation.system, asked.sampling, asked.framing_base, asked.framing_post)


class Sidebar:
    """Builds the widgets inside the current Blocks and reads them as one value."""

    def __init__(self, pool: Pool):
        self.pool = pool
        gr.HTML(
            f"<div class='brand'>{theme.LOGO.format(size=30)}<div><h1>Same Seed</h1><p>One prompt. Two stages of training.</p></div></div>",
            elem_id="brand",
        )
        default = DEFAULT_SAMPLING
        self.pair = gr.Dropdown(
            [(pair.title, pair.id) for pair in pool.pairs],
            value=pool.default.id,
            label="Model pair",
            elem_id="pair",
            filterable=False,
        )
        self.system = gr.Textbox(
            label="System prompt", placeholder="Empty: nothing is prepended", lines=2, max_lines=6, elem_id="system"
        )
        self.temperature = unchecked(
            gr.Slider(0, 2, default.temperature, step=0.05, label="Temperature", elem_id="temperature", buttons=[])
        )
        self.top_p = unchecked(gr.Slider(0.05, 1, default.top_p, step=0.05, label="Top-p", elem_id="top_p", buttons=[]))
        self.max_new_tokens = unchecked(
            gr.Slider(
                16, 1024, default.max_new_tokens, step=8, label="Max new tokens", elem_id="max_new_tokens", buttons=[]
            )
        )
        with gr.Row(elem_id="seed_row", equal_height=True):
            self.seed = gr.Number(
                default.seed,
                precision=0,
                minimum=0,
                maximum=MAX_SEED,
                label="Seed",
                elem_id="seed",
                min_width=120,
                scale=4,
            )
            self.dice = gr.Button("Roll", elem_id="dice", size="sm", min_width=74, scale=1)
        with gr.Accordion("More sampling and framing", open=False, elem_id="more"):
            self.top_k = unchecked(
                gr.Slider(0, 200, default.top_k, step=1, label="Top-k (0 is off)", elem_id="top_k", buttons=[])
            )
            self.min_p = unchecked(
                gr.Slider(0, 0.5, default.min_p, step=0.01, label="Min-p", elem_id="min_p", buttons=[])
            )
            self.repetition_penalty = unchecked(
                gr.Slider(
                    1,
                    2,
                    default.repetition_penalty,
                    step=0.05,
                    label="Repetition penalty",
                    elem_id="repetition_penalty",
                    buttons=[],
                )
            )
            framings = [(FRAMING[framing], framing) for framing in FRAMINGS]
            self.framing_base = gr.Dropdown(
                framings,
                value="document",
                label="Framing, base",
                elem_id="framing_base",
                elem_classes="framing",
                filterable=False,
            )
            self.framing_post = gr.Dropdown(
                framings,
                value="chat",
                label="Framing, post-trained",
                elem_id="framing_post",
                elem_classes="framing",
                filterable=False,
            )
        self.dice.click(None, None, self.seed, js="() => Math.floor(Math.random() * 2147483648)")

    @property
    def _sampling(self) -> dict[str, gr.Component]:
        names = ("seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
        return {name: getattr(self, name) for name in names}

    @property
    def widgets(self) -> list[gr.Component]:
        return [self.pair, self.system, self.framing_base, self.framing_post, *self._sampling.values()]

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
        framings = values[self.framing_base], values[self.framing_post]
        return Choices(values[self.pair], values[self.system] or "", sampling, *framings)

    def show(self, choices: Choices) -> dict[gr.Component, Any]:
        """Put choices back into the widgets."""
        chosen: dict[gr.Component, Any] = {
            self.pair: choices.pair,
            self.system: choices.system,
            self.framing_base: choices.framing_base,
            self.framing_post: choices.framing_post,
        }
        return chosen | {
            widget: _setting(widget, getattr(choices.sampling, name)) for name, widget in self._sampling.items()
        }

    def name_of(self, id: str, side: Side) -> str:
        """How a side of a pair is called before it is loaded."""
        pair = next((pair for pair in self.pool.pairs if pair.id == id), None)
        if pair is None:  # a kept turn may be of a pair that this start of the app does not have
            return f"{KIND[side]} model"
        return label(pair.base if side == "base" else pair.post).split("/")[-1].partition("@")[0]


def _setting(widget: gr.Component, value: float) -> Any:
    """A value for a widget; a slider becomes as long as a value from elsewhere needs."""
    if not isinstance(widget, gr.Slider):
        return value
    return gr.update(value=value, minimum=min(widget.minimum, value), maximum=max(widget.maximum, value))
