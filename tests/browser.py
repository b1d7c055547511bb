"""Serving the page to a real browser: Debian's Chromium, no network but the page itself."""

import asyncio
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
from playwright.sync_api import Browser, Page, Request, expect

from core.settings import Settings
from core.ui import page as whole_page
from tests.ports import free_port

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--process-per-site",  # the tabs of one visitor share a process, as those of Visitors do one after the other
]
DESK = {"width": 1440, "height": 900}


def executable() -> str:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"


@contextmanager
def served(pool: Any, port: int | None = None, **settings: Any) -> Iterator[str]:
    """The whole page over this pool; yields its address."""
    with launched(pool, port, **settings) as (_, url):
        yield url


@contextmanager
def launched(pool: Any, port: int | None = None, **settings: Any) -> Iterator[tuple[gr.Blocks, str]]:
    """The same, with what Gradio serves it by."""
    demo, url = launch(pool, port, **settings)
    try:
        yield demo, url
    finally:
        demo.close(verbose=False)


def launch(pool: Any, port: int | None = None, **settings: Any) -> tuple[gr.Blocks, str]:
    """The same, for whoever ends it in a way of their own."""
    demo, url = _in_an_event_loop(lambda: _serve(pool, Settings(port=port or free_port(), **settings)))
    return demo, url.rstrip("/")


def _serve(pool: Any, settings: Settings) -> tuple[gr.Blocks, str]:
    demo = whole_page.build(pool)
    _, url, _ = whole_page.launch(demo, settings, prevent_thread_lock=True, quiet=True)
    return demo, url


def _in_an_event_loop(work: Callable[[], Any]) -> Any:
    """Without a running loop Gradio opens several of its own, and never closes them."""

    async def inside() -> Any:
        return work()

    browser_is_running = asyncio._get_running_loop() is not None
    return work() if browser_is_running else asyncio.run(inside())


# What Gradio's client says of its own stream when a page is left while it opens, or while a reply is being written.
_LEFT = re.compile(
    r"AbortError: signal is aborted without reason\n.*\.close \(\S*/assets/|Unexpected error Connection errored out",
    re.DOTALL,
)


class Watch:
    """Everything that a page must not do: ask another host, throw, log an error."""

    def __init__(self, page: Page, url: str):
        self.outside: list[str] = []
        self.errors: list[str] = []
        self._page = page
        self._heard: dict[Any, Callable[[Any], None]] = {
            "request": lambda request: self._note(request.url, url),
            "pageerror": lambda error: self.errors.append(str(error)),
            "console": lambda message: self.errors.append(message.text) if message.type == "error" else None,
            "response": lambda response: (
                self.errors.append(f"{response.status} {response.url}") if response.status >= 400 else None
            ),
        }
        for event, heard in self._heard.items():
            page.on(event, heard)

    def end(self) -> None:
        """What the page does from here on is not held against it."""
        if not self._page.is_closed():
            self._page.context.cookies()  # whatever it did until now has been heard when this is answered
        for event, heard in self._heard.items():
            self._page.remove_listener(event, heard)

    def _note(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.outside.append(asked)

    def check(self) -> None:
        assert self.outside == [], self.outside
        errors = [error for error in self.errors if not _LEFT.match(error)]
        assert errors == [], errors


class Visitors:
    """A blank page in a browser of its own for each visitor: nothing is stored there, no history, no permission.

    What a visitor has left is emptied and goes to the next one: its process has compiled Gradio's scripts, which is half of
    what it costs to open a page. The viewport and the colours are this page's; another tab is given its own by whoever opens it.
    """

    def __init__(self, browser: Browser):
        self._browser = browser
        self._free: defaultdict[Hashable, list[Page]] = defaultdict(list)
        self._kinds: WeakKeyDictionary[Page, Hashable] = WeakKeyDictionary()

    def come(
        self,
        viewport: Any = DESK,
        color_scheme: Any = "light",
        reduced_motion: Any = "no-preference",
        permissions: Sequence[str] = (),
        **options: Any,
    ) -> Page:
        kind = tuple(sorted(options.items()))
        page = self._free[kind].pop() if self._free[kind] else self._browser.new_context(**options).new_page()
        self._kinds[page] = kind
        page.context.grant_permissions(permissions)
        page.emulate_media(media="null", color_scheme=color_scheme, reduced_motion=reduced_motion)
        page.set_viewport_size(viewport)
        return page

    def leave(self, page: Page, *, for_good: bool) -> None:
        """The browser is closed, or emptied if it can be."""
        if for_good or page.is_closed():
            page.context.close()
            return
        for other in page.context.pages:
            if other is not page:
                other.close()
        page.goto("about:blank")
        page.unroute_all()
        page.context.unroute_all()
        page.context.clear_permissions()
        page.mouse.move(-1, -1)
        session = page.context.new_cdp_session(page)
        session.send("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
        session.send("Page.resetNavigationHistory")
        session.detach()
        self._free[self._kinds[page]].append(page)


_open: WeakKeyDictionary[Page, set[Request]] = (
    WeakKeyDictionary()
)  # what each page has asked its server and not got yet


def open_page(page: Page, url: str) -> None:
    if page in _open:
        _open[page].clear()
    else:
        _note_what_it_asks(page)
    page.set_default_timeout(60_000)
    # A key that is pressed while Gradio still wires the page is heard by nobody; when the page asks its server something, it is wired.
    with page.expect_request(lambda request: request.method == "POST" and "/gradio_api/" in request.url):
        page.goto(url)
    page.locator("#prompt textarea").wait_for()


def _note_what_it_asks(page: Page) -> None:
    asked = _open[page] = set()

    def began(request: Request) -> None:
        asked.add(request)

    def settled(request: Request) -> None:
        asked.discard(request)

    page.on("request", began)
    page.on("requestfinished", settled)
    page.on("requestfailed", settled)


def reload(page: Page) -> None:
    """Load the page again, once it is quiet: what it had put up on the screen it has then also kept.

    A page that leaves while it still waits for its server reports what it broke off as an error.
    """
    quiet(page)
    page.reload()


def quiet(page: Page) -> None:
    """Wait until the page waits for nothing more from its server."""
    while any("/gradio_api/" in request.url and "/heartbeat/" not in request.url for request in _open[page]):
        page.wait_for_timeout(50)


def ask(page: Page, text: str) -> None:
    page.locator("#prompt textarea").fill(text)
    page.locator("#prompt textarea").press("Enter")


def at_most(page: Page, tokens: int) -> None:
    """Let both models write no more than so many tokens."""
    box = page.locator("#max_new_tokens input[type=number]")
    box.fill(str(tokens))
    box.press("Tab")


def ended(page: Page, timeout: float = 60_000) -> None:
    """Wait until both replies have ended."""
    page.wait_for_function("() => !document.querySelector('#prompt.busy')", timeout=timeout)


def writing(page: Page, side: str = "base") -> None:
    """Wait until one side's reply is being written."""
    expect(page.locator(f".running .reply.{side} .stands")).to_contain_text("Writing")


def reply(page: Page, side: str, turn: int = -1) -> str:
    """The text of one side's reply as the browser shows it, without the marks for the line breaks that it begins with."""
    texts = page.locator(f".turn .reply.{side} .text")
    text = texts.nth(turn if turn >= 0 else texts.count() + turn)
    text.scroll_into_view_if_needed()  # out of sight nothing is laid out, and then it has no text
    breaks = text.locator(".breaks")
    return text.inner_text().removeprefix(breaks.inner_text() if breaks.count() else "")
