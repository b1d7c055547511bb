"""The Experiments tab: cards, one experiment with its text, its run and its verdict."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr

from .. import experiments, links, receipts
from ..errors import UserError
from ..experiments import Experiment, ExperimentVerdict, NewProcesses
from ..pool import Pool
from ..types import Receipt
from . import experiments_render as draw
from . import experiments_session, look, render
from .compare_tab import MODELS, CompareTab
from .experiments_session import View

Values = dict[gr.Component, Any]
Update = dict[Any, Any]


class ExperimentsTab:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists.

    Args:
        opened: the experiment that the page opens on, if any; its text is there and nothing has been run.
    """

    def __init__(self, pool: Pool, processes: NewProcesses, compare: CompareTab, opened: Experiment | None):
        self.pool, self.processes, self.compare = pool, processes, compare
        self.cards = gr.HTML(
            draw.cards(),
            js_on_load=look.EXPERIMENTS_SCRIPT,
            apply_default_css=False,
            visible=opened is None,
            elem_id="exp_cards",
        )
        with gr.Column(visible=opened is not None, elem_id="exp_run") as self.lesson:
            self.back = gr.Button("All experiments", size="sm", elem_id="exp_back", min_width=80)
            self.intro = gr.HTML(draw.introduction(opened) if opened else "", elem_id="exp_intro")
            with gr.Row(elem_id="exp_buttons"):
                self.start = gr.Button("Run it", variant="primary", elem_id="exp_start", size="md", min_width=100)
                self.stop = gr.Button("Stop", elem_id="exp_stop", size="md", min_width=80, visible=False)
            self.notice = gr.HTML(render.notice(""), elem_id="exp_notice")
            self.steps = gr.HTML("", elem_id="exp_steps")
            self.verdict = gr.HTML("", elem_id="exp_verdict")
            with gr.Column(visible=False, elem_id="exp_exhibits") as self.exhibits:
                gr.HTML("<h3>The comparisons of this run</h3>")
                self.chosen = gr.Dropdown([], label="Comparison", elem_id="exp_chosen", filterable=False)
                with gr.Row(elem_id="exp_actions"):
                    self.open, self.receipt, self.link = (
                        gr.Button(label, size="sm", elem_id=id, min_width=100)
                        for label, id in (
                            ("Open in Compare", "exp_open"),
                            ("Receipt", "exp_receipt"),
                            ("Copy link", "exp_link"),
                        )
                    )
                self.inputs = gr.HTML("", elem_id="exp_inputs")
        self.name = gr.State(opened.name if opened else None)
        self.found = gr.State(None, time_to_live=7200)  # the verdict that is shown
        self.halt = gr.State(None, time_to_live=7200)  # stops the experiment under way
        self.address = gr.Textbox(visible=False)  # the page's address behind the #, read by the browser
        self.outbox = gr.Textbox(visible=False)  # what page.js should copy or save

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks, tabs: gr.Tabs) -> None:
        self.demo, self.tabs = demo, tabs
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        once: dict[str, Any] = {"trigger_mode": "once", **MODELS, **quiet}
        page = [self.cards, self.lesson, self.intro, self.name]
        run = [self.start, self.stop, self.notice, self.steps, self.verdict, self.exhibits, self.chosen, self.inputs]
        outputs = [*page, *run, self.found, self.halt]
        asked: set[gr.blocks.Block] = {self.name, self.compare.sidebar.pair, self.halt}
        self.cards.choose(self._choose, {self.halt}, outputs, queue=False, **quiet)
        self.cards.run(self._choose_and_run, asked, outputs, **once)
        self.start.click(self._run, asked, outputs, **once)
        self.stop.click(_stop, self.halt, None, queue=False, **quiet)
        self.back.click(self._back, {self.halt}, outputs, queue=False, js=look.LEAVE_LESSON, **quiet)
        this: set[gr.blocks.Block] = {self.found, self.chosen}
        self.chosen.input(self._choose_exhibit, this, self.inputs, queue=False, **quiet)
        opened = [*self.compare.opened, tabs, self.notice]
        self.open.click(self.compare.if_idle(self._open), this | self.compare.own, opened, queue=False, **quiet)
        for button, handler in ((self.receipt, self._receipt), (self.link, self._link)):
            made = button.click(handler, this, [self.outbox, self.notice], queue=False, **quiet)
            made.then(None, self.outbox, None, js=look.DELIVER)
        demo.load(self._arrive, self.address, [*page, tabs], queue=False, js=look.LESSON_ADDRESS, **quiet)

    # --- choosing one ----------------------------------------------------------------------------------

    def _arrive(self, address: str | None) -> Update:
        """A link to one experiment opens the page on it. Any other address changes nothing."""
        found = [each for each in experiments.EXPERIMENTS if address == f"#lesson={each.name}"]
        return self._page(found[0]) | {self.tabs: gr.Tabs(selected="experiments")} if found else {self.name: gr.skip()}

    def _page(self, experiment: Experiment) -> Update:
        return {
            self.cards: gr.update(visible=False),
            self.lesson: gr.update(visible=True),
            self.intro: draw.introduction(experiment),
            self.name: experiment.name,
        }

    def _empty(self) -> Update:
        return {
            self.start: gr.update(value="Run it", interactive=True),
            self.stop: gr.update(visible=False),
            self.notice: render.notice(""),
            self.steps: "",
            self.verdict: "",
            self.exhibits: gr.update(visible=False),
            self.found: None,
            self.halt: None,
        }

    def _choose(self, values: Values, event: gr.EventData) -> Update:
        _stop(values[self.halt])
        return self._page(experiments.find(str(event._data.get("name")))) | self._empty()

    def _choose_and_run(self, values: Values, event: gr.EventData) -> Iterator[Update]:
        yield from self._run({**values, self.name: str(event._data.get("name"))})

    def _back(self, values: Values) -> Update:
        _stop(values[self.halt])
        return {
            self.cards: gr.update(visible=True),
            self.lesson: gr.update(visible=False),
            self.name: None,
        } | self._empty()

    # --- running it -------------------------------------------------------------------------------------

    def _run(self, values: Values) -> Iterator[Update]:
        _stop(values[self.halt])
        experiment, pair = experiments.find(values[self.name]), values[self.compare.sidebar.pair]
        stop = threading.Event()
        begun: Update = {
            self.halt: stop,
            self.start: gr.update(value="Running", interactive=False),
            self.stop: gr.update(visible=True),
        }
        yield self._page(experiment) | self._empty() | begun
        views = experiments_session.perform(self.pool, self.processes, experiment, pair, stop)
        try:
            for view in views:
                yield self._show(view)
        finally:
            views.close()  # a closed tab closes this generator, and with it whatever is under way

    def _show(self, view: View) -> Update:
        update: Update = {self.steps: draw.steps(view)}
        if view.busy:
            return update
        update |= {
            self.start: gr.update(value="Run it again", interactive=True),
            self.stop: gr.update(visible=False),
            self.halt: None,
        }
        if view.verdict is None:
            return update | {self.notice: render.notice(view.mistake, "error")}
        return update | self._show_verdict(view.verdict)

    def _show_verdict(self, verdict: ExperimentVerdict) -> Update:
        exhibits = verdict.finding.exhibits
        labels = [(exhibit.label, i) for i, exhibit in enumerate(exhibits)]
        return {
            self.found: verdict,
            self.verdict: draw.verdict(verdict),
            self.notice: render.notice(f"{verdict.finding.outcome.capitalize()}. {verdict.finding.sentence}", "spoken"),
            self.exhibits: gr.update(visible=True),
            self.chosen: gr.update(choices=labels, value=0),
            self.inputs: draw.exhibit(exhibits[0]),
        }

    # --- what one comparison of the run can be used for ---------------------------------------------------------

    def _choose_exhibit(self, values: Values) -> str:
        return draw.exhibit(values[self.found].finding.exhibits[values[self.chosen]])

    def _receipt_of(self, values: Values) -> Receipt:
        """Raises UserError when the verdict is no longer there."""
        if values[self.found] is None or values[self.chosen] is None:
            raise UserError("This run is no longer in memory here; run the experiment again.")
        return receipts.answer(values[self.found].finding.exhibits[values[self.chosen]].result).receipt

    def _open(self, values: Values) -> Update:
        try:
            shared = links.of_receipt(self._receipt_of(values))
            update = self.compare.open_shared(shared, "guided experiment", values)
        except UserError as error:
            return {self.notice: render.notice(str(error), "error")}
        return update | {self.tabs: gr.Tabs(selected="compare")}

    def _receipt(self, values: Values) -> Update:
        try:
            receipt = self._receipt_of(values)
        except UserError as error:
            return {self.outbox: "", self.notice: render.notice(str(error), "error")}
        name = receipts.file_name(receipt)
        parcel = {"kind": "file", "name": name, "type": "application/json", "text": receipts.write(receipt)}
        return {
            self.outbox: json.dumps(parcel),
            self.notice: render.notice(f"The receipt of this comparison is {name}."),
        }

    def _link(self, values: Values) -> Update:
        try:
            fragment = links.encode(links.of_receipt(self._receipt_of(values)))
        except UserError as error:
            return {self.outbox: "", self.notice: render.notice(str(error), "error")}
        parcel = {"kind": "link", "fragment": fragment, "public": getattr(self.demo, "share_url", None) or ""}
        said = render.notice(
            "The link of this comparison is copied; whoever opens it can run it and is told whether the replies are the same."
        )
        return {self.outbox: json.dumps(parcel), self.notice: said}


def _stop(halt: threading.Event | None) -> None:
    if halt is not None:
        halt.set()
