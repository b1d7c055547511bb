"""The Receipts tab: run a receipt again, say why two runs differ, take a conversation along as a file."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from .. import export, links
from ..errors import UserError
from ..pool import Pool
from . import checking, checking_render, look, render
from .compare_tab import MODELS, CompareTab

Values = dict[gr.Component, Any]
Update = dict[Any, Any]

# Button, file name, media type, and what writes it.
EXPORTS: tuple[tuple[str, str, str, Callable[[export.Chat], str]], ...] = (
    ("Both replies as Markdown", "same-seed.md", "text/markdown", export.markdown),
    ("Both chats as JSON Lines", "same-seed-messages.jsonl", "application/jsonl", export.messages),
    ("Preferences as JSON Lines", "same-seed-preferences.jsonl", "application/jsonl", export.preferences),
)


class ReceiptsTab:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, pool: Pool, compare: CompareTab):
        self.pool, self.compare = pool, compare
        with gr.Column(elem_classes="card", elem_id="check"):
            gr.HTML(
                "<h2>Replay a receipt</h2><p class='muted'>A receipt says exactly what was asked and what came back. Here it is run again, from scratch, and compared token by token.</p>"
            )
            self.file = gr.File(
                label="Drop a receipt here", file_types=[".json"], type="filepath", height=110, elem_id="receipt_file"
            )
            with gr.Row(elem_classes="buttons"):
                self.replay = gr.Button(
                    "Replay it", variant="primary", size="sm", elem_id="replay", min_width=100, interactive=False
                )
                self.stop = gr.Button("Stop", size="sm", elem_id="replay_stop", min_width=70, visible=False)
                self.open = gr.Button(
                    "Open it in Compare", size="sm", elem_id="receipt_open", min_width=120, interactive=False
                )
            self.notice = gr.HTML(render.notice(""), elem_id="check_notice")
            self.summary = gr.HTML("", elem_id="receipt_summary")
            self.verdict = gr.HTML("", elem_id="verdict")
        with gr.Column(elem_classes="card", elem_id="why"):
            gr.HTML(
                "<h2>Why did it change?</h2><p class='muted'>Choose any two turns of this conversation, or receipts dropped above: which inputs differ, and where the replies part.</p>"
            )
            with gr.Row():
                self.first = gr.Dropdown([], label="First", elem_id="why_first", filterable=False, min_width=200)
                self.second = gr.Dropdown([], label="Second", elem_id="why_second", filterable=False, min_width=200)
            with gr.Row(elem_classes="buttons"):
                self.explain = gr.Button("Explain", variant="primary", size="sm", elem_id="explain", min_width=100)
            self.explanation = gr.HTML("", elem_id="explanation")
        with gr.Column(elem_classes="card", elem_id="export"):
            gr.HTML(
                "<h2>Take it along</h2><p class='muted'>The conversation as a file. The JSON Lines load in TRL and datasets; a turn becomes a preference pair when one reply of it is marked as better.</p>"
            )
            with gr.Row(elem_classes="buttons"):
                self.exports = [gr.Button(label, size="sm", min_width=120) for label, *_ in EXPORTS]
        self.held = gr.State((), time_to_live=7200)  # receipts that were dropped here
        self.dropped = gr.State(None, time_to_live=7200)  # the last of them, which the buttons are about
        self.halt = gr.State(None, time_to_live=7200)  # stops the replay under way
        self.outbox = gr.Textbox(visible=False)

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, tab: gr.Tab, tabs: gr.Tabs) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.tabs = tabs
        chat, choices = self.compare.chat, [self.first, self.second]
        taken = [
            self.file,
            self.held,
            self.dropped,
            self.notice,
            self.summary,
            self.verdict,
            self.replay,
            self.open,
            *choices,
        ]
        self.file.upload(self._take, {self.file, self.held, chat}, taken, queue=False, **quiet)
        tab.select(self._choices, {self.held, chat}, choices, queue=False, **quiet)
        running = [self.verdict, self.notice, self.halt, self.replay, self.stop]
        self.replay.click(self._replay, {self.dropped}, running, trigger_mode="once", **MODELS, **quiet)
        self.stop.click(self._stop, self.halt, None, queue=False, **quiet)
        opened = [*self.compare.opened, tabs, self.notice]
        open_ = self.compare.if_idle(self._open)
        self.open.click(open_, {self.dropped, *self.compare.own}, opened, queue=False, **quiet)
        self.explain.click(self._explain, {self.held, chat, *choices}, self.explanation, **quiet)
        for button, (label, *_) in zip(self.exports, EXPORTS, strict=True):
            saved = button.click(self._exporter(label), chat, [self.outbox, self.notice], queue=False, **quiet)
            saved.then(None, self.outbox, None, js=look.DELIVER)

    def _take(self, values: Values) -> Update:
        update: Update = {self.file: None, self.verdict: ""}
        try:
            held, receipt = checking.take(values[self.held], Path(values[self.file]))
        except UserError as error:
            return update | {self.notice: render.notice(str(error), "error")}
        buttons = {self.replay: gr.update(interactive=True), self.open: gr.update(interactive=True)}
        said = render.notice(
            "This receipt is sound: every field is as it was sealed. Replay it to see whether it is true."
        )
        shown = {
            self.held: held,
            self.dropped: receipt,
            self.notice: said,
            self.summary: checking_render.summary(receipt),
        }
        return update | buttons | shown | self._choices({**values, self.held: held})

    def _choices(self, values: Values) -> Update:
        """Both lists, set to the two newest entries where they are."""
        found = checking.sources(values[self.compare.chat], values[self.held])
        newest = [key for _, key in found][-2:]
        return {
            self.first: gr.update(choices=found, value=newest[0] if newest else None),
            self.second: gr.update(choices=found, value=newest[-1] if newest else None),
        }

    def _replay(self, values: Values) -> Iterator[Update]:
        if values[self.dropped] is None:
            yield {self.notice: render.notice("Drop a receipt first.", "error")}
            return
        stop = threading.Event()
        done: Update = {self.replay: gr.update(interactive=True), self.stop: gr.update(visible=False), self.halt: None}
        yield {
            self.halt: stop, self.replay: gr.update(interactive=False), self.stop: gr.update(visible=True),
            self.notice: render.notice(""),
        }  # fmt: skip
        checks = checking.check(self.pool, values[self.dropped], stop)
        try:
            for checked in checks:
                if checked.progress is not None:
                    yield {self.verdict: checking_render.progress(checked.progress.text, checked.progress.fraction)}
                elif checked.verdict is not None:
                    said = render.notice(checking_render.spoken(checked.verdict), "spoken")
                    yield done | {self.verdict: checking_render.verdict(checked.verdict), self.notice: said}
                else:
                    yield done | {self.verdict: "", self.notice: render.notice(checked.mistake, "error")}
        finally:
            checks.close()  # a closed tab stops the replay

    def _stop(self, halt: threading.Event | None) -> None:
        if halt is not None:
            halt.set()

    def _open(self, values: Values) -> Update:
        try:
            shared = links.of_receipt(values[self.dropped])
            update = self.compare.open_shared(shared, "receipt", values)
        except UserError as error:
            return {self.notice: render.notice(str(error), "error")}
        return update | {self.tabs: gr.Tabs(selected="compare")}

    def _explain(self, values: Values) -> str:
        try:
            first, second = (
                checking.find(values[self.compare.chat], values[self.held], values[choice])
                for choice in (self.first, self.second)
            )
        except UserError as error:
            return render.notice(str(error), "error")
        return checking_render.explanation(checking.explain(self.pool, first, second))

    def _exporter(self, label: str) -> Callable[[export.Chat], tuple[str, str]]:
        _, name, kind, write = next(each for each in EXPORTS if each[0] == label)

        def make(chat: export.Chat) -> tuple[str, str]:
            text = write(chat) if chat else ""
            if not text:
                missing = "Mark a reply as the better one first." if chat else "There is no turn to export yet."
                return "", render.notice(missing, "error")
            return json.dumps({"kind": "file", "name": name, "type": kind, "text": text}), render.notice(
                f"Saved as {name}."
            )

        return make
