"""The pictures of the README and of docs/gallery.md: `make pictures` takes them of the real page, light and dark.

They show real replies of the embedded pair in a real browser. What changes from run to run is not shown: the seconds of
an experiment, the day and the size of a conversation. So on one machine the same page gives the same bytes; on another
kind of processor replies may differ, and another Chromium or other fonts draw letters otherwise. Of the verdict the part
on the base model is left out for brevity.
"""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from core import settings
from core.hub import HuggingFaceHub
from core.pool import Pool
from tests import browser

DOCS = Path(__file__).parent.parent / "docs"
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
QUESTION = "Why is the sky blue?"
WIDTH = 1280  # CSS pixels; a picture has twice as many, for fine screens
LEFT_OUT = ", ".join((".conversations .open span", ".exp-verdict small", ".exp-diff.base", ".exp-table ~ .exp-table"))
PATIENCE = 300_000  # milliseconds; a busy machine takes its time


@dataclass(frozen=True)
class Picture:
    """One picture in both colours: what is done on a page on which QUESTION was answered, and what is then in the frame.

    `height` is of the window, in CSS pixels; `frame` is a selector, or "" for the window.
    """

    name: str
    show: Callable[[Page], None]
    height: int = 840
    frame: str = ""


def _finished(page: Page) -> None:
    browser.ask(page, QUESTION)
    browser.ended(page)


def _what_was_sent(page: Page) -> None:
    page.locator(".turn [data-do=sent]").click()
    page.locator(".was-sent .sent.post pre").wait_for()


def _lens(page: Page) -> None:
    page.get_by_role("tab", name="Token lens").click()
    expect(page.locator("#lens_turn input")).not_to_have_value("")
    page.locator("#lens_read").click()
    page.locator(".lens[data-state=done]").wait_for()
    page.locator(".lens-text .token").nth(1).click()


def _experiments(page: Page) -> None:
    page.get_by_role("tab", name="Experiments").click()
    page.locator(".exp-card").first.wait_for()


def _verdict(page: Page) -> None:
    page.locator("[data-run][data-lesson=correction]").click()
    page.locator(".exp-verdict").wait_for(timeout=PATIENCE)
    page.locator("#exp_exhibits").wait_for()


def _replay(page: Page) -> None:
    page.get_by_role("tab", name="Receipts").click()
    page.locator("#receipt_file input[type=file]").set_input_files(DOCS / "examples" / "capital-of-france.json")
    page.locator("#replay").click()
    page.locator("#verdict .verdict").wait_for(timeout=PATIENCE)


def _study(page: Page) -> None:
    page.get_by_role("tab", name="Studies").click()
    page.locator("#study_start").click()
    page.locator(".study-headline").wait_for(timeout=PATIENCE)
    expect(page.locator("#study_start")).to_have_text("Run the study")
    page.locator("#study_results").evaluate("(results) => results.scrollIntoView()")


# In this order: each begins where the one before it ended.
PICTURES = (
    Picture("compare", _finished),
    Picture("sent", _what_was_sent, frame=".was-sent"),
    Picture("lens", _lens, height=1100, frame="#lens"),
    Picture("experiments", _experiments, height=920),
    Picture("verdict", _verdict, height=1400, frame="#exp_verdict"),
    Picture("replay", _replay, frame="#check"),
    Picture("study", _study, height=1000),
)


@contextmanager
def opened(url: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.executable(), args=browser.ARGUMENTS)
        page = chromium.new_page(device_scale_factor=2, reduced_motion="reduce")
        page.set_viewport_size({"width": WIDTH, "height": PICTURES[0].height})
        browser.open_page(page, url)
        yield page
        chromium.close()


def take(page: Page, picture: Picture, scheme: Scheme) -> bytes:
    """A PNG of 256 colours, which is a third of what the browser writes and looks the same."""
    page.set_viewport_size({"width": WIDTH, "height": picture.height})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")
    page.mouse.move(0, 0)
    whole = Image.open(io.BytesIO(_settled(page, page.locator(picture.frame) if picture.frame else page)))
    small = io.BytesIO()
    colours = whole.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colours.save(small, "PNG", optimize=True)
    return small.getvalue()


def _settled(page: Page, area: Page | Locator) -> bytes:
    """What the browser draws once it draws the same twice."""
    before = b""
    while True:
        style = f"{LEFT_OUT} {{ display: none !important; }}"
        now = area.screenshot(animations="disabled", caret="hide", style=style)
        if now == before:
            return now
        before = now
        page.wait_for_timeout(400)


def main() -> int:
    settings.quieten()
    with (
        Pool(settings.Settings(), HuggingFaceHub()) as pool,
        browser.served(pool) as url,
        opened(url) as page,
    ):
        for picture in PICTURES:
            picture.show(page)
            for scheme in SCHEMES:
                file = DOCS / "pictures" / f"{picture.name}-{scheme}.png"
                file.write_bytes(take(page, picture, scheme))
                print(f"{file.name}  {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
