"""The Receipts tab: run a receipt again, say why two runs differ, take a conversation along as a file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ... import export, links, wording
from ...errors import UserError
from ...types import AnyReceipt, Chat, Receipt
from .. import delivery, markup
from ..delivery import Pack, Parcel
from ..room import MODELS, QUIET, Page, Update, Values, dropdown, usable
from ..visitor import Session
from . import render, session

TITLE = "Receipts"
NAME = "receipts"
LACKING = "Two turns are needed, or two receipts."
EMPTY = "There is no turn to export yet."

# Button, file name, media type, and what writes it.
EXPORTS: tuple[tuple[str, str, str, Callable[[Chat], str]], ...] = (
    ("Both replies as Markdown", "same-seed.md", "text/markdown", export.markdown),
    ("Both chats as JSON Lines", "same-seed-messages.jsonl", "application/jsonl", export.messages),
    ("Preferences as JSON Lines", "same-seed-preferences.jsonl", "application/jsonl", export.preferences),
)


class Room:
    """Builds the widgets inside the current Tab; `connect` wires them once everything exists."""

    def __init__(self, page: Page, tab: gr.Tab):
        self.page, self.visitor, self.tab = page, page.visitor, tab
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
            self.notice = gr.HTML(markup.notice(""), elem_id="check_notice")
            self.summary = gr.HTML("", elem_id="receipt_summary")
            self.verdict = gr.HTML("", elem_id="verdict")
        with gr.Column(elem_classes="card", elem_id="why"):
            gr.HTML(
                "<h2>Why did it change?</h2><p class='muted'>Choose any two turns of this conversation, or receipts dropped above: which inputs differ, and where the replies diverge.</p>"
            )
            with gr.Row():
                self.first = dropdown("First", "why_first", min_width=200)
                self.second = dropdown("Second", "why_second", min_width=200)
            with gr.Row(elem_classes="buttons"):
                self.explain = gr.Button(
                    "Explain", variant="primary", size="sm", elem_id="explain", min_width=100, interactive=False
                )
            self.lacking = gr.HTML(markup.notice(LACKING), elem_id="why_not")
            self.explanation = gr.HTML("", elem_id="explanation")
        with gr.Column(elem_classes="card", elem_id="export"):
            gr.HTML(
                "<h2>Take it along</h2><p class='muted'>The conversation as a file. The JSON Lines load in TRL and datasets; a turn becomes a preference pair when one reply of it is marked as better.</p>"
            )
            with gr.Row(elem_classes="buttons"):
                self.exports = [gr.Button(label, size="sm", min_width=120, interactive=False) for label, *_ in EXPORTS]
            self.empty = gr.HTML(markup.notice(EMPTY), elem_id="export_not")
        self.held = gr.State(())  # receipts that were dropped here
        self.dropped = gr.State(None)  # the last of them, which the buttons are about
        self.listed = [self.first, self.second, self.explain, self.lacking, self.empty, *self.exports]
        self.visitor.on_change(self._redraw, self.listed)

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        visitor, at_once = self.visitor, {"queue": False, **QUIET}
        choices, listed = {self.first, self.second}, {self.held, *visitor.held}
        buttons = [self.replay, self.open]
        taken = [self.file, self.held, self.dropped, self.notice, self.summary, self.verdict, *buttons, *self.listed]
        self.file.upload(self._take, {self.file, *listed}, taken, **at_once)
        self.tab.select(self._choices, listed, self.listed, **at_once)
        running = [self.verdict, self.notice, self.replay, self.stop]
        asked = {self.dropped, *visitor.held}
        self.replay.click(self._replay, asked, running, trigger_mode="once", **MODELS, **QUIET)
        visitor.on_stop(self.stop.click, NAME)
        visitor.on_open(
            self.open.click, lambda values: links.of_receipt(self._comparison(values)), "receipt", asked, self.notice
        )
        self.explain.click(self._explain, {*listed, *choices}, self.explanation, **at_once)
        for button, (label, *_) in zip(self.exports, EXPORTS, strict=True):
            self.page.delivery.on(button.click, self._exporter(label), visitor.held, self.notice)

    def _take(self, values: Values) -> Update:
        update: Update = {self.file: None, self.verdict: ""}
        try:
            held, receipt = session.take(values[self.held], Path(values[self.file]))
        except UserError as error:
            return update | {self.notice: markup.notice(str(error), "error")}
        whole = isinstance(receipt, Receipt)  # Compare shows both sides
        buttons = {self.replay: gr.update(interactive=True), self.open: gr.update(interactive=whole)}
        said = markup.notice(
            "This receipt is sound: every field is as it was sealed. Replay it to see whether it is true."
        )
        shown = {
            self.held: held,
            self.dropped: receipt,
            self.notice: said,
            self.summary: render.summary(receipt),
        }
        return update | buttons | shown | self._choices({**values, self.held: held})

    def _choices(self, values: Values) -> Update:
        """Both lists, set to the two newest entries, and what can be pressed with them."""
        return self._listed(self.visitor.of(values), values[self.held])

    def _redraw(self, held: Session) -> Update:
        return self._listed(held, ())

    def _listed(self, held: Session, dropped: session.Held) -> Update:
        found = session.sources(held.records, dropped)
        newest = [key for _, key in found][-2:]
        return {
            self.first: gr.update(choices=found, value=newest[0] if newest else None),
            self.second: gr.update(choices=found, value=newest[-1] if newest else None),
            self.lacking: markup.notice(LACKING if len(found) < 2 else ""),
            self.empty: markup.notice("" if held.records else EMPTY),
            **usable([self.explain], len(found) > 1),
            **usable(self.exports, bool(held.records)),
        }

    def _comparison(self, values: Values) -> Receipt:
        """Raises UserError when what was dropped is of one side, or gone."""
        receipt = self._dropped(values)
        if not isinstance(receipt, Receipt):
            raise UserError("This receipt is of one side alone, and Compare shows both; replay it here.")
        return receipt

    def _dropped(self, values: Values) -> AnyReceipt:
        """Raises UserError when the session that held it was lost."""
        if values[self.dropped] is None:
            raise UserError("This receipt is no longer in memory here; drop it again.")
        return values[self.dropped]

    def _replay(self, values: Values) -> Iterator[Update]:
        try:
            receipt = self._dropped(values)
        except UserError as error:
            yield {self.notice: markup.notice(str(error), "error")}
            return
        visitor = self.visitor.of(values)
        stop = visitor.restart(NAME)
        done: Update = {self.replay: gr.update(interactive=True), self.stop: gr.update(visible=False)}
        begun: Update = {self.replay: gr.update(interactive=False), self.stop: gr.update(visible=True)}
        yield begun | {self.notice: markup.notice("")}
        checks = session.check(self.page.pool, receipt, stop)
        try:
            for checked in checks:
                if checked.progress is not None:
                    yield {self.verdict: render.progress(checked.progress.text, checked.progress.fraction)}
                elif checked.verdict is not None:
                    said = markup.notice(wording.headline(checked.verdict), "spoken")
                    yield done | {self.verdict: render.verdict(checked.verdict), self.notice: said}
                else:
                    yield done | {self.verdict: "", self.notice: markup.notice(checked.mistake, "error")}
        finally:
            checks.close()  # a closed tab stops the replay
            visitor.end(NAME, stop)

    def _explain(self, values: Values) -> str:
        chat = self.visitor.of(values).records
        try:
            first, second = (session.find(chat, values[self.held], values[part]) for part in (self.first, self.second))
            return render.explanation(session.explain(self.page.pool, first, second))
        except UserError as error:
            return markup.notice(str(error), "error")

    def _exporter(self, label: str) -> Pack:
        _, name, kind, write = next(each for each in EXPORTS if each[0] == label)

        def pack(values: Values, event: Any) -> tuple[Parcel, str]:
            chat = self.visitor.of(values).records
            text = write(chat) if chat else ""
            if not text:
                raise UserError("Mark a reply as the better one first." if chat else EMPTY)
            return delivery.file(name, kind, text)

        return pack
