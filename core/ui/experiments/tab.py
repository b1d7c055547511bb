"""The Experiments tab: cards, one experiment with its text, its run and its verdict."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ... import experiments, links, receipts
from ...errors import UserError
from ...experiments import Experiment, ExperimentVerdict
from ...experiments.values import Exhibit
from ...types import Receipt
from .. import delivery, markup
from ..room import MODELS, QUIET, Page, Update, Values, dropdown
from . import render, session
from .session import View

TITLE = "Experiments"
NAME = "experiments"
_SCRIPT = Path(__file__).with_name("cards.js").read_text("utf-8")
_ADDRESS = "() => [location.hash.slice(0, 100)]"
_LEAVE = "(...values) => { if (location.hash.startsWith('#lesson=')) history.replaceState(history.state, '', location.pathname + location.search); return values; }"


class Room:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, page: Page, tab: gr.Tab):
        self.page, self.visitor, opened = page, page.visitor, page.lesson
        self.cards = gr.HTML(
            render.cards(), js_on_load=_SCRIPT, apply_default_css=False, visible=opened is None, elem_id="exp_cards"
        )
        with gr.Column(visible=opened is not None, elem_id="exp_run") as self.lesson:
            self.back = gr.Button("All experiments", size="sm", elem_id="exp_back", min_width=80)
            self.intro = gr.HTML(render.introduction(opened) if opened else "", elem_id="exp_intro")
            with gr.Row(elem_id="exp_buttons"):
                self.start = gr.Button("Run it", variant="primary", elem_id="exp_start", size="md", min_width=100)
                self.stop = gr.Button("Stop", elem_id="exp_stop", size="md", min_width=80, visible=False)
            self.notice = gr.HTML(markup.notice(""), elem_id="exp_notice")
            self.steps = gr.HTML("", elem_id="exp_steps")
            self.verdict = gr.HTML("", elem_id="exp_verdict")
            with gr.Column(visible=False, elem_id="exp_exhibits") as self.exhibits:
                gr.HTML("<h3>The comparisons of this run</h3>")
                self.chosen = dropdown("Comparison", "exp_chosen")
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
        self.name = gr.Textbox(
            opened.name if opened else "", visible=False
        )  # in the browser, so that it outlives the session
        self.found = gr.State(None)  # the verdict that is shown
        self.address = gr.Textbox(visible=False)  # the page's address behind the #, read by the browser

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        visitor, at_once = self.visitor, {"queue": False, **QUIET}
        once: dict[str, Any] = {"trigger_mode": "once", **MODELS, **QUIET}
        shown = [self.cards, self.lesson, self.intro, self.name]
        run = [self.start, self.stop, self.notice, self.steps, self.verdict, self.exhibits, self.chosen, self.inputs]
        outputs = [*shown, *run, self.found]
        asked = {self.name, visitor.sidebar.pair, *visitor.held}
        self.cards.choose(self._choose, visitor.held, outputs, **at_once)
        self.cards.run(self._choose_and_run, asked, outputs, **once)
        self.start.click(self._run, asked, outputs, **once)
        visitor.on_stop(self.stop.click, NAME)
        self.back.click(self._back, visitor.held, outputs, js=_LEAVE, **at_once)
        this: set[Any] = {self.found, self.chosen}
        self.chosen.input(self._choose_exhibit, this, [self.inputs, self.notice], **at_once)
        visitor.on_open(self.open.click, self._shared, "guided experiment", this, self.notice)
        hand_out = self.page.delivery
        hand_out.on(
            self.receipt.click, lambda values, event: delivery.receipt(self._receipt(values)), this, self.notice
        )
        hand_out.on(
            self.link.click,
            lambda values, event: hand_out.link(self._shared(values), "this comparison"),
            this,
            self.notice,
        )
        demo.load(self._arrive, self.address, [*shown, visitor.tabs], js=_ADDRESS, **at_once)

    # --- choosing one ----------------------------------------------------------------------------------

    def _arrive(self, address: str | None) -> Update:
        """A link to one experiment opens the page on it. Any other address changes nothing."""
        found = [each for each in experiments.EXPERIMENTS if address == f"#lesson={each.name}"]
        return (
            self._introduce(found[0]) | {self.visitor.tabs: gr.Tabs(selected=NAME)} if found else {self.name: gr.skip()}
        )

    def _introduce(self, experiment: Experiment) -> Update:
        return {
            self.cards: gr.update(visible=False),
            self.lesson: gr.update(visible=True),
            self.intro: render.introduction(experiment),
            self.name: experiment.name,
        }

    def _empty(self) -> Update:
        return {
            self.start: gr.update(value="Run it", interactive=True),
            self.stop: gr.update(visible=False),
            self.notice: markup.notice(""),
            self.steps: "",
            self.verdict: "",
            self.exhibits: gr.update(visible=False),
            self.found: None,
        }

    def _choose(self, values: Values, event: gr.EventData) -> Update:
        self.visitor.of(values).stop(NAME)
        return self._introduce(experiments.find(str(event._data.get("name")))) | self._empty()

    def _choose_and_run(self, values: Values, event: gr.EventData) -> Iterator[Update]:
        yield from self._run({**values, self.name: str(event._data.get("name"))})

    def _back(self, values: Values) -> Update:
        self.visitor.of(values).stop(NAME)
        overview = {self.cards: gr.update(visible=True), self.lesson: gr.update(visible=False), self.name: ""}
        return overview | self._empty()

    # --- running it -------------------------------------------------------------------------------------

    def _run(self, values: Values) -> Iterator[Update]:
        held = self.visitor.of(values)
        experiment, pair = experiments.find(values[self.name]), values[self.visitor.sidebar.pair]
        stop = held.restart(NAME)
        begun: Update = {
            self.start: gr.update(value="Running", interactive=False),
            self.stop: gr.update(visible=True),
        }
        yield self._introduce(experiment) | self._empty() | begun
        views = session.perform(self.page.pool, experiment, pair, stop)
        try:
            for view in views:
                yield self._show(view)
        finally:
            views.close()  # a closed tab closes this generator, and with it whatever is under way
            held.end(NAME, stop)

    def _show(self, view: View) -> Update:
        update: Update = {self.steps: render.steps(view)}
        if view.busy:
            return update
        update |= {
            self.start: gr.update(value="Run it again", interactive=True),
            self.stop: gr.update(visible=False),
        }
        if view.verdict is None:
            return update | {self.notice: markup.notice(view.mistake, "error")}
        return update | self._show_verdict(view.verdict)

    def _show_verdict(self, verdict: ExperimentVerdict) -> Update:
        exhibits = verdict.finding.exhibits
        labels = [(exhibit.label, i) for i, exhibit in enumerate(exhibits)]
        return {
            self.found: verdict,
            self.verdict: render.verdict(verdict),
            self.notice: markup.notice(f"{verdict.finding.outcome.capitalize()}. {verdict.finding.sentence}", "spoken"),
            self.exhibits: gr.update(visible=True),
            self.chosen: gr.update(choices=labels, value=0),
            self.inputs: render.exhibit(exhibits[0]),
        }

    # --- what one comparison of the run can be used for ---------------------------------------------------------

    def _choose_exhibit(self, values: Values) -> Update:
        try:
            return {self.inputs: render.exhibit(self._exhibit(values))}
        except UserError as error:
            return {self.notice: markup.notice(str(error), "error")}

    def _exhibit(self, values: Values) -> Exhibit:
        """Raises UserError when the verdict is no longer there."""
        verdict, chosen = values[self.found], values[self.chosen]
        if verdict is None or not isinstance(chosen, int) or not 0 <= chosen < len(verdict.finding.exhibits):
            raise UserError("This run is no longer in memory here; run the experiment again.")
        return verdict.finding.exhibits[chosen]

    def _receipt(self, values: Values) -> Receipt:
        return receipts.answer(self._exhibit(values).result).receipt

    def _shared(self, values: Values) -> links.Shared:
        return links.of_receipt(self._receipt(values))
