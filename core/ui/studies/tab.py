"""The Studies tab: what is asked, a run with its progress, rates, the grid of replies, files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ... import links
from ...errors import UserError
from ...study import export, link, receipt, report, suite
from ...study.link import SharedStudy
from ...study.plan import DEFAULT_SEEDS
from ...study.served import Study
from .. import delivery, markup
from ..delivery import Pack, Parcel
from ..room import MODELS, QUIET, Page, Update, Values, dropdown, number
from . import render, session
from .session import ONE, OWN, TOKENS, Fields, Suite, View

TITLE = "Studies"
NAME = "studies"
CELL = "cell"  # the one that was pressed
_SCRIPT = Path(__file__).with_name("studies.js").read_text("utf-8") + report.TABLES
_ADDRESS = f"() => [location.hash.startsWith({link.PREFIX!r}) ? location.hash.slice(0, {links.MAX_READ + 1}) : '']"
_EXAMPLE, _TEST = "What is the capital of France?", "contains:Paris"
_ASKED = [("One prompt", ONE), *((f"Suite: {name}", name) for name in suite.NAMES)]

# Button, file name, media type, and what writes it.
FILES: tuple[tuple[str, str, str, Callable[[Study], str]], ...] = (
    (
        "Report",
        "study.html",
        "text/html",
        lambda study: report.html_report(study.plan, study.written(), study.report),
    ),
    (
        "CSV",
        "study.csv",
        "text/csv",
        lambda study: export.comma_separated(study.plan, study.written(), study.report.results.measures),
    ),
    (
        "JSON Lines",
        "study.jsonl",
        "application/jsonl",
        lambda study: export.json_lines(study.plan, study.written()),
    ),
    ("Receipt", "study-receipt.json", "application/json", lambda study: receipt.dump(study.report.receipt)),
)


class Room:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, page: Page, tab: gr.Tab):
        self.page, self.visitor = page, page.visitor
        gr.HTML(render.HEAD, apply_default_css=False, elem_id="study_head")
        with gr.Column(elem_classes="card", elem_id="study_ask"):
            with gr.Row(elem_classes="study-line"):
                with gr.Column(scale=5, min_width=480, elem_classes="study-fields"):
                    with gr.Row(elem_classes="study-line"):
                        self.asked = dropdown("What is asked", "study_asked", _ASKED, value=ONE, min_width=170, scale=1)
                        self.prompt = gr.Textbox(
                            _EXAMPLE,
                            label="Prompt",
                            lines=1,
                            max_lines=8,
                            elem_id="study_prompt",
                            min_width=240,
                            scale=4,
                        )
                    with gr.Row(elem_classes="study-line"):
                        self.tests = gr.Textbox(
                            _TEST,
                            label="Test of a reply: contains:A|B, equals:A|B, number:3..5, regex:PATTERN",
                            placeholder="One in a line, or none",
                            lines=1,
                            max_lines=6,
                            elem_id="study_tests",
                            min_width=240,
                            scale=4,
                        )
                        self.seeds = number("Seeds", "study_seeds", DEFAULT_SEEDS, min_width=90, scale=1)
                        self.tokens = number("Longest reply, tokens", "study_tokens", TOKENS, min_width=150, scale=1)
                self.file = gr.File(
                    label="Or drop a suite: CSV or JSON Lines",
                    file_types=[".csv", ".jsonl"],
                    type="filepath",
                    height=150,
                    elem_id="study_file",
                    min_width=220,
                    scale=2,
                )
            self.crossed = gr.Checkbox(
                True, label="Weights or template? Ask each model under the other's framing too", elem_id="study_crossed"
            )
            self.branching = gr.Checkbox(
                False,
                label="Branching factor: read each reply once more, for how many tokens there were to choose from",
                elem_id="study_branching",
            )
            chosen = self.page.pool.default
            self.stages = gr.Checkbox(
                False, label=session.stages_told(chosen), elem_id="study_stages", visible=bool(chosen.stages)
            )
            with gr.Row(elem_classes="buttons"):
                self.start = gr.Button(
                    "Run the study", variant="primary", size="md", elem_id="study_start", min_width=120
                )
                self.stop = gr.Button("Stop", size="md", elem_id="study_stop", min_width=80, visible=False)
            self.notice = gr.HTML(markup.notice(""), elem_id="study_notice")
            self.progress = gr.HTML("", elem_id="study_progress")
        with gr.Column(visible=False, elem_id="study_results") as self.results:
            self.rates = gr.HTML("", js_on_load=_SCRIPT, apply_default_css=False, elem_id="study_rates")
            with gr.Row(elem_id="study_files"):
                self.files = [
                    gr.Button(label, size="sm", min_width=90, elem_id=f"study_{name.rpartition('.')[2]}")
                    for label, name, *_ in FILES
                ]
                self.link = gr.Button("Link", size="sm", min_width=90, elem_id="study_link")
            self.row = dropdown("Prompt", "study_row", visible=False)
            self.opens = dropdown("A seed opens", "study_opens", [("Compare", "")], value="", visible=False)
            self.replies = gr.HTML("", js_on_load=_SCRIPT, apply_default_css=False, elem_id="study_replies")
        self.brought = gr.State(None)  # a suite that was dropped
        self.found = gr.State(None)  # the study that is shown
        self.shared = gr.State(None)  # one that a link brought
        self.address = gr.Textbox(visible=False)  # the page's address behind the #, where it is that of a study

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        visitor, at_once = self.visitor, {"queue": False, **QUIET}
        asking = [self.asked, self.prompt, self.tests, self.seeds, self.notice]
        self.asked.input(self._ask, self.asked, asking, **at_once)
        self.file.upload(self._take, {self.file}, [*asking, self.file, self.brought], **at_once)
        typed = {
            self.asked,
            self.prompt,
            self.tests,
            self.seeds,
            self.tokens,
            self.crossed,
            self.branching,
            self.stages,
        }
        visitor.sidebar.pair.change(self._choose_pair, visitor.sidebar.pair, self.stages, **at_once)
        shown = [self.start, self.stop, self.notice, self.progress]
        shown += [self.results, self.rates, self.row, self.opens, self.replies]
        given = {*typed, self.brought, *visitor.sidebar.widgets, *visitor.held, self.found, self.shared}
        self.start.click(self._run, given, [*shown, self.found], trigger_mode="once", **MODELS, **QUIET)
        visitor.on_stop(self.stop.click, NAME)
        self.row.input(self._choose, {self.row, self.found}, [self.replies, self.notice], **at_once)
        for button, (_, name, kind, write) in zip(self.files, FILES, strict=True):
            self.page.delivery.on(button.click, self._packing(name, kind, write), {self.found}, self.notice)
        self.page.delivery.on(self.link.click, self._linking, {self.found}, self.notice)
        filled = [*typed, self.brought, self.shared, self.notice, *visitor.sidebar.outputs, visitor.tabs]
        visitor.after_arrival(lambda then: then(self._arrive, self.address, filled, js=_ADDRESS, **at_once))

        def pressed(opened: Callable[[Values], Update], *given: Any, **how: Any) -> None:
            def with_cell(values: Values, event: gr.EventData) -> Update:
                return opened({**values, CELL: event._data.get("cell")})

            for shown in (self.rates, self.replies):
                shown.open(with_cell, *given, **how)

        visitor.on_open(pressed, self._shared, "study", {self.found, self.opens}, self.notice)

    # --- what is asked ---------------------------------------------------------------------------------

    def _arrive(self, address: str | None) -> Update:
        """The link of a study opens the page on it, with what it asks in the fields. Any other address changes nothing."""
        if not address:
            return {self.shared: gr.skip()}
        here: Update = {self.visitor.tabs: gr.Tabs(selected=NAME)}
        try:
            shared = link.decode(address)
            found = session.fields(self.page.pool, shared.plan)
        except UserError as error:
            return here | {self.notice: markup.notice(str(error), "error")}
        plan = shared.plan
        return (
            here
            | self._ask(found.asked)
            | self._choose_pair_of(found)
            | self.visitor.sidebar.show(found.chosen)
            | {
                self.asked: gr.update(choices=self._asked(found.brought), value=found.asked),
                self.prompt: gr.update(value=found.prompt, visible=found.asked == ONE),
                self.tests: "\n".join(map(str, plan.checks)),
                self.seeds: plan.seeds,
                self.tokens: plan.sampling.max_new_tokens,
                self.crossed: plan.crossed,
                self.branching: plan.branching,
                self.brought: found.brought,
                self.shared: shared,
                self.notice: markup.notice(
                    f"A study that somebody shared: {plan.total:,} replies. Run it, and you are told whether they are the same."
                ),
            }
        )

    def _choose_pair_of(self, found: Fields) -> Update:
        stages: Any = self._choose_pair(found.chosen.pair)
        return {self.stages: {**stages, "value": found.staged}}

    def _asked(self, brought: Suite | None) -> list[tuple[str, str]]:
        named = [(f"{brought.name}: {markup.counted(len(brought.rows), 'prompt')}", OWN)] if brought else []
        return [*_ASKED, *named]

    def _ask(self, asked: str) -> Update:
        """The test of one prompt is none of a suite, whose rows have tests of their own."""
        return {
            self.tests: gr.update() if asked == ONE else "",
            self.prompt: gr.update(visible=asked == ONE),
            self.seeds: session.seeds_for(asked),
            self.notice: markup.notice(""),
        }

    def _choose_pair(self, id: str) -> Any:
        """The stages of a lineage are offered where they are known."""
        pair = next((each for each in self.page.pool.pairs if each.id == id), None)
        if pair is None or not pair.stages:
            return gr.update(value=False, visible=False)
        return gr.update(label=session.stages_told(pair), visible=True)

    def _take(self, values: Values) -> Update:
        try:
            brought = session.take(Path(values[self.file]))
        except UserError as error:
            return {self.file: None, self.notice: markup.notice(str(error), "error")}
        chosen = {
            self.asked: gr.update(choices=self._asked(brought), value=OWN),
            self.brought: brought,
            self.file: None,
        }
        return self._ask(OWN) | chosen

    # --- running it ------------------------------------------------------------------------------------

    def _run(self, values: Values) -> Iterator[Update]:
        brought: Suite | None = values[self.brought]
        try:
            chosen = self.visitor.sidebar.read(values)
            plan = session.plan(
                chosen,
                values[self.asked],
                values[self.prompt] or "",
                brought,
                seeds=values[self.seeds],
                tokens=values[self.tokens],
                tests=values[self.tests] or "",
                crossed=bool(values[self.crossed]),
                branching=bool(values[self.branching]),
                pairs=session.stages(self.page.pool, chosen.pair) if values[self.stages] else (),
            )
            plan, shared = session.as_shared(plan, values[self.shared])
        except UserError as error:
            yield {self.notice: markup.notice(str(error), "error")}
            return
        held = self.visitor.of(values)
        stop = held.restart(NAME)
        yield {
            self.start: gr.update(value="Running", interactive=False),
            self.stop: gr.update(visible=True),
            self.notice: markup.notice(""),
            self.results: gr.update(visible=False),
        }
        views = session.perform(self.page.pool, plan, values[self.found], stop)
        try:
            for view in views:
                yield self._show(view, shared)
        finally:
            views.close()  # a closed tab closes this generator, and with it whatever is under way
            held.end(NAME, stop)

    def _show(self, view: View, shared: SharedStudy | None) -> Update:
        if view.busy:
            return {self.progress: render.progress(view.progress)}
        update: Update = {
            self.progress: "",
            self.start: gr.update(value="Run the study", interactive=True),
            self.stop: gr.update(visible=False),
            self.notice: markup.notice(view.mistake, "error"),
        }
        return update if view.study is None else update | self._show_study(view.study, view.mistake, shared)

    def _show_study(self, study: Study, mistake: str, shared: SharedStudy | None) -> Update:
        prompts = render.prompts(study)
        first = prompts[0][1] if prompts else 0
        opens = session.lenses(self.page.pool, study.plan)
        done, kind = f"{study.report.results.done:,} replies were counted.", "spoken"
        if shared is not None:
            done, kind = f"{done} {shared.told(study.report.receipt)}", "info"
        return {
            self.found: study,
            self.notice: markup.notice(mistake, "error") if mistake else markup.notice(done, kind),
            self.results: gr.update(visible=True),
            self.rates: render.found(study),
            self.row: gr.update(choices=prompts, value=first if prompts else None, visible=bool(prompts)),
            self.replies: render.replies(study, first),
            self.opens: gr.update(choices=opens, value="", visible=len(opens) > 1),
        }

    # --- what can be done with it -----------------------------------------------------------------------

    def _choose(self, values: Values) -> Update:
        try:
            study, at = session.cell(values[self.found], [values[self.row], 0, 0])
        except UserError as error:
            return {self.notice: markup.notice(str(error), "error")}
        return {self.replies: render.replies(study, at.prompt), self.notice: markup.notice("")}

    def _shared(self, values: Values) -> links.Shared:
        study, at = session.cell(values[self.found], values[CELL])
        if values[self.opens]:
            return session.between(self.page.pool, study, at, values[self.opens])
        return session.shared(study, at)

    def _linking(self, values: Values, event: Any) -> tuple[Parcel, str]:
        fragment = link.encode(session.held(values[self.found]).report.receipt)
        said = f"The link of this study is copied ({len(fragment):,} characters behind the address); whoever opens it can run it and is told whether the replies are the same."
        return self.page.delivery.fragment(fragment), said

    def _packing(self, name: str, kind: str, write: Callable[[Study], str]) -> Pack:
        def pack(values: Values, event: Any) -> tuple[Parcel, str]:
            return delivery.file(name, kind, write(session.held(values[self.found])))

        return pack
