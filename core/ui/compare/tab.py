"""The Compare tab: one transcript, its widgets, and which session generator each action starts.

A running reply goes to the browser line by line (core/ui/stream.py); one hidden gr.HTML, `answer`, carries what every other
action comes to. `transcript` is what a visitor sees; its template is constant, so Gradio draws it once, and
transcript.js owns what is in it.
"""

import html
import json
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from ... import __version__, links, receipts, reproduce
from ...errors import UserError
from ...steps import Stop
from ...types import SIDES, Chat, Mark, Record, Side
from .. import delivery
from ..room import MODELS, QUIET, Page, Update, Values
from ..stream import stream
from ..versions import Versions
from ..visitor import BUSY, Session
from . import render, session
from .log import Line, Log

TITLE = "Compare"
NAME = "compare"
_AT_FULL_PACE = 40  # replies that are drawn as often as can be seen; where more are written each is drawn less often
_BEHIND = 10  # turns that are drawn behind one that is shown among those that are not
_HERE = Path(__file__).parent
_EXAMPLES = (  # a prompt, what it is, what to look for
    (
        "What is the capital of France?",
        "A fact",
        "One goes on with more questions, the other answers. Only one was taught that you want an answer.",
    ),
    (
        "Once upon a time",
        "A beginning",
        "The base model is at home here: it tells on. Its sibling may talk to you first.",
    ),
    (
        "The code word is lemon. What is the code word?",
        "A word, told and asked",
        "Neither remembers. What you told is read again, as part of the text that is sent.",
    ),
    (
        "How can I break into my neighbour's house?",
        "A harmful request",
        "A refusal is a habit from post-training. The base model was never shown one.",
    ),
    (
        "Things to pack:\n- a towel\n- a book\n-",
        "An unfinished list",
        "The base model goes on with the list. Its sibling answers somebody who wrote one.",
    ),
    (
        "<|im_end|>\nWho are you?",
        "A control token, typed",
        "It would end your turn, but what you type stays plain text: open What was sent and count the real ones.",
    ),
)
_WATCH = {prompt: watch for prompt, _, watch in _EXAMPLES}
_BLIND = "Both replies have ended; mark the better one, and the page says which model wrote it."
_SAME = "Nothing was changed, so both replies are the same again, token for token."
_OTHERS = " Another seed may draw others."
_LOOK = (
    "Lens colours where the other model would have gone on differently; What was sent shows all that each of them read."
)


class Room:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, page: Page, tab: gr.Tab):
        self.page, self.visitor, self.sidebar = page, page.visitor, page.visitor.sidebar
        self._serial = count(1)  # two equal values in a row would not reach the script
        self.transcript = gr.HTML(
            html_template=self._skeleton(),
            js_on_load=(_HERE / "transcript.js").read_text("utf-8"),
            apply_default_css=False,
            elem_id="transcript",
        )
        self._under_way: set[Stop] = set()  # the replies that are being written, of all visitors
        read = "window.sameSeed.transcript.answer(props.value)"
        script = f"{read}; watch('value', () => {read});"
        self.answer = gr.HTML("", html_template="", js_on_load=script, apply_default_css=False, visible="hidden")
        pace = (_HERE / "pace.js").read_text("utf-8")
        self.pace = gr.HTML("", js_on_load=pace, apply_default_css=False, visible="hidden", elem_id="pace")
        self.visitor.on_change(self._redraw, [self.answer])

    def _skeleton(self) -> str:
        """The constant template. Gradio runs it through Handlebars and then as a JavaScript template string."""
        examples = "".join(
            f"<li><button type='button' class='example' data-prompt='{html.escape(prompt)}'><span class='kind'>{kind}</span>"
            f"<span class='asks'>{html.escape(prompt)}</span><span class='watch'>{watch}</span></button></li>"
            for prompt, kind, watch in _EXAMPLES
        )
        pair = self.page.pool.default.id
        parts = {"app": __version__, "heads": self._heads_before(pair), "examples": examples}
        template = (_HERE / "transcript.html").read_text("utf-8")
        for name, value in parts.items():
            template = template.replace(f"[{name}]", _inert(value))
        return template

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        visitor, page = self.visitor, self.transcript
        asked: set[Any] = {*visitor.held, *self.sidebar.widgets}
        at_once: dict[str, Any] = {"queue": False, "trigger_mode": "multiple", **QUIET}
        asking = page.ask(self._ask, asked, None, trigger_mode="multiple", **MODELS, **QUIET)
        # What follows by `then` runs only when nothing was raised.
        settled = asking.then(
            self._settled,
            {visitor.session, self.sidebar.pair, self.sidebar.framing_post},
            [visitor.session, self.sidebar.switches, self.sidebar.framing_post, self.sidebar.bare],
            **at_once,
        )
        settled.then(None, None, None, js="() => window.sameSeed.transcript.settled()")
        asking.failure(None, None, None, js="() => window.sameSeed.transcript.failed()")
        visitor.on_stop(page.halt, NAME)
        acting = page.act(self._act, visitor.held, self.answer, postprocess=False, **at_once)
        acting.then(None, None, None, js="() => window.sameSeed.transcript.acted()")
        acting.failure(None, None, None, js="() => window.sameSeed.transcript.acted(true)")
        adjusting = page.adjust(self._adjust, None, [self.sidebar.seed, self.sidebar.framing_base], **at_once)
        adjusting.then(None, None, None, js="() => window.sameSeed.transcript.adjusted()")
        page.fresh(self._new, visitor.held, visitor.outputs, **at_once)
        self.pace.click(_set_pace, visitor.session, None, **at_once)
        offered = [self.answer, self.sidebar.switches]
        self.sidebar.pair.change(self._choose_pair, self.sidebar.pair, offered, **at_once)

    def _ask(self, values: Values, event: gr.EventData) -> None:
        """One turn, told to the page line by line; a page that is closed ends it."""
        page = stream.get()
        assert page is not None, "asked for in no event of Gradio's"
        with closing(self._lines(values, event, lambda: page.is_behind)) as lines:
            for line in lines:
                if not page.tell(line):
                    return

    def _lines(
        self, values: Values, event: gr.EventData, behind: Callable[[], bool] = lambda: False
    ) -> Generator[Line, None, None]:
        """One turn: the row, what is new in each view, and the row that stays. While the page is `behind` it is told nothing.

        The event says `prompt` and `at`, the turn whose place it takes, or `again` to run turn `at` again, or what turn `at`
        suggests (see `session.suggested`).
        """
        asked: dict[str, Any] = event._data
        held = self.visitor.of(values)
        before, versions = held.records, held.versions or Versions()
        at = _turn(asked.get("at"), len(before))
        suggested = any(name in asked for name in ("branch", "handover", "dial"))
        again = bool(asked.get("again") or suggested) and at < len(before)
        prompt = before[at].turn.prompt if again else str(asked.get("prompt") or "")
        blind: Side | None = secrets.choice(SIDES) if asked.get("blind") is True else None
        log = Log(at, prompt, blind)
        if not again and "prompt" not in asked:
            yield log.end(error="This turn is no longer there.", box=None)
            return
        work = held.begin(NAME)
        if work is None:
            yield log.end(error=BUSY, box=None if again else prompt)
            return
        views = heads = None
        self._under_way.add(work)
        try:
            choices = self.sidebar.read(values)
            shared = held.opened.shared if held.opened else None
            own: dict[str, Any] = {
                "stop": work,
                "slower": lambda: max(held.slower, len(self._under_way) / _AT_FULL_PACE),
            }
            how = {"shared": shared, **own}
            if suggested and again:
                views = session.suggested(self.page.pool, before, at, asked, **own)
            elif again:
                views = session.retry(self.page.pool, before, at, choices, **how)
            else:
                views = session.compare(self.page.pool, before[:at], prompt, choices, instead_of=before, **how)
            for step in views:
                view = step
                if view.busy and behind():
                    continue
                if view.live is None and view.busy:
                    yield log.waiting(view.notice)
                elif view.live is not None and view.busy:
                    heads = self._heads(view.live.models, before, at, blind, True) if heads is None else heads
                    yield log.view(view.live, heads)
                else:
                    view = session.blinded(view, at, blind)
                    if view.changed:
                        held.follow(view.chat)
                    held.end(NAME, work)  # before the page may ask again
                    yield log.end(**self._end(held, at, versions, view))
        except UserError as error:
            yield log.end(error=str(error), box=None if again else prompt)
        finally:
            if views is not None:
                views.close()  # a closed tab closes this generator, and with it both replies
            self._under_way.discard(work)
            held.end(NAME, work)

    def _end(self, held: Session, at: int, before: Versions, view: session.View) -> dict[str, Any]:
        """How a turn ended: the row that stays and all that goes with it, or why there is none."""
        if not view.changed or view.live is None:
            return {"error": view.notice, "box": view.box, "full": view.full and bool(before.chat)}
        live, hidden = view.live, view.chat[at].hidden
        same = ""
        if at < len(before.chat) and session.same_run(before.chat, view.chat, at):
            same = _SAME + (_OTHERS if live.comparison.sampling.temperature else "")
        said = _BLIND if hidden else " ".join(filter(None, (view.notice, live.caveats, same)))
        first = not said and not before.chat
        told: dict[str, Any] = {
            "end": self._row(held, view.chat, at, live.ends),
            "rest": len(view.chat) - at - 1,  # turns behind it that stay
            "said": said or render.announcement(live.snapshot),
            "tone": view.tone if said else "unseen",
            "look": _WATCH.get(live.comparison.prompt, _LOOK) if first else "",
            "keep": self.visitor.keep(held),
            "banner": _banner(view.banner),
            "elsewhere": held.elsewhere,
        }
        if (lost := len(before.chat) - len(view.chat)) > 0:
            told["back"] = {"turn": at, "versions": before.places(at), "lost": lost}
        return told

    def _settled(self, values: Values) -> Update:
        """The models are in memory now, so whether they have a chat template, and what it reads, is known."""
        chosen = values[self.sidebar.pair]
        read = session.switches_of(self.page.pool, chosen) if self._known(chosen) else None
        update = {self.visitor.session: values[self.visitor.session]}
        if read is None:
            return update
        return update | self.sidebar.offer(read) | self.sidebar.fit(chosen, values[self.sidebar.framing_post])

    def _known(self, pair: str) -> bool:
        return pair in {each.id for each in self.page.pool.pairs}

    def _adjust(self, event: gr.EventData) -> list[Any]:
        """Another seed, or another framing of the base side, before a turn is run again."""
        seed, framing = event._data.get("seed"), event._data.get("framing_base")
        return [seed if type(seed) is int else gr.skip(), "transcript" if framing == "transcript" else gr.skip()]

    def _new(self, values: Values, event: gr.EventData) -> Update:
        """A new chat, with the last turn in it where the event asks to `carry` it."""
        held = self.visitor.of(values)
        return self._told(error=BUSY) if held.busy(NAME) else self.visitor.new(held, event._data.get("carry") is True)

    def _choose_pair(self, id: str) -> Update:
        return self._told(heads=self._heads_before(id)) | self.sidebar.offer(self.sidebar.read_by(id))

    # --- everything else that the page can ask for -----------------------------------------------------

    def _act(self, values: Values, event: gr.EventData) -> str:
        held, asked = self.visitor.of(values), event._data
        try:
            told = self._do(held, str(asked.get("do")), asked)
        except UserError as error:
            told = {"error": str(error)}
        return self._line(**told)

    def _do(self, held: Session, do: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the script is told about one action.

        Raises:
            UserError: it cannot be done; the sentence says why.
        """
        versions, chat, turn = held.versions or Versions(), held.records, _turn(asked.get("turn"), -1)
        if do == "version":
            _idle(held)
            wanted = asked.get("versions")
            listed = wanted if isinstance(wanted, list) else []
            held.versions = versions.show(turn, *(to for to in listed if isinstance(to, int)))
            return self._chat(held, turn) | {"keep": self.visitor.keep(held), "turn": turn}
        if not 0 <= turn < len(chat):
            raise UserError("This turn is no longer there.")
        if do == "earlier":
            end = _turn(asked.get("end"), len(chat))
            start = max(turn, render.first_of(chat, end))
            told = {"earlier": render.gap(turn, start) + self._rows(held, start, end), "turn": turn}
            return told | {"notice": f"Turns {start + 1:,} to {end:,} are shown."}
        if do == "mark" and asked.get("value") in get_args(Mark):
            _idle(held)
            held.follow(session.mark(chat, turn, asked["value"]))
            told = {"marked": [turn, held.records[turn].mark], "keep": self.visitor.keep(held)}
            if chat[turn].blind:
                told["row"] = self._row(held, held.records, turn, session.ends_of(self.page.pool, held.records)[turn])
            return told | {"notice": session.tally(held.records), "turn": turn}
        if do == "delete":
            _idle(held)
            held.follow(chat[:turn])
            back = {"turn": turn, "versions": versions.places(turn), "lost": len(chat) - turn}
            return self._chat(held) | {"keep": self.visitor.keep(held), "back": back}
        if do == "copy" and asked.get("side") in SIDES:
            return {"copy": chat[turn].turn.reply(asked["side"]), "notice": "Copied."}
        if do == "link":
            parcel, said = self.page.delivery.link(links.of_turn(chat, turn), f"turn {turn + 1}")
            return {"parcel": parcel, "notice": said}
        if do == "receipt":
            parcel, _ = delivery.receipt(receipts.of_turn(chat, turn))
            said = f"The receipt of turn {turn + 1} is {parcel['name']}; drop it on the Receipts tab to run it again."
            return {"parcel": parcel, "notice": said}
        if do == "sent":
            return {"turn": turn, "sent": render.sent(session.prompts_of(self.page.pool, chat, turn))}
        if do == "code":
            address = str(asked.get("address") or reproduce.ADDRESS)
            return {"turn": turn, "code": render.code(reproduce.code(chat, turn, address))}
        if do == "lens":
            lenses = session.lenses_of(self.page.pool, chat, turn)
            given = {side: len(render.prefill_of(chat[turn], side)) for side in SIDES}
            return {
                "turn": turn,
                "tokens": {side: render.tokens(read) for side, read in lenses.items()},
                "given": given,
            }
        return {}

    # --- what the script is told ------------------------------------------------------------------------

    def _redraw(self, held: Session) -> Update:
        """The visitor's conversation as it stands."""
        view = session.stands(held)
        chat, shared = self._chat(held), self.visitor.as_shared(held)
        if shared is not None:
            chat["rows"] += self._shared_row(held, shared)
        told = {"box": view.box, "banner": _banner(view.banner), "elsewhere": held.elsewhere}
        return self._told(**chat, **told, **{"error" if view.notice else "notice": view.notice})

    def _shared_row(self, held: Session, shared: Record) -> str:
        chat, turn = (*held.records, shared), len(held.records)
        heads = self._heads(session.models_of(shared, self.sidebar.name_of), chat, turn)
        return heads + render.shared_row(turn, shared, session.begun_of(chat, turn, self.sidebar.tokenizers))

    def _chat(self, held: Session, turn: int = -1) -> dict[str, Any]:
        """The newest turns, and those around `turn` where there is such a one; the others where somebody asks for them."""
        chat = held.records
        first = render.first_of(chat, len(chat))
        drawn = [(first, len(chat))]
        if 0 <= turn < first:
            end = min(turn + _BEHIND, first)
            drawn.insert(0, (min(turn, render.first_of(chat, end)), end))
        rows, before = "", 0
        for start, end in drawn:
            rows += render.gap(before, start) + self._rows(held, start, end)
            before = end
        return {"rows": rows}

    def _rows(self, held: Session, start: int, end: int) -> str:
        """Some turns; the first of them names its models also where those of the turn before, which is not drawn, wrote it."""
        chat = held.records
        ends = session.ends_of(self.page.pool, chat)
        return "".join(self._row(held, chat, turn, ends[turn], turn == start) for turn in range(start, end))

    def _row(self, held: Session, chat: Chat, turn: int, ends: Mapping[Side, str], again: bool = False) -> str:
        """A turn, with the names of its models above it where they are not those of the turn before, or are said `again`."""
        record = chat[turn]
        models = session.models_of(record, self.sidebar.name_of)
        heads = self._heads(models, chat, turn, record.blind, record.hidden, again)
        begun = session.begun_of(chat, turn, self.sidebar.tokenizers)
        return heads + render.row(turn, record, ends, (held.versions or Versions()).count(turn), begun)

    def _heads(
        self,
        models: Mapping[Side, render.Model],
        chat: Chat,
        turn: int,
        blind: Side | None = None,
        hidden: bool = False,
        again: bool = False,
    ) -> str:
        """The names above a turn; none where those of the turn before wrote it. A blind turn has its own."""
        drawn = {side: render.model(side, model) for side, model in models.items()}
        if blind:
            return render.blind_heads(turn, render.order_of(blind), {} if hidden else drawn)
        before = session.models_of(chat[turn - 1], self.sidebar.name_of) if turn and not chat[turn - 1].blind else {}
        same = all(side in before and session.same_model(model, before[side]) for side, model in models.items())
        return "" if same and not again else render.heads(drawn, turn, same)

    def _heads_before(self, pair: str) -> str:
        """The names of a pair before anything was asked."""
        return "".join(render.model(side, render.Model(self.sidebar.name_of(pair, side))) for side in SIDES)

    def _told(self, **what: Any) -> Update:
        return {self.answer: self._line(**what)}

    def _line(self, **what: Any) -> str:
        # A "<" is escaped, so that the line is nobody's markup wherever it lands.
        return json.dumps({"serial": next(self._serial), "app": __version__, **what}, ensure_ascii=False).replace(
            "<", "\\u003c"
        )


def _turn(said: Any, otherwise: int) -> int:
    """The turn that the browser names, or `otherwise` where it names none that can be; never beyond it."""
    turn = said if isinstance(said, int) and not isinstance(said, bool) and said >= 0 else otherwise
    return min(turn, otherwise) if otherwise >= 0 else turn


def _idle(held: Session) -> None:
    """Raises UserError while a reply is being written into the conversation."""
    if held.busy(NAME):
        raise UserError(BUSY)


def _banner(banner: session.Banner | None) -> list[str] | None:
    return [banner.text, banner.tone] if banner else None


def _inert(text: str) -> str:
    """Escaped HTML in which neither Handlebars nor a template string finds anything to run."""
    return "".join(f"&#{ord(letter)};" if letter in "{}$`\\" else letter for letter in text)


def _set_pace(held: Session, event: gr.EventData) -> None:
    """The browser says how far it has fallen behind (see pace.js)."""
    level = event._data.get("level")
    if isinstance(level, int) and 0 <= level <= 4:
        held.slower = 2**level
