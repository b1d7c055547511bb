"""The Compare tab: its widgets, and which session generator each button starts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from ... import links, receipts
from ...errors import UserError
from ...steps import Stop
from ...types import SIDES, Chat, Mark, Reply, Side
from .. import delivery, markup
from ..delivery import Parcel
from ..room import MODELS, QUIET, Page, Update, Values
from ..sidebar import Choices
from ..visitor import BUSY, Session
from . import render, session

TITLE = "Compare"
NAME = "compare"
_HERE = Path(__file__).parent
_PLACEHOLDER = {
    "base": "<p class='placeholder-text'><b>Base model</b>Predicts the next token. It was never taught to answer you.</p>",
    "post": "<p class='placeholder-text'><b>Post-trained sibling</b>The same weights, then taught to follow instructions.</p>",
}

Start = Callable[[Session, Choices, Stop], session.Views]


@dataclass
class Pane:
    head: gr.HTML
    chat: gr.Chatbot
    strip: gr.HTML


class Room:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, page: Page, tab: gr.Tab):
        self.page, self.visitor, self.sidebar = page, page.visitor, page.visitor.sidebar
        with gr.Row(elem_id="banner_row"):
            self.banner = gr.HTML("", elem_id="banner")
            self.elsewhere = gr.Button("", size="sm", elem_id="back", min_width=80, visible=False)
        with gr.Row(elem_id="panes", equal_height=True):
            self.panes: dict[Side, Pane] = {side: self._pane(side) for side in SIDES}
        self.notice = gr.HTML(markup.notice(""), elem_id="notice")
        with gr.Row(elem_id="composer"):
            self.prompt = gr.Textbox(
                show_label=False,
                label="Prompt",
                placeholder="Ask both models the same thing",
                lines=1,
                max_lines=6,
                submit_btn="Compare",
                stop_btn=False,
                elem_id="prompt",
                scale=8,
            )
        with gr.Row(elem_id="actions"):
            self.retry, self.edit, self.undo, self.new = (
                gr.Button(label, size="sm", elem_id=id, min_width=80)
                for label, id in (
                    ("Retry turn", "retry"),
                    ("Edit last prompt", "edit"),
                    ("Undo turn", "undo"),
                    ("New chat", "new"),
                )
            )
        self.pace = self._script("pace.js", visible="hidden", elem_id="pace")
        self.turns = self._script("turns.js", elem_id="turns")
        with gr.Accordion("Exactly what was sent", open=False, elem_id="sent_box"):
            self.sent = gr.HTML(render.NOTHING_SENT, elem_id="sent")
        self.visitor.on_change(self._redraw, [*self.outputs, self.elsewhere])

    def _script(self, name: str, **properties: Any) -> gr.HTML:
        return gr.HTML("", js_on_load=(_HERE / name).read_text("utf-8"), apply_default_css=False, **properties)

    def _pane(self, side: Side) -> Pane:
        with gr.Column(elem_classes=["pane", side], min_width=320):
            return Pane(
                head=gr.HTML(
                    render.head(self.sidebar.name_of(self.page.pool.default.id, side), side), elem_id=f"head_{side}"
                ),
                chat=gr.Chatbot(
                    elem_id=f"chat_{side}",
                    show_label=False,
                    container=False,
                    height="100%",
                    buttons=["copy"],
                    feedback_options=None,
                    latex_delimiters=[],
                    allow_tags=False,
                    layout="panel",
                    placeholder=_PLACEHOLDER[side],
                    group_consecutive_messages=False,
                    render_markdown=side == "post",
                ),
                strip=gr.HTML(render.strip(side, Reply()), elem_id=f"strip_{side}"),
            )

    @property
    def _shown(self) -> list[gr.Component]:
        return [part for pane in self.panes.values() for part in (pane.head, pane.chat, pane.strip)]

    @property
    def outputs(self) -> list[gr.Component]:
        """Everything that a view can change."""
        other = [
            self.notice,
            self.prompt,
            self.sent,
            self.banner,
            self.turns,
            self.visitor.session,
            self.visitor.keeper,
            self.sidebar.switches,
        ]
        return [*self._shown, *other, *self._changers]

    @property
    def _changers(self) -> list[gr.Button]:
        """The buttons that change the conversation, so they wait while a reply is being written."""
        return [self.retry, self.edit, self.undo, self.new]

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        visitor, outputs = self.visitor, self.outputs
        asked: set[Any] = {self.prompt, *visitor.held, *self.sidebar.widgets}
        # Not "once", which drops what is sent in the moment between the last view and the end of the event.
        every: dict[str, Any] = {"trigger_mode": "multiple", **MODELS, **QUIET}
        at_once: dict[str, Any] = {"queue": False, **QUIET}
        self.prompt.submit(self._compare, asked, outputs, **every)
        self.retry.click(self._retry, asked, outputs, **every)
        self.pace.click(_set_pace, visitor.session, None, **at_once)
        visitor.on_stop(self.prompt.stop, NAME)
        self.edit.click(visitor.if_idle(self._edit, self.notice), visitor.held, outputs, **at_once)
        self.undo.click(visitor.if_idle(self._undo, self.notice), visitor.held, outputs, **at_once)
        new = visitor.if_idle(lambda values: visitor.new(visitor.of(values)), self.notice)
        self.new.click(new, visitor.held, visitor.outputs, **at_once)
        self.elsewhere.click(None, None, None, js="() => window.sameSeed.visitor.elsewhere()")
        outputs_of_pair = [*self._shown, self.sidebar.switches]
        self.sidebar.pair.change(self._choose_pair, self.sidebar.pair, outputs_of_pair, **at_once)
        self.turns.mark(self._mark, visitor.held, outputs, **at_once)
        self.page.delivery.on(self.turns.deliver, self._pack, visitor.held, self.notice)

    def _compare(self, values: Values) -> Iterator[Update]:
        def start(held: Session, choices: Choices, stop: Stop) -> session.Views:
            return session.compare(self.page.pool, held.records, values[self.prompt] or "", choices, **_how(held, stop))

        yield from self._follow(values, start)

    def _retry(self, values: Values) -> Iterator[Update]:
        def start(held: Session, choices: Choices, stop: Stop) -> session.Views:
            return session.retry(self.page.pool, held.records, choices, **_how(held, stop))

        yield from self._follow(values, start)

    def _follow(self, values: Values, start: Start) -> Iterator[Update]:
        """Show every view of a session generator; a mistake in the settings is a sentence and nothing else."""
        held = self.visitor.of(values)
        work = held.begin(NAME)
        if work is None:
            yield {self.notice: BUSY}
            return
        views, first = None, True
        try:
            views = start(held, self.sidebar.read(values), work)
            for view in views:
                if view.changed:
                    held.chat = view.chat
                if not view.busy:
                    held.end(NAME, work)  # before the page has its buttons back
                yield self._show(view, first) | (self.visitor.keep(held) if view.changed else {})
                first = view.live is None
        except UserError as error:
            yield {self.notice: markup.notice(str(error), "error")}
        except Exception:
            yield self._idle()  # a mistake of ours must not leave the page without its buttons
            raise
        finally:
            if views is not None:
                views.close()  # a closed tab closes this generator, and with it both replies
            held.end(NAME, work)

    def _idle(self) -> Update:
        ready = gr.update(submit_btn="Compare", stop_btn=False)
        return {self.prompt: ready} | {button: gr.update(interactive=True) for button in self._changers}

    def _edit(self, values: Values) -> Update:
        return self._change(values, session.edit)

    def _undo(self, values: Values) -> Update:
        return self._change(values, session.undo)

    def _change(self, values: Values, act: Callable[[Chat], session.View]) -> Update:
        held = self.visitor.of(values)
        view = act(held.records)
        held.chat = view.chat
        return self._show(view, first=True) | (self.visitor.keep(held) if view.changed else {})

    def _mark(self, values: Values, event: gr.EventData) -> Update:
        turn, value = event._data.get("turn"), event._data.get("value")
        if self.visitor.of(values).busy(NAME):
            busy = "Wait until both replies have ended, or stop them; then mark the better one."
            return {self.notice: markup.notice(busy, "error")}
        if not isinstance(turn, int) or value not in get_args(Mark):
            return {self.notice: markup.notice("")}
        return self._change(values, lambda chat: session.mark(chat, turn, value))

    def _pack(self, values: Values, asked: Any) -> tuple[Parcel, str]:
        """The link or the receipt of one turn. Raises UserError when it cannot be had."""
        chat, turn = self.visitor.of(values).records, asked.get("turn")
        if not isinstance(turn, int) or not 0 <= turn < len(chat):
            raise UserError("This turn is no longer there.")
        if asked.get("do") == "link":
            return self.page.delivery.link(links.of_turn(chat, turn), f"turn {turn + 1}")
        parcel, _ = delivery.receipt(receipts.of_turn(chat, turn))
        return (
            parcel,
            f"The receipt of turn {turn + 1} is {parcel['name']}; drop it on the Receipts tab to run it again.",
        )

    def _choose_pair(self, id: str) -> list[Any]:
        panes = [
            part
            for side in SIDES
            for part in (render.head(self.sidebar.name_of(id, side), side), gr.skip(), render.strip(side, Reply()))
        ]
        return [*panes, *self.sidebar.offer(self.sidebar.read_by(id)).values()]

    # --- a view on the page -------------------------------------------------------------------------

    def _redraw(self, held: Session) -> Update:
        """The visitor's conversation as it stands."""
        elsewhere = gr.update(value=held.elsewhere, visible=bool(held.elsewhere))
        return self._show(session.stands(held), first=True) | {self.elsewhere: elsewhere}

    def _show(self, view: session.View, first: bool) -> Update:
        """`first` is False for the views in the middle of a reply, which change the panes only."""
        update: Update = {}
        for side in SIDES:
            update |= self._show_side(view, side)
        if view.busy and not first:
            return update
        update |= {
            self.notice: self._notice(view),
            self.prompt: self._prompt_box(view),
            self.sent: self._sent(view),
            self.turns: render.turns(view.chat),
            self.banner: render.banner(view.banner.text, view.banner.tone) if view.banner else "",
        }
        if view.live is not None:
            update |= self.sidebar.offer(view.live.switches)
        return update | {button: gr.update(interactive=not view.busy) for button in self._changers}

    def _show_side(self, view: session.View, side: Side) -> Update:
        pane = self.panes[side]
        if view.live is not None:
            live, reply = view.live, view.live.snapshot.reply(side)
            return {
                pane.head: render.head(live.names[side], side),
                pane.chat: render.chat_messages(view.chat, side, live.prompt if view.busy else None, reply),
                pane.strip: render.strip(side, reply, live.weights[side], live.deviations[side]),
            }
        messages = render.chat_messages(view.chat, side)
        if not view.chat:
            return {pane.chat: messages, pane.strip: render.strip(side, Reply())}
        last = view.chat[-1]
        receipt = last.receipt(side)
        checked = (receipt.weights_sha256, receipt.engine.deviation) if receipt else ()
        return {
            pane.head: render.head(receipt.checkpoint.name if receipt else self.sidebar.name_of(last.pair, side), side),
            pane.chat: messages,
            pane.strip: render.strip(side, render.finished_reply(last, side), *checked),
        }

    def _notice(self, view: session.View) -> str:
        if view.banner and not view.notice and view.live is None:
            return markup.notice(view.banner.text, "spoken")
        if view.notice or view.busy or view.live is None:
            return markup.notice(view.notice, view.tone)
        if view.live.caveats:
            return markup.notice(view.live.caveats)
        said = f"{view.banner.text} " if view.banner else ""
        return markup.notice(said + render.announcement(view.live.snapshot), "spoken")

    def _prompt_box(self, view: session.View) -> Any:
        value: dict[str, Any] = {} if view.box is None else {"value": view.box}
        if view.busy:
            return gr.update(submit_btn=False, stop_btn="Stop", **value)
        return gr.update(submit_btn="Compare", stop_btn=False, **value)

    def _sent(self, view: session.View) -> str:
        if view.live is not None:
            return render.sent(view.live.sent)
        if not view.chat:
            return render.NOTHING_SENT
        try:
            rebuilt = session.prompts_of_last(self.page.pool, view.chat)
        except UserError as error:
            return render.not_sent(str(error))
        return render.sent(rebuilt) if rebuilt else render.REBUILT_LATER


def _how(held: Session, stop: Stop) -> dict[str, Any]:
    shared = held.opened.shared if held.opened else None
    return {"shared": shared, "stop": stop, "slower": lambda: held.slower}


def _set_pace(held: Session, event: gr.EventData) -> None:
    """The browser says how far it has fallen behind (see pace.js)."""
    level = event._data.get("level")
    if isinstance(level, int) and 0 <= level <= 4:
        held.slower = 2**level
