"""What tests share: no network, one thread for the reference computations, a browser, and pages that are already served.

Starting a browser, loading the embedded pair and serving a page take seconds, so each is done once
for all tests, and only when a test asks for it.
"""

import gc
import os
from collections.abc import Callable, Iterator

import pytest

from core import settings

settings.quieten()
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

expect.set_options(timeout=60_000)  # milliseconds until a wait has failed: on a busy machine nothing is quick
torch.set_num_threads(1)  # tiny models: threads that wait for each other cost more than they save


@pytest.hookimpl(tryfirst=True)  # before -m chooses among them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What drives a browser, by whatever fixture, is marked as such; what is to come first comes first."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from tests import browser as chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.executable(), args=chromium.ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def visitors(browser):
    from tests.browser import Visitors

    return Visitors(browser)


@pytest.fixture
def come(visitors, request) -> Iterator[Callable[..., Page]]:
    """A function that gives a fresh visitor (own storage) a blank page. After a failure none of them serves another test."""
    pages: list[Page] = []
    failed = request.session.testsfailed

    def come(**options) -> Page:
        pages.append(visitors.come(**options))
        return pages[-1]

    yield come
    for page in pages:
        visitors.leave(page, for_good=request.session.testsfailed > failed)


@pytest.fixture
def visitor(come) -> Iterator[Callable[..., Page]]:
    """A function that opens a fresh visitor on an address; every one is watched to the end."""
    from tests.browser import Watch, open_page

    watches: list[Watch] = []

    def visit(url: str, **options) -> Page:
        page = come(**options)
        watches.append(Watch(page, url.partition("#")[0].rstrip("/")))
        open_page(page, url)
        return page

    yield visit
    for watch in watches:
        watch.end()
    for watch in watches:
        watch.check()


@pytest.fixture(scope="session")
def pool():
    """The pool of this machine, in which only the embedded pair can be loaded."""
    from core.hub import HuggingFaceHub
    from core.pool import Pool

    pool = Pool(settings.Settings(arithmetic="fast"), HuggingFaceHub())  # the portable one is slower
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def portable():
    """The same in the arithmetic in which the app serves it."""
    from core.hub import HuggingFaceHub
    from core.pool import Pool

    with Pool(settings.Settings(), HuggingFaceHub()) as pool:
        yield pool


@pytest.fixture(scope="session")
def url(pool) -> Iterator[str]:
    """The page over the embedded pair."""
    from tests import browser as chromium

    with chromium.served(pool) as url:
        yield url


@pytest.fixture(scope="session")
def _scripted_page():
    from tests import browser as chromium
    from tests.scripted import ScriptedPool

    pool = ScriptedPool()
    with chromium.served(pool) as url:
        yield pool, url


@pytest.fixture
def scripted(_scripted_page):
    """A function that says what both models write from now on; returns the page's address."""
    pool, url = _scripted_page

    def says(base: str, post: str | None = None, *, pause: float = 0.0, loading: float = 0.0) -> str:
        pool.say(base, base if post is None else post, pause=pause, loading=loading)
        return url

    return says
