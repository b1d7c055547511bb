"""A visitor of a soak with a real browser: asks, stops, reloads, opens a link, and closes the tab in mid-reply."""

import secrets
import time
from collections.abc import Callable

from playwright.sync_api import Error, Page, sync_playwright

from core import links
from core.types import Comparison
from tests import browser

from .book import MARK, Book, Crossed, Lost, Told, is_sentence
from .process import HEADER, Server

_TEXT = "['#transcript', '#prompt textarea'].map((at) => document.querySelector(at)).map((it) => it?.value ?? it?.innerText ?? '').join(' ')"
SHOWN = f"() => {_TEXT}"
WRITING_OR_OVER = "() => document.querySelector('.running .stands')?.innerText.includes('Writing') || !document.querySelector('#prompt.busy')"
ALL_SHOWN = f"(own) => own.every((mark) => ({_TEXT}).includes(mark))"


class Tab:
    """One page, and the marks that it may show."""

    def __init__(self, page: Page, server: Server, book: Book):
        self.page, self.server, self.book = page, server, book
        self.own: list[str] = []

    def prompt(self) -> str:
        """Something to ask, written over what came back to the box unanswered, of which a sentence told."""
        self.told()
        self.own.append(f"mark{secrets.token_hex(6)}")
        return f"Tell me about {self.own[-1]}."

    def told(self) -> None:
        """What stands in the box came back there with a sentence, and is not kept anywhere else."""
        back = MARK.findall(self.page.evaluate("() => document.querySelector('#prompt textarea')?.value ?? ''"))
        self.own = [mark for mark in self.own if mark not in back]

    def check(self, *marks: str) -> None:
        """Raises where one of these is not shown, as a turn or in the box, or one of somebody else's is."""
        shown = set(MARK.findall(self.page.evaluate(SHOWN)))
        if strange := shown - set(self.own):
            raise Crossed(f"{self.own} and {sorted(strange)}")
        if missing := set(marks) - shown:
            raise Lost(f"{sorted(missing)} is neither a turn nor in the box; notice: {self.notice()!r}")

    def notice(self) -> str:
        return self.page.locator("#notice").inner_text()

    def failed(self) -> None:
        """Raises Told where the page says that a side failed."""
        if "failed" in self.notice():
            raise Told(self.notice())

    def opens(self) -> None:
        browser.open_page(self.page, self.server.url)
        browser.at_most(self.page, 40)

    def asks(self) -> None:
        prompt = self.prompt()
        browser.ask(self.page, prompt)
        browser.ended(self.page)
        self.check(*self.own[-1:])
        self.failed()

    def stops(self) -> None:
        browser.at_most(self.page, 400)
        browser.ask(self.page, self.prompt())
        self.page.wait_for_function(WRITING_OR_OVER)  # a reply can end, or fail, before anybody sees it being written
        self.page.keyboard.press("Escape")
        browser.ended(self.page)
        self.check(*self.own)
        self.failed()

    def reloads(self) -> None:
        browser.reload(self.page)
        self.comes_back()

    def comes_back(self) -> None:
        """Whatever was asked is there again."""
        try:
            self.page.wait_for_function(ALL_SHOWN, arg=self.own)
        except Error:
            self.check(*self.own)

    def opens_a_link(self) -> None:
        with self.book.lock:
            kept = self.book.kept[-1:]
        if not kept:
            return
        asked = Comparison.model_validate(kept[0][0])
        self.own = MARK.findall(asked.prompt)
        self.page.goto("about:blank")
        self.page.goto(f"{self.server.url}/{links.encode(links.Shared(comparison=asked))}")
        self.comes_back()
        self.check(*self.own)

    def leaves(self) -> None:
        """In the middle of a reply, or before it."""
        browser.ask(self.page, self.prompt())


STEPS: tuple[Callable[[Tab], None], ...] = (Tab.opens, Tab.asks, Tab.stops, Tab.reloads, Tab.opens_a_link, Tab.leaves)


def browse(server: Server, book: Book, going: Callable[[], bool]) -> None:
    """One visitor after the other, each with storage of their own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.executable(), args=browser.ARGUMENTS)
        visits = 0
        while going():
            visits += 1
            context = chromium.new_context(extra_http_headers={HEADER: f"10.200.{visits >> 8 & 255}.{visits & 255}"})
            tab = Tab(context.new_page(), server, book)
            try:
                _visit(tab, going)
            finally:
                context.close()
        chromium.close()


def _visit(tab: Tab, going: Callable[[], bool]) -> None:
    for step in STEPS:
        if not going():
            return
        generation = tab.server.generation
        try:
            step(tab)
        except Told as told:
            tab.book.note("browser", "told why not" if is_sentence(str(told)) else "no sentence", str(told))
        except (Lost, Error) as error:
            if not tab.server.killed_since(generation):
                tab.book.note("browser", "lost", f"{step.__name__}: {error}")
                return
            if step is Tab.opens_a_link:  # what it holds was asked by somebody else
                tab.own = []
            _after_a_restart(tab)
            return
        except Crossed as crossed:
            tab.book.note("browser", "crossed", str(crossed))
            return
        else:
            tab.book.note("browser", "left" if step in (Tab.leaves, Tab.stops) else "answered")


def _after_a_restart(tab: Tab) -> None:
    """The page of a server that was killed, opened again: what was asked is there."""
    while tab.server.down:
        time.sleep(0.1)
    try:
        tab.told()
        tab.page.goto("about:blank")
        tab.page.goto(tab.server.url)
        tab.comes_back()
    except (Lost, Error) as error:
        tab.book.note("browser", "lost", f"after a restart: {error}")
    else:
        tab.book.note("browser", "cut off and asked again")
