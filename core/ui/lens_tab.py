"""The Token lens tab: its widgets, and which session generator each button starts."""

import json
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from .. import lens
from ..errors import UserError
from ..links import Shared
from ..pool import Pool
from ..types import LensChoice, LensReport
from . import lens_render, lens_session, look, render, session
from .compare_tab import MODELS, CompareTab
from .lens_session import Stop, View

Values = dict[gr.Component, Any]
Update = dict[Any, Any]  # a part of the page -> what it becomes
Views = Generator[View, None, None]


class LensTab:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, pool: Pool, compare: CompareTab):
        self.pool, self.compare = pool, compare
        with gr.Row(elem_id="lens_ask"):
            self.turn = gr.Dropdown([], label="Turn", elem_id="lens_turn", filterable=False, scale=3, min_width=180)
            self.side = gr.Radio(
                [("Base", "base"), ("Post-trained", "post")], value="post", label="Reply of", elem_id="lens_side"
            )
            self.context = gr.Radio(
                [("The same token ids", "identical"), ("Its own framing", "own")],
                value="identical",
                label="The sibling reads",
                elem_id="lens_context",
            )
        with gr.Row(elem_id="lens_actions"):
            self.read = gr.Button("Read this reply", variant="primary", elem_id="lens_read", size="md", min_width=140)
            self.stop = gr.Button("Stop", elem_id="lens_stop", size="md", min_width=80, interactive=False)
            self.link = gr.Button("Copy link", elem_id="lens_link", size="md", min_width=90)
            self.json = gr.Button("Save as JSON", size="md", elem_id="lens_json", min_width=110)
            self.csv = gr.Button("Save as CSV", size="md", elem_id="lens_csv", min_width=110)
        self.notice = gr.HTML(render.notice(""), elem_id="lens_notice")
        self.view = gr.HTML(
            "", html_template=look.LENS, js_on_load=look.LENS_SCRIPT, apply_default_css=False, elem_id="lens"
        )
        with gr.Accordion("What if", open=True, elem_id="lens_what_if"):
            self._what_if()
        self.report = gr.State(None, time_to_live=7200)  # the lens that is shown, as JSON
        self.shown = gr.State(None, time_to_live=7200)  # the turn that it is of
        self.made = gr.State(None, time_to_live=7200)
        self.stopper = gr.State(None, time_to_live=7200)
        self.outbox = gr.Textbox(visible=False)  # what page.js should copy or save

    def _what_if(self) -> None:
        with gr.Row(elem_classes="lens-row", equal_height=True):
            self.handed = gr.Slider(
                1,
                100,
                5,
                step=1,
                label="Handover: tokens that the other model writes first",
                elem_id="lens_tokens",
                buttons=[],
            )
            self.hand_over = gr.Button("Hand over", elem_id="lens_hand_over", size="md", min_width=130, scale=0)
        with gr.Row(elem_classes="lens-row", equal_height=True):
            self.amount = gr.Slider(
                0,
                1.5,
                0.5,
                step=0.05,
                label="Costume dial: 0 is the base, 1 the post-trained model",
                elem_id="lens_amount",
                buttons=[],
            )
            self.space = gr.Radio(
                [("Logits", "logits"), ("Weights", "weights")],
                value="logits",
                label="Mix their",
                elem_id="lens_space",
                min_width=180,
            )
            self.dial = gr.Button("Turn the dial", elem_id="lens_dial", size="md", min_width=130, scale=0)
            self.sweep = gr.Button("Sweep", elem_id="lens_sweep", size="md", min_width=100, scale=0)
        with gr.Row(elem_classes="lens-row"):
            self.grid = gr.Button("Weights or template?", elem_id="lens_grid", size="md", min_width=180, scale=0)
            self.open = gr.Button("Open in Compare", elem_id="lens_open", size="md", min_width=150, scale=0)
        self.what_if = gr.HTML(lens_render.NOTHING, elem_id="what_if")

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, tab: gr.Tab, tabs: gr.Tabs) -> None:
        self.tabs = tabs
        chat = self.compare.chat
        asked: set[gr.blocks.Block] = {
            chat,
            self.turn,
            self.side,
            self.context,
            self.report,
            self.shown,
            self.handed,
            self.amount,
            self.space,
        }
        outputs = [self.view, self.report, self.shown, self.what_if, self.made, self.notice, self.stopper, self.stop]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        once: dict[str, Any] = {"trigger_mode": "once", **MODELS, **quiet}
        tab.select(self._turns, [chat, self.turn], self.turn, queue=False, **quiet)
        for button, start in (
            (self.read, self._start_read),
            (self.hand_over, self._start_handover),
            (self.dial, self._start_dial),
            (self.sweep, self._start_sweep),
            (self.grid, self._start_grid),
        ):
            button.click(self._follow(start), asked, outputs, **once)
        self.view.branch(self._branch, asked, outputs, **once)
        self.stop.click(lambda stopper: stopper.stop() if stopper else None, self.stopper, None, queue=False, **quiet)
        opened = [*self.compare.outputs, self.notice, tabs]
        open_ = self.compare.if_idle(self._open)
        self.open.click(open_, {chat, self.made, self.compare.underway}, opened, queue=False, **quiet)
        here: set[gr.blocks.Block] = {chat, self.turn, self.side, self.context, self.report}
        for button, pack in ((self.link, self._pack_link), (self.json, self._pack_json), (self.csv, self._pack_table)):
            packed = button.click(self._packing(pack), here, [self.outbox, self.notice], queue=False, **quiet)
            packed.then(None, self.outbox, None, js=look.DELIVER)
        self.compare.arrived.then(self._arrive, self.compare.shared, [self.side, self.context], queue=False, **quiet)

    def _turns(self, chat: session.Chat, chosen: int | None) -> Any:
        names = [(f"{turn + 1}. {_short(record.turn.prompt)}", turn) for turn, record in enumerate(chat)]
        kept = chosen if chosen is not None and chosen < len(chat) else None
        return gr.update(choices=names, value=kept if kept is not None else len(chat) - 1 if chat else None)

    # --- what the buttons start -----------------------------------------------------------------------

    def _start_read(self, values: Values, stop: Stop) -> Views:
        return lens_session.read(
            self.pool, values[self.compare.chat], values[self.turn], values[self.side], values[self.context], stop
        )

    def _start_handover(self, values: Values, stop: Stop) -> Views:
        tokens = int(values[self.handed] or 0)
        return lens_session.hand_over(self.pool, values[self.compare.chat], values[self.turn], tokens, stop)

    def _start_dial(self, values: Values, stop: Stop) -> Views:
        amount = float(values[self.amount] or 0)
        return lens_session.dial(
            self.pool, values[self.compare.chat], values[self.turn], amount, values[self.space], stop
        )

    def _start_sweep(self, values: Values, stop: Stop) -> Views:
        return lens_session.sweep(self.pool, values[self.compare.chat], values[self.turn], values[self.space], stop)

    def _start_grid(self, values: Values, stop: Stop) -> Views:
        return lens_session.grid(self.pool, values[self.compare.chat], values[self.turn], stop)

    def _branch(self, values: Values, event: gr.EventData) -> Iterator[Update]:
        """A candidate of the card was pressed. What the browser says is checked like any other input."""
        step, token = event._data.get("step"), event._data.get("token")

        def start(values: Values, stop: Stop) -> Views:
            return lens_session.branch(
                self.pool, values[self.compare.chat], values[self.report], values[self.shown], step, token, stop
            )

        yield from self._follow(start)(values)

    def _follow(self, start: Callable[[Values, Stop], Views]) -> Callable[[Values], Iterator[Update]]:
        def run(values: Values) -> Iterator[Update]:
            stop = Stop()
            views = start(values, stop)
            try:
                yield {self.stopper: stop, self.stop: gr.update(interactive=True), self.notice: render.notice("")}
                for view in views:
                    yield self._show(view, values)
                yield {self.stopper: None, self.stop: gr.update(interactive=False)}
            finally:
                views.close()  # a closed tab closes this generator, and with it whatever is under way

        return run

    def _show(self, view: View, values: Values) -> Update:
        update: Update = {self.notice: render.notice(view.notice, view.tone)}
        if view.lines is not None:
            update |= {self.view: view.lines, self.report: view.report, self.shown: values[self.turn]}
        if view.what_if is not None:
            update |= {self.what_if: view.what_if, self.made: view.made}
        return update

    def _open(self, values: Values) -> Update:
        try:
            chat = lens_session.made_chat(values[self.compare.chat], values[self.made])
        except UserError as error:
            return {self.notice: render.notice(str(error), "error")}
        return self.compare.show(session.View(chat, saved=True)) | {self.tabs: gr.update(selected="compare")}

    # --- links and files --------------------------------------------------------------------------------

    def _packing(self, pack: Callable[[Values], tuple[dict[str, str], str]]) -> Callable[[Values], Update]:
        """A parcel for page.js and a sentence, or a sentence alone."""

        def packed(values: Values) -> Update:
            try:
                parcel, said = pack(values)
            except UserError as error:
                return {self.outbox: "", self.notice: render.notice(str(error), "error")}
            return {self.outbox: json.dumps(parcel), self.notice: render.notice(said)}

        return packed

    def _pack_link(self, values: Values) -> tuple[dict[str, str], str]:
        chat, turn = values[self.compare.chat], values[self.turn]
        lens_session.turn_of(chat, turn)
        return self.compare.link(chat, turn, LensChoice(side=values[self.side], context=values[self.context]))

    def _pack_json(self, values: Values) -> tuple[dict[str, str], str]:
        return _file("token-lens.json", "application/json", self._read_report(values).model_dump_json(indent=2))

    def _pack_table(self, values: Values) -> tuple[dict[str, str], str]:
        return _file("token-lens.csv", "text/csv", lens.table(self._read_report(values).lens))

    def _read_report(self, values: Values) -> LensReport:
        if values[self.report] is None:
            raise UserError("Read a reply to its end first; then it can be saved.")
        return LensReport.model_validate_json(values[self.report])

    def _arrive(self, shared: Shared | None) -> list[Any]:
        """A link to a lens was opened: it is set here to what was looked at."""
        if shared is None or shared.lens is None:
            return [gr.skip(), gr.skip()]
        return [shared.lens.side, shared.lens.context]


def _file(name: str, type: str, text: str) -> tuple[dict[str, str], str]:
    return {"kind": "file", "name": name, "type": type, "text": text}, f"Saved as {name}."


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}\u2026"
