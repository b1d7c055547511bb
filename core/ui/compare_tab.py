"""The Compare tab: its widgets, and which session generator each button starts."""

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import gradio as gr

from .. import links, receipts
from ..compare import Run
from ..errors import UserError
from ..pool import Pool
from ..types import SIDES, LensChoice, Mark, Reply, Side
from . import look, render, session
from .sidebar import Sidebar

MODELS: dict[str, Any] = {
    "concurrency_id": "models",
    "concurrency_limit": 64,
}  # one limit for everything that asks the models
_PLACEHOLDER = {
    "base": "<p class='placeholder-text'><b>Base model</b>Predicts the next token. It was never taught to answer you.</p>",
    "post": "<p class='placeholder-text'><b>Post-trained sibling</b>The same weights, then taught to follow instructions.</p>",
}

BUSY = render.notice("A reply is being written; stop it first, or wait until it has ended.", "error")

Values = dict[gr.Component, Any]
Update = dict[gr.Component, Any]
Views = Generator[session.View, None, None]
Slower = Callable[[], int]


@dataclass
class Pane:
    head: gr.HTML
    chat: gr.Chatbot
    strip: gr.HTML


class CompareTab:
    """Builds the widgets inside the current Blocks; `connect` wires them once everything exists."""

    def __init__(self, pool: Pool, sidebar: Sidebar):
        self.pool, self.sidebar = pool, sidebar
        with gr.Row(elem_id="banner_row"):
            self.banner = gr.HTML("", elem_id="banner")
            self.back = gr.Button("Back to my conversation", size="sm", elem_id="back", min_width=80, visible=False)
        with gr.Row(elem_id="panes", equal_height=True):
            self.panes: dict[Side, Pane] = {side: self._pane(side) for side in SIDES}
        self.notice = gr.HTML(render.notice(""), elem_id="notice")
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
        self.pace = gr.HTML("", js_on_load=look.PACE_SCRIPT, apply_default_css=False, visible="hidden", elem_id="pace")
        self.turns = gr.HTML("", js_on_load=look.TURNS_SCRIPT, apply_default_css=False, elem_id="turns")
        with gr.Accordion("Exactly what was sent", open=False, elem_id="sent_box"):
            self.sent = gr.HTML(render.NOTHING_SENT, elem_id="sent")
        self.chat = gr.State(session.Lost(), time_to_live=7200)
        self.underway = gr.State(session.Underway())  # each visitor's own copy; changed in place, never replaced
        # The browser keeps the conversation. The secret only has to survive a restart; the text is the visitor's own.
        self.kept = gr.BrowserState(None, storage_key="same-seed", secret="same-seed")
        # What a link pushed aside: the visitor's own conversation, until they go back to it.
        self.aside = gr.BrowserState(None, storage_key="same-seed-aside", secret="same-seed")
        self.shared = gr.State(None, time_to_live=7200)  # what the link carried that this page was opened with
        self.fragment = gr.Textbox(visible=False)  # the page's address behind the #, read by the browser
        self.outbox = gr.Textbox(visible=False)  # what page.js should copy or save

    def _pane(self, side: Side) -> Pane:
        with gr.Column(elem_classes=["pane", side], min_width=320):
            return Pane(
                head=gr.HTML(
                    render.head(self.sidebar.name_of(self.pool.default.id, side), side), elem_id=f"head_{side}"
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
        other = [self.notice, self.prompt, self.sent, self.chat, self.kept, self.banner, self.turns]
        return [*self._shown, *other, *self._changers]

    @property
    def _changers(self) -> list[gr.Button]:
        """The buttons that change the conversation, so they wait while a reply is being written."""
        return [self.retry, self.edit, self.undo, self.new]

    @property
    def held(self) -> set[Any]:
        """Where the conversation of a visitor is: in the session, or only in the browser once the session has lost it."""
        return {self.chat, self.shared, self.kept, self.aside, self.fragment, self.underway}

    @property
    def opened(self) -> list[gr.Component]:
        """What opening a link or a receipt can change."""
        return [*self.outputs, self.shared, self.aside, self.back, *self.sidebar.widgets]

    # --- wiring -----------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        self.demo = demo
        asked: set[Any] = {self.prompt, *self.held, *self.sidebar.widgets}
        outputs, opened = self.outputs, self.opened
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        # Not "once", which drops what is sent in the moment between the last view and the end of the event.
        every: dict[str, Any] = {"trigger_mode": "multiple", **MODELS, **quiet}
        self.prompt.submit(self._compare, asked, outputs, **every)
        self.retry.click(self._retry, asked, outputs, **every)
        self.pace.click(_set_pace, self.underway, None, queue=False, **quiet)
        self.prompt.stop(lambda underway: underway.stop(), self.underway, None, queue=False, **quiet)
        self.edit.click(self.if_idle(self._edit), self.held, outputs, queue=False, **quiet)
        self.undo.click(self.if_idle(self._undo), self.held, outputs, queue=False, **quiet)
        self.new.click(self.if_idle(self._new), {self.underway}, outputs, queue=False, **quiet)
        self.sidebar.pair.change(self._choose_pair, self.sidebar.pair, self._shown, queue=False, **quiet)
        arriving = [self.kept, self.aside, self.fragment]
        self.arrived = demo.load(self._restore, arriving, opened, queue=False, js=look.ARRIVE, **quiet)
        self.back.click(self.if_idle(self._go_back), {self.aside, self.underway}, opened, queue=False, **quiet)
        act = self.turns.click(self._act, self.held, [*outputs, self.outbox], queue=False, **quiet)
        act.then(None, self.outbox, None, js=look.DELIVER)

    def if_idle(self, act: Callable[[Values], Update]) -> Callable[[Values], Update]:
        """`act`, which changes the conversation, refused while a reply is being written into it."""

        def acted(values: Values) -> Update:
            return {self.notice: BUSY} if values[self.underway].busy else act(values)

        return acted

    def _held(self, values: Values) -> tuple[session.Chat, links.Shared | None]:
        """The conversation, and what a link brought; when the session has lost them, what the browser kept is what the page shows.

        A link that was opened and not yet run has pushed aside what the browser kept, and changed nothing of it.
        """
        if not isinstance(values[self.chat], session.Lost):
            return values[self.chat], values[self.shared]
        fragment = values[self.fragment] or ""
        if fragment.startswith(links.PREFIX) and values[self.aside] == values[self.kept]:
            view, shared = session.open_link(self.pool, fragment)
            return view.chat, shared
        return session.restore(values[self.kept]).chat, None

    def _compare(self, values: Values) -> Iterator[Update]:
        def start(choices: session.Choices, slower: Slower) -> Views:
            chat, shared = self._held(values)
            return session.compare(self.pool, chat, values[self.prompt] or "", choices, shared=shared, slower=slower)

        yield from self._follow(values, start)

    def _retry(self, values: Values) -> Iterator[Update]:
        def start(choices: session.Choices, slower: Slower) -> Views:
            chat, shared = self._held(values)
            return session.retry(self.pool, chat, choices, shared, slower)

        yield from self._follow(values, start)

    def _follow(self, values: Values, start: Callable[[session.Choices, Slower], Views]) -> Iterator[Update]:
        """Show every view of a session generator; a mistake in the settings is a sentence and nothing else."""
        underway: session.Underway = values[self.underway]
        number = underway.begin()
        if number is None:
            yield {self.notice: BUSY}
            return
        try:
            yield from self._views(underway, number, start(self.sidebar.read(values), lambda: underway.slower))
        except UserError as error:
            yield {self.notice: render.notice(str(error), "error")}
        except Exception:
            yield self._idle()  # a mistake of ours must not leave the page without its buttons
            raise
        finally:
            underway.end(number)

    def _views(self, underway: session.Underway, number: int, views: Views) -> Iterator[Update]:
        first = True
        try:
            for view in views:
                underway.run = view.live.run if view.live else None
                if not view.busy:
                    underway.end(number)  # before the page has its buttons back
                yield self._show(view, first)
                first = view.live is None
        finally:
            views.close()  # a closed tab closes this generator, and with it both replies

    def _idle(self) -> Update:
        ready = gr.update(submit_btn="Compare", stop_btn=False)
        return {self.prompt: ready} | {button: gr.update(interactive=True) for button in self._changers}

    def _edit(self, values: Values) -> Update:
        return self.show(session.edit(self._held(values)[0]))

    def _undo(self, values: Values) -> Update:
        return self.show(session.undo(self._held(values)[0]))

    def _new(self, values: Values) -> Update:
        return self.show(session.View((), saved=True))

    def _restore(self, kept: Any, aside: Any, fragment: str | None) -> Update:
        """What this browser kept, or what a link brings; a link that cannot be used changes nothing."""
        view, shared = session.restore(kept), None
        own = aside if aside != kept else None
        if fragment and fragment.startswith(links.PREFIX):
            own = own or (kept if view.chat else None)
            try:
                view, shared = session.open_link(self.pool, fragment)
            except UserError as error:
                view = replace(view, notice=str(error), tone="error")
        update = self.show(view)
        if shared is not None:
            update |= self.sidebar.show(session.Choices.of_comparison(shared.comparison))
        elif view.chat and view.chat[-1].pair in {pair.id for pair in self.pool.pairs}:
            update |= self.sidebar.show(session.Choices.of(view.chat[-1]))
        if shared is None and fragment:  # nothing was pushed aside just now
            own = aside
        return update | {self.shared: shared, self.aside: own, self.back: gr.update(visible=bool(own) and own != kept)}

    @property
    def own(self) -> set[gr.blocks.Block]:
        """What `open_shared` must be told."""
        return self.held

    def open_shared(self, shared: links.Shared, source: str, values: dict[Any, Any]) -> Update:
        """Show what a receipt holds, as a link to it would; the visitor's own conversation (`own`) waits meanwhile.

        Raises:
            UserError: its pair is not one of this app's.
        """
        view = session.open_shared(self.pool, shared, source)
        chat, _ = self._held(values)
        own = values[self.aside] or (session.save(chat) if chat else None)
        waiting = {self.shared: shared, self.aside: own, self.back: gr.update(visible=bool(own))}
        return self.show(view) | self.sidebar.show(session.Choices.of_comparison(shared.comparison)) | waiting

    def _go_back(self, values: Values) -> Update:
        """The visitor's own conversation, in the place of what a link brought."""
        view = replace(session.restore(values[self.aside]), saved=True, banner=session.Banner("", ran=True))
        update = self.show(view) | {self.shared: None, self.aside: None, self.back: gr.update(visible=False)}
        if view.chat and view.chat[-1].pair in {pair.id for pair in self.pool.pairs}:
            update |= self.sidebar.show(session.Choices.of(view.chat[-1]))
        return update

    def _act(self, values: Values, event: gr.EventData) -> Update:
        """A mark, a link or a receipt of one turn."""
        chat, what, turn = self._held(values)[0], event._data.get("do"), event._data.get("turn")
        if not isinstance(turn, int) or not 0 <= turn < len(chat):
            return {self.outbox: ""}
        if what == "mark" and values[self.underway].busy:
            busy = "Wait until both replies have ended, or stop them; then mark the better one."
            return {self.notice: render.notice(busy, "error"), self.outbox: ""}
        if what == "mark" and event._data.get("value") in get_args(Mark):
            return {**self.show(session.mark(chat, turn, event._data["value"])), self.outbox: ""}
        try:
            done, said = self.link(chat, turn) if what == "link" else self._receipt(chat, turn)
        except UserError as error:
            return {self.notice: render.notice(str(error), "error"), self.outbox: ""}
        return {self.notice: render.notice(said), self.outbox: json.dumps(done)}

    def link(self, chat: session.Chat, turn: int, lens: LensChoice | None = None) -> tuple[dict[str, str], str]:
        """A parcel for page.js with the link of a turn, or of a lens on it, and a sentence about it.

        Raises:
            UserError: it is too long for a link.
        """
        fragment = links.encode(links.of_turn(chat, turn, lens))
        public = getattr(self.demo, "share_url", None) or ""
        return (
            {"kind": "link", "fragment": fragment, "public": public},
            f"The link of turn {turn + 1} has {len(fragment):,} characters; whoever opens it sees this comparison and can run it.",
        )

    def _receipt(self, chat: session.Chat, turn: int) -> tuple[dict[str, str], str]:
        receipt = receipts.of_turn(chat, turn)
        done = {
            "kind": "file",
            "name": receipts.file_name(receipt),
            "type": "application/json",
            "text": receipts.write(receipt),
        }
        return (
            done,
            f"The receipt of turn {turn + 1} is {receipts.file_name(receipt)}; drop it on the Receipts tab to run it again.",
        )

    def _choose_pair(self, id: str) -> list[str]:
        return [
            part
            for side in SIDES
            for part in (render.head(self.sidebar.name_of(id, side), side), gr.skip(), render.strip(side, Reply()))
        ]

    # --- a view on the page -------------------------------------------------------------------------

    def show(self, view: session.View) -> Update:
        """A view that is not in the middle of a reply."""
        return self._show(view, first=True)

    def _show(self, view: session.View, first: bool) -> Update:
        """`first` is False for the views in the middle of a reply, which change the panes only."""
        update: Update = {}
        for side in SIDES:
            update |= self._show_side(view, side)
        if view.busy and not first:
            return update
        update |= {
            self.notice: self._notice(view),
            self.chat: view.chat,
            self.prompt: self._prompt_box(view),
            self.sent: self._sent(view),
            self.turns: render.turns(view.chat),
            self.banner: render.banner(view.banner.text, view.banner.tone, view.banner.ran) if view.banner else "",
        }
        update |= {button: gr.update(interactive=not view.busy) for button in self._changers}
        if view.saved:
            update[self.kept] = session.save(view.chat)
        return update

    def _show_side(self, view: session.View, side: Side) -> Update:
        pane = self.panes[side]
        if view.live is not None:
            reply, checkpoint = view.live.snapshot.reply(side), view.live.run.checkpoint(side)
            prompt = view.live.run.comparison.prompt if view.busy else None
            return {
                pane.head: render.head(checkpoint.info.name, side),
                pane.chat: render.chat_messages(view.chat, side, prompt, reply),
                pane.strip: render.strip(side, reply, checkpoint.weights_sha256),
            }
        messages = render.chat_messages(view.chat, side)
        if not view.chat:
            return {pane.chat: messages, pane.strip: render.strip(side, Reply())}
        last = view.chat[-1]
        receipt = last.receipt(side)
        weights = receipt.weights_sha256 if receipt else None
        return {
            pane.head: render.head(receipt.checkpoint.name if receipt else self.sidebar.name_of(last.pair, side), side),
            pane.chat: messages,
            pane.strip: render.strip(side, render.finished_reply(last, side), weights),
        }

    def _notice(self, view: session.View) -> str:
        if view.banner and not view.notice and view.live is None:
            return render.notice(view.banner.text, "spoken")
        if view.notice or view.busy or view.live is None:
            return render.notice(view.notice, view.tone)
        shortened = _shortened(view.live.run)
        if shortened:
            return render.notice(shortened)
        said = f"{view.banner.text} " if view.banner else ""
        return render.notice(said + render.announcement(view.live.snapshot), "spoken")

    def _prompt_box(self, view: session.View) -> Any:
        value: dict[str, Any] = {} if view.box is None else {"value": view.box}
        if view.live is not None and view.busy:
            return gr.update(submit_btn=False, stop_btn="Stop", **value)
        return gr.update(submit_btn="Compare", stop_btn=False, **value)

    def _sent(self, view: session.View) -> str:
        if view.live is not None:
            return render.sent({side: view.live.run.prompt(side) for side in SIDES})
        if not view.chat:
            return render.NOTHING_SENT
        try:
            rebuilt = session.prompts_of_last(self.pool, view.chat)
        except UserError as error:
            return render.not_sent(str(error))
        return render.sent(rebuilt) if rebuilt else render.REBUILT_LATER


def _set_pace(underway: session.Underway, event: gr.EventData) -> None:
    """The browser says how far it has fallen behind (see pace.js)."""
    level = event._data.get("level")
    if isinstance(level, int) and 0 <= level <= 4:
        underway.slower = 2**level


def _shortened(run: Run) -> str:
    """Says in sight that a reply had less room than was asked for."""
    asked = run.comparison.sampling.max_new_tokens
    short = {side: run.sampling(side).max_new_tokens for side in SIDES if run.sampling(side).max_new_tokens < asked}
    return " ".join(
        f"The {session.name(side)} side had room for {tokens:,} new tokens, not {asked:,}: its context is nearly full."
        for side, tokens in short.items()
    )
