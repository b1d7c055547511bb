"""The page that asks one comparison six ways, and the notebook: each as it stands there, over the same models."""

import ast
import contextlib
import io
import json
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from playwright.sync_api import expect

from core import cli, links, python
from core.cli import compare as command
from core.run import compare
from core.types import SIDES, Comparison, Result
from tests.browser import ended, reply, served
from tests.ports import free_port
from tests.test_house import ROOT

WAYS = (ROOT / "docs" / "ways.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", WAYS, re.MULTILINE))
ASKED = Comparison.of("embedded", "What is the capital of France?", seed=7, max_new_tokens=40, today="2026-01-31")
WRITTEN_DOWN = "http://127.0.0.1:7860"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def expected(pool) -> Result:
    with pool.wait("embedded") as lease:
        return compare(lease, ASKED)


@pytest.fixture(scope="module")
def url(pool):
    with served(pool, mcp=True) as url:
        yield url


@pytest.fixture
def on_these_models(pool, monkeypatch) -> None:
    """What would load models of its own takes those of the tests."""
    monkeypatch.setattr(python, "_models", lambda settings: pool)
    monkeypatch.setattr(command, "Pool", lambda *given: nullcontext(pool))


def code(way: str, language: str, url: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[way], re.MULTILINE | re.DOTALL)
    return found.replace(WRITTEN_DOWN, url).replace("same_seed", "core")


def printed(source: str) -> str:
    """On a thread of its own: that of the tests may have the event loop of the browser's driver, and the lines have one too."""
    with contextlib.redirect_stdout(io.StringIO()) as out, ThreadPoolExecutor(1) as thread:
        thread.submit(exec, source, {}).result()
    return out.getvalue()


def test_the_page_has_six_ways():
    assert list(SECTIONS) == ["On the page", "On the command line", "From Python", "Over HTTP", "With OpenAI's client", "Over MCP"]  # fmt: skip


@pytest.mark.parametrize("way", ["From Python", "With OpenAI's client", "Over MCP"])
def test_by_the_lines_of_a_program(way, url, expected, on_these_models):
    assert printed(code(way, "python", url)) == f"{expected.base.text}\n{expected.post.text}\n"


def test_on_the_command_line(expected, on_these_models, capsys):
    [line] = re.findall(r"^    python app\.py (.*)$", SECTIONS["On the command line"], re.MULTILINE)
    assert cli.run(shlex.split(line)) == 0
    said = capsys.readouterr().out
    assert all(expected.side(side).text.strip() in said for side in SIDES)


def test_over_http(url, expected):
    ended = subprocess.run(["sh", "-c", code("Over HTTP", "sh", url)], capture_output=True, text=True, check=False)
    [answer] = json.loads(ended.stdout.rstrip().rpartition("\ndata: ")[2])
    assert Comparison.model_validate(answer["comparison"]) == ASKED
    assert [answer[side]["text"] for side in SIDES] == [expected.side(side).text for side in SIDES], ended.stderr


def test_on_the_page(visitor, url, expected):
    [address] = re.findall(r"^    (http\S+)$", SECTIONS["On the page"], re.MULTILINE)
    assert links.decode(address.removeprefix(f"{WRITTEN_DOWN}/")) == links.Shared(comparison=ASKED)
    page = visitor(address.replace(WRITTEN_DOWN, url))
    box = page.locator("#prompt textarea")
    expect(box).to_have_value(ASKED.prompt)
    box.press("Enter")
    expect(page.locator(".turn .reply.post .text")).to_have_count(1)
    ended(page)
    for side in SIDES:
        assert reply(page, side).strip().split() == expected.side(side).text.split()


# --- the notebook -----------------------------------------------------------------------------------------------

NOTEBOOK = json.loads((ROOT / "docs" / "colab.ipynb").read_text("utf-8"))
CELLS = {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}


def test_the_notebook_holds_no_outputs_and_installs_what_it_imports():
    assert [cell["outputs"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"] == [[]] * len(CELLS)
    assert list(CELLS) == ["install", "parameters", "serve", "compare"]
    assert '%pip install --quiet "same-seed @ {SOURCE}"' in CELLS["install"]
    assert "from same_seed import" in CELLS["serve"]


def test_the_notebook_runs_as_far_as_it_goes_without_a_gpu_and_a_link(pool, on_these_models):
    """With parameters of its own: another pair, the dtype of this machine, no link."""
    wanted = {name.id for name in ast.parse(CELLS["parameters"]).body[0].targets[0].elts}  # type: ignore[attr-defined]
    given: dict[str, Any] = {"PAIR": "embedded", "DTYPE": "auto", "SHARE": False, "PORT": free_port()}
    assert set(given) == wanted
    assert any(pair.id == "olmo2-1b" for pair in pool.pairs) and '"olmo2-1b", "float16", True' in CELLS["parameters"]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(CELLS["serve"].replace("same_seed", "core"), given)
        assert f"http://127.0.0.1:{given['PORT']}/" in out.getvalue()
        shown = eval(CELLS["compare"], given)._repr_html_()
    finally:
        if "page" in given:
            given["page"].close(verbose=False)
    assert "Post-trained: Llama-Same-Seed" in shown and "Paris" in shown
