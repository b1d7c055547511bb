"""The page in a frame: shown by the origins that the operator names and by nobody else, and whole where its storage is refused."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tests.browser import served
from tests.ports import free_port
from tests.scripted import ScriptedPool

REFUSED = """for (const name of ["localStorage", "sessionStorage"]) if (self !== top)
  Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *said: object) -> None: ...


@contextmanager
def platform(folder: Path, port: int) -> Iterator[None]:
    """A server of somebody else's pages, under 127.0.0.1 and, which is another site to a browser, under localhost."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Iterator[tuple[str, str, str]]:
    """The page; the platform's own origin, which may show it; and another, which may not."""
    folder, port, other = tmp_path_factory.mktemp("platform"), free_port(), free_port()
    origin = f"http://localhost:{port}"
    with (
        served(ScriptedPool("Base words.", "Chat words."), embed_in=(origin,)) as url,
        platform(folder, port),
        platform(folder, other),
    ):
        frame = f"<iframe src='{url}/?embed=1' style='border:0;width:100%;height:96vh'></iframe>"
        (folder / "index.html").write_text(f"<!doctype html><title>Lesson</title>{frame}", "utf-8")
        yield url, origin, f"http://localhost:{other}"


def ask_in(frame: FrameLocator) -> None:
    box = frame.locator("#prompt textarea")
    box.wait_for()
    frame.locator("html.embedded").wait_for()
    expect(frame.locator(".sidebar.open")).to_have_count(0)  # page.js ran, so the page is wired
    box.fill("Which words?")
    box.press("Enter")
    expect(frame.locator(".turn .reply.base .text").last).to_contain_text("Base words.")
    expect(frame.locator(".turn .reply.post .text").last).to_contain_text("Chat words.")


def test_only_the_named_origin_stands_in_the_policy(embedded):
    url, origin, _ = embedded
    for path in ("/", "/gradio_api/info", "/nowhere"):
        policy = httpx.get(f"{url}{path}").headers.get("content-security-policy", "")
        found = re.findall(r"frame-ancestors ([^;]*)", policy)
        assert found == ([origin] if path != "/nowhere" else []), path


def test_where_nobody_is_named_it_is_as_it_was(_scripted_page):
    policy = httpx.get(_scripted_page[1]).headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co https://*.hf.space")


@pytest.mark.parametrize("refused", [False, True], ids=["partitioned", "refused"])
def test_the_named_page_shows_it_with_less_around_it_whatever_becomes_of_its_storage(embedded, come, refused):
    _, origin, _ = embedded
    page: Page = come()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    if refused:
        page.add_init_script(REFUSED)
    page.goto(origin)
    frame = page.frame_locator("iframe")
    ask_in(frame)
    for around in ("#foot", "footer", "#conversations"):
        expect(frame.locator(around)).to_be_hidden()
    assert errors == []


def test_another_page_may_not_show_it(embedded, come):
    _, _, other = embedded
    page: Page = come()
    with page.expect_console_message(lambda said: "frame-ancestors" in said.text):
        page.goto(other)
    assert page.frame_locator("iframe").locator("#prompt").count() == 0
