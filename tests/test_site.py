"""The documentation as a site: every link of it leads somewhere, and who reads it asks no other host for anything."""

import contextlib
import io
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import expect

from core import python, schemas
from core.types import Sampling
from tests.browser import Watch

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Found(HTMLParser):
    """What a page loads by itself, where its links lead, and the places in it that others can lead to."""

    def __init__(self, page: Path):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        told = [values[name] for name in ("src", "data", "poster", "action", "xlink:href") if name in values]
        told += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        told += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))
        if "href" in values:
            only_says = tag == "a" or (tag == "link" and values.get("rel") in ("canonical", "prev", "next"))
            (self.links if only_says else told).append(values["href"])
        self.loads += told


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Found]:
    # That of a missing page stands under whatever address was asked for, so its links begin at the top.
    return {page: Found(page) for page in site.rglob("*.html") if page.name != "404.html"}


def leads_outside(address: str) -> bool:
    return bool(urlsplit(address).scheme not in ("", "data") or urlsplit(address).netloc)


@pytest.mark.slow
def test_reading_the_site_asks_no_other_host(site, pages):
    assert len(pages) > 20
    for page, found in pages.items():
        assert not [address for address in found.loads if leads_outside(address)], page
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        asked = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s]+)", sheet.read_text("utf-8"))
        assert not [address for address in asked if leads_outside(address)], sheet


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_something_in_it(pages):
    for page, found in pages.items():
        for address in {*found.links, *found.loads}:
            if leads_outside(address) or address.startswith("data:"):
                continue
            target = (page.parent / unquote(urlsplit(address).path)).resolve() if urlsplit(address).path else page
            assert target.is_file(), (page.name, address)
            place = unquote(urlsplit(address).fragment)
            assert not place or target not in pages or place in pages[target].places, (page.name, address)


@pytest.fixture
def address(site) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *said) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_in_a_browser_it_can_be_searched_and_asks_no_other_host(browser, address):
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        watch = Watch(page, address)
        for name in ("index.html", "docs/gallery.html", "docs/reference/values.html"):
            page.goto(f"{address}/{name}", wait_until="networkidle")
        expect(page.locator("[id='core.types.Comparison']")).to_be_visible()
        page.get_by_role("textbox", name="Search").press_sequentially("Gumbel")
        expect(page.locator(".md-search-result__link").first).to_be_visible()
        watch.check()


def test_the_glossary_has_the_terms_of_the_field_and_of_the_page():
    terms = re.findall(r"^### (.+)$", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert len(terms) == len(set(terms))
    settings = {
        name.replace("top_", "top-").replace("min_", "min-").replace("_", " ") for name in Sampling.model_fields
    }
    of_the_field = "base model, post-training, chat template, logit, log-probability, nat, kl divergence, gumbel noise, common random numbers, prefill, slot, certification, receipt"
    assert settings | set(of_the_field.split(", ")) <= {term.lower() for term in terms}


def test_the_schemas_that_are_listed_are_those_that_are_there():
    listed = re.findall(r"\((\w+\.schema\.json)\)", (DOCS / "schemas" / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(schemas.documents())


@pytest.mark.slow
def test_the_lines_of_the_page_from_python_run(portable, monkeypatch):
    few, lines = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "reference" / "README.md").read_text("utf-8"), re.M | re.S
    )
    assert len(few.splitlines()) == 6
    monkeypatch.setattr(python, "_models", lambda settings: portable)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(few.replace("same_seed", "core"), "docs/reference/README.md", "exec"), {})
        exec(compile(lines, "docs/reference/README.md", "exec"), {})
    first, *_, reply, figure = [line for line in printed.getvalue().splitlines() if line]
    assert first in printed.getvalue().partition(reply)[2], "the same replies"
    assert "Paris" in reply
    assert re.search(r"changed \d+\.\d\d nats", figure)
