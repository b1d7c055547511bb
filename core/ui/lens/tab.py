"""The Token lens tab: its widgets, and which session generator each button starts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ... import lens, links
from ...errors import UserError
from ...steps import Stop
from ...types import Chat, LensChoice, LensReport
from .. import delivery, markup
from ..delivery import Parcel
from ..room import MODELS, QUIET, Page, Update, Values, dropdown, slider, usable
from ..visitor import Session
from . import render, session
from .session import View

TITLE = "Token lens"
NAME = "lens"
NO_TURN = "Nothing to read yet: press Compare on the first tab."
_HERE = Path(__file__).parent

Start = Callable[[Chat, Values, Any, Stop], session.Views]  # the chat, what the widgets hold, what the event says


def _button(label: str, id: str, width: int, **how: Any) -> gr.Button:
    """One that can do nothing yet."""
    return gr.Button(label, elem_id=id, size="md", min_width=width, interactive=False, **how)


class Room:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, page: Page, tab: gr.Tab):
        self.page, self.visitor, self.tab = page, page.visitor, tab
        with gr.Row(elem_id="lens_ask"):
            self.turn = dropdown("Turn", "lens_turn", scale=3, min_width=180)
            self.side = gr.Radio(
                [("Base", "base"), ("Post-trained", "post")], value="post", label="Reply of", elem_id="lens_side"
            )
            self.context = gr.Radio(
                [("The same token ids", "identical"), ("Its own framing", "own")],
                value="identical",
                label="The other model reads",
                elem_id="lens_context",
            )
        with gr.Row(elem_id="lens_actions"):
            self.read = _button("Read this reply", "lens_read", 140, variant="primary")
            self.stop = _button("Stop", "lens_stop", 80)
            self.link = _button("Copy link", "lens_link", 90)
            self.json = _button("Save as JSON", "lens_json", 110)
            self.csv = _button("Save as CSV", "lens_csv", 110)
        self.why = gr.HTML(markup.notice(NO_TURN), elem_id="lens_why")
        self.notice = gr.HTML(markup.notice(""), elem_id="lens_notice")
        self.view = gr.HTML(
            "",
            html_template=(_HERE / "lens.html").read_text("utf-8"),
            js_on_load=(_HERE / "lens.js").read_text("utf-8"),
            apply_default_css=False,
            elem_id="lens",
        )
        with gr.Accordion("What if", open=True, elem_id="lens_what_if"):
            self._what_if()
        self.report = gr.State(None)  # the lens that is shown, as JSON
        self.made = gr.State(None)
        self.of_a_turn = [self.read, self.link, self.hand_over, self.dial, self.sweep, self.grid]
        self.visitor.on_change(self._redraw, [self.turn, self.side, self.context, self.why, *self.of_a_turn])

    def _what_if(self) -> None:
        with gr.Row(elem_classes="lens-row", equal_height=True):
            self.handed = slider("Tokens of the other model first (handover)", "lens_tokens", 1, 100, 5, 1)
            self.hand_over = _button("Hand over", "lens_hand_over", 130, scale=0)
        with gr.Row(elem_classes="lens-row", equal_height=True):
            costume = "From the base, 0, to the post-trained model, 1, and beyond (costume dial)"
            self.amount = slider(costume, "lens_amount", 0, 1.5, 0.5, 0.05)
            self.space = gr.Radio(
                [("Scores (logits)", "logits"), ("Weights", "weights")],
                value="logits",
                label="Mix their",
                elem_id="lens_space",
                min_width=180,
            )
            self.dial = _button("Turn the dial", "lens_dial", 130, scale=0)
            self.sweep = _button("All of it (sweep)", "lens_sweep", 140, scale=0)
        with gr.Row(elem_classes="lens-row"):
            self.grid = _button("Weights or template?", "lens_grid", 180, scale=0)
            self.open = _button("Open in Compare", "lens_open", 150, scale=0)
        self.what_if = gr.HTML(render.NOTHING, js_on_load=(_HERE / "what_if.js").read_text("utf-8"), elem_id="what_if")

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        visitor, pool = self.visitor, self.page.pool
        here = {*visitor.held, self.turn, self.side, self.context, self.report}
        asked = {*here, self.handed, self.amount, self.space}
        shown: list[Any] = [self.turn, self.side, self.context]
        for widget in shown:
            widget.change(None, shown, None, js="(...asked) => window.sameSeed.lens.asked(...asked)", **QUIET)
        saved = [self.json, self.csv]
        outputs = [self.view, self.report, *saved, self.what_if, self.made, self.open, self.notice, self.stop]
        once: dict[str, Any] = {"trigger_mode": "once", **MODELS, **QUIET}
        turns = [self.turn, self.why, *self.of_a_turn]
        self.tab.select(self._turns, {*visitor.held, self.turn}, turns, queue=False, **QUIET)

        def starts(begin: Callable[..., session.Views], *parts: Any) -> Start:
            """With the turn that is chosen and what `parts` hold."""
            return lambda chat, values, event, stop: begin(
                pool, chat, values[self.turn], *(values[part] for part in parts), stop
            )

        for listener, start in (
            (self.read.click, starts(session.read, self.side, self.context)),
            (self.hand_over.click, starts(session.hand_over, self.handed)),
            (self.dial.click, starts(session.dial, self.amount, self.space)),
            (self.sweep.click, starts(session.sweep, self.space)),
            (self.grid.click, starts(session.grid)),
            # A candidate of the card was pressed.
            (self.view.branch, lambda chat, values, event, stop: session.branch(pool, chat, event, stop)),
        ):
            listener(self._follow(start), asked, outputs, **once)
        visitor.on_stop(self.stop.click, NAME)
        open_ = visitor.if_idle(self._open, self.notice)
        self.open.click(open_, {*visitor.held, self.made}, [*visitor.outputs, self.notice], queue=False, **QUIET)
        for button, pack in ((self.link, self._pack_link), (self.json, self._pack_json), (self.csv, self._pack_table)):
            self.page.delivery.on(button.click, pack, here, self.notice)

    def _turns(self, values: Values) -> Update:
        return self._choices(self.visitor.of(values).records, values[self.turn])

    def _choices(self, chat: Chat, chosen: int | None = None) -> Update:
        """The turns, what can be pressed now that there are any, and the sentence why not while there are none."""
        names = [(f"{turn + 1}. {markup.short(record.turn.prompt, 60)}", turn) for turn, record in enumerate(chat)]
        kept = chosen if chosen is not None and chosen < len(chat) else None
        turn = gr.update(choices=names, value=kept if kept is not None else len(chat) - 1 if chat else None)
        return {self.turn: turn, self.why: markup.notice("" if chat else NO_TURN)} | usable(self.of_a_turn, bool(chat))

    def _redraw(self, held: Session) -> Update:
        """The turns of the conversation; a link to a lens that was opened sets it to what was looked at."""
        update = self._choices(held.records)
        if held.opened is not None and held.opened.shared.lens is not None:
            update |= {self.side: held.opened.shared.lens.side, self.context: held.opened.shared.lens.context}
        return update

    def _follow(self, start: Start) -> Callable[..., Iterator[Update]]:
        def run(values: Values, event: gr.EventData) -> Iterator[Update]:
            held = self.visitor.of(values)
            stop = held.restart(NAME)
            views = start(held.records, values, event._data, stop)
            try:
                yield {self.stop: gr.update(interactive=True), self.notice: markup.notice("")}
                for view in views:
                    yield self._show(view)
                yield {self.stop: gr.update(interactive=False)}
            finally:
                views.close()  # a closed tab closes this generator, and with it whatever is under way
                held.end(NAME, stop)

        return run

    def _show(self, view: View) -> Update:
        update: Update = {self.notice: markup.notice(view.notice, view.tone)}
        if view.lines is not None:
            update |= {self.view: view.lines, self.report: view.report}
            update |= usable([self.json, self.csv], view.report is not None)
        if view.what_if is not None:
            update |= {self.what_if: view.what_if, self.made: view.made}
            update |= usable([self.open], view.made is not None)
        return update

    def _open(self, values: Values) -> Update:
        held = self.visitor.of(values)
        try:
            chat = session.made_chat(held.records, values[self.made])
        except UserError as error:
            return {self.notice: markup.notice(str(error), "error")}
        return self.visitor.replace(held, chat)

    # --- links and files --------------------------------------------------------------------------------

    def _pack_link(self, values: Values, event: Any) -> tuple[Parcel, str]:
        chat, turn = self.visitor.of(values).records, values[self.turn]
        session.turn_of(chat, turn)
        lens_ = LensChoice(side=values[self.side], context=values[self.context])
        return self.page.delivery.link(links.of_turn(chat, turn, lens_), f"this lens on turn {turn + 1}")

    def _pack_json(self, values: Values, event: Any) -> tuple[Parcel, str]:
        return delivery.file("token-lens.json", "application/json", self._read_report(values).model_dump_json(indent=2))

    def _pack_table(self, values: Values, event: Any) -> tuple[Parcel, str]:
        return delivery.file("token-lens.csv", "text/csv", lens.table(self._read_report(values).lens))

    def _read_report(self, values: Values) -> LensReport:
        if values[self.report] is None:
            raise UserError("Read a reply to its end first; then it can be saved.")
        return LensReport.model_validate_json(values[self.report])
