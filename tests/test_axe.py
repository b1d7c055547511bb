"""Every state of the page in which something else is to be seen, on a phone and on a desk, light and dark: axe finds nothing.

The states of the other rooms (experiments with results, receipts with a verdict, the lens with its card) are in their
own files.
"""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser import ask, ended, writing

CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}
SAYS = "A reply with **markdown**, `code` and\n\n- a list\n- of two"
# Colours fade from one scheme to the other, and a sidebar slides: each is put where it ends.
FADED = """() => document.getAnimations().forEach((each) => {
  if (each.effect.getComputedTiming().endTime !== Infinity) each.finish();
})"""
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 844}


def empty(page: Page) -> None:
    expect(page.locator(".example").first).to_be_visible()


def streaming(page: Page) -> None:
    ask(page, "Hello")
    writing(page)


def error(page: Page) -> None:
    page.locator("#prompt").get_by_role("button", name="Compare").click()
    expect(page.locator("#notice")).to_contain_text("Type a prompt first")


def finished(page: Page) -> None:
    ask(page, "Hello")
    ended(page)


def sent(page: Page) -> None:
    finished(page)
    page.locator("[data-do=sent]").click()
    expect(page.locator(".was-sent")).to_be_visible()


def code(page: Page) -> None:
    finished(page)
    page.locator("[data-do=code]").click()
    expect(page.locator(".codes")).to_be_visible()


def card(page: Page) -> None:
    """The lens in place, with the card of a token pinned."""
    finished(page)
    page.get_by_role("switch", name="Lens").first.click()
    pin(page)


def pin(page: Page) -> None:
    page.locator(".reply.post .read-token").nth(2).click()
    expect(page.locator(".token-card [data-do=branch]").first).to_be_visible()


def blind(page: Page) -> None:
    page.get_by_role("switch", name="Blind").click()
    finished(page)


def versions(page: Page) -> None:
    finished(page)
    page.locator("[data-do=retry]").click()
    ended(page)
    page.locator("#seed input").fill("77")
    page.locator("[data-do=retry]").click()
    ended(page)
    expect(page.locator(".versions")).to_contain_text("2/2")


def put_back(page: Page) -> None:
    finished(page)
    page.locator(".turn [data-do=delete]").click()
    expect(page.get_by_role("button", name="Put back 1 turn")).to_be_visible()


def editing(page: Page) -> None:
    finished(page)
    page.locator("[data-do=edit]").click()
    expect(page.locator(".editing")).to_be_visible()


def settings_open(page: Page) -> None:
    """The sidebar, which is shut on a phone, with a conversation in its list and all that folds open."""
    finished(page)
    unfold_sidebar(page)
    page.get_by_role("button", name="More sampling and framing").click()
    expect(page.locator("#framing_base input")).to_be_visible()
    expect(page.locator(".conversations li").first).to_be_visible()


def forgotten(page: Page) -> None:
    """A conversation of the list is deleted, with its way back."""
    finished(page)
    unfold_sidebar(page)
    page.locator(".conversations [data-do=delete]").click()
    expect(page.locator(".conversations").get_by_role("button", name="Put back")).to_be_visible()


def unfold_sidebar(page: Page) -> None:
    if page.locator(".sidebar:not(.open)").count():
        page.locator(".sidebar .toggle-button").click()


def linked(page: Page) -> None:
    """Opened by a link: the replies as they were shared, and nobody has checked them."""
    finished(page)
    page.locator("[data-do=link]").click()
    expect(page.locator("#notice")).to_contain_text("is copied")
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator(".turn.shared .caption")).to_contain_text("as shared, not checked")


def lens(page: Page) -> None:
    page.get_by_role("tab", name="Token lens").click()
    expect(page.locator("#lens_why")).to_contain_text("press Compare on the first tab")


def receipts(page: Page) -> None:
    page.get_by_role("tab", name="Receipts").click()
    expect(page.locator("#why_not")).to_contain_text("Two turns are needed")


STATES: tuple[Callable[[Page], None], ...] = (
    empty, streaming, error, finished, sent, code, card, blind, versions, put_back, editing, settings_open, forgotten,
    linked, lens, receipts,
)  # fmt: skip


def axe(page: Page, schemes: tuple[str, ...] = ("light", "dark")) -> None:
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"() => document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")
        page.evaluate(FADED)
        found = Axe().run(page)
        assert found.violations_count == 0, (scheme, found.generate_report())


def on_a_phone_and_a_desk(page: Page, again: Callable[[Page], None] = lambda page: None) -> None:
    """The same page, opened on a PHONE; `again` does what the other width has undone."""
    axe(page)
    page.set_viewport_size(DESK)
    unfold_sidebar(page)  # as it is from the start where there is room for it
    again(page)
    axe(page)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe_finds_nothing(visitor, scripted, state):
    url = scripted(SAYS * 40, pause=0.05) if state is streaming else scripted(SAYS)  # for longer than axe takes
    page = visitor(url, viewport=PHONE, reduced_motion="reduce", **CLIPBOARD)
    state(page)
    if state is card:
        on_a_phone_and_a_desk(page, again=pin)
    else:
        on_a_phone_and_a_desk(page)
