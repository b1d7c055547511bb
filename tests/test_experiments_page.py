"""The Experiments tab in a real browser, and a class of visitors at once, over tiny models that really write."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from core import experiments, receipts
from core.experiments import (
    EXPERIMENTS,
    ExperimentVerdict,
    Lab,
    answers,
    correction,
    costume,
    cutoff,
    inputs,
    ledger,
    repeat,
    weights,
)
from core.experiments.values import Exhibit, Finding, Plot, PlotMark, Series, Table
from core.hub import HuggingFaceHub
from core.pool import Pool
from core.run import compare
from core.settings import Settings
from core.ui import page as whole_page
from core.ui.experiments import plot
from core.ui.experiments import render as experiments_render
from tests import browser as chromium
from tests import tiny
from tests.browser import ask, ended
from tests.ports import free_port
from tests.test_axe import axe

PATIENCE = 240_000  # milliseconds; a busy machine takes its time
CLASS = 8


@pytest.fixture(scope="module", autouse=True)
def few_and_short():
    """How much is written does not matter to the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.experiments.repeat.REPEATS", 1)
        for module in (answers, correction, costume, cutoff, inputs, ledger, repeat, weights):
            patch.setattr(module, "REPLY_TOKENS", 8)
        yield


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    base, post = tiny.save_pair(tmp_path_factory.mktemp("pair"), context=1024)
    pool = Pool(Settings(base=str(base), post=str(post), device="cpu", threads=1), HuggingFaceHub())
    pool.wait(pool.default.id).release()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def url(pool):
    with chromium.served(pool) as url:
        yield url


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Experiments").click()
    expect(page.locator(".exp-card")).to_have_count(len(EXPERIMENTS))


def run(page: Page, name: str) -> None:
    """Run an experiment from its card."""
    title = experiments.find(name).title
    page.get_by_role("button", name=f"Run it: {title}").click()
    expect(page.locator(".exp-verdict")).to_be_visible(timeout=PATIENCE)


def drawn_well(page: Page) -> None:
    """Axe finds nothing in either scheme, and nothing but marked regions scrolls sideways."""
    axe(page)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_every_experiment_runs_in_the_browser_and_ends_in_its_verdict(visitor, url):
    page = visitor(url)
    open_tab(page)
    for experiment in EXPERIMENTS:
        run(page, experiment.name)
        expect(page.locator("#exp_intro h2")).to_have_text(experiment.title)
        expect(page.locator(".exp-steps li.done").first).to_be_visible()
        assert page.locator(".exp-steps li.now").count() == 0
        assert page.locator(".exp-verdict .badge").inner_text() in ("Shown by this pair", "Not shown by this pair")
        assert len(page.locator(".exp-verdict .sentence").inner_text()) > 40
        assert page.locator(".exp-table tbody tr").count() > 0
        for side in ("base", "post"):
            expect(page.locator(f"#exp_inputs .sent.{side} pre").first).not_to_be_empty()
        assert page.evaluate("location.hash") == f"#lesson={experiment.name}"
        page.get_by_role("button", name="All experiments").click()
        expect(page.locator(".exp-card").first).to_be_visible()
        assert page.evaluate("location.hash") == ""


# One with diffs and tables, one with a plot and its marks.
@pytest.mark.parametrize(("width", "name"), [(1440, "cutoff"), (390, "correction")])
def test_cards_and_verdicts_are_accessible_and_fit(visitor, url, width, name):
    page = visitor(url, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    open_tab(page)
    drawn_well(page)
    page.emulate_media(color_scheme="light")
    run(page, name)
    drawn_well(page)


def test_tables_fit_a_phone_and_a_reply_is_whole_on_a_press(visitor, url):
    page = visitor(url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.evaluate("location.hash = 'lesson=costume'")  # the tabs of so narrow a page are in a menu
    page.locator("#exp_start").click()
    expect(page.locator(".exp-verdict")).to_be_visible(timeout=PATIENCE)
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        for region in page.locator(".exp-table .scroll").all():
            assert region.evaluate("(box) => box.scrollWidth <= box.clientWidth"), (width, region.inner_text())
    row = page.locator(".exp-table tbody tr").first
    named = row.locator("td").first.evaluate("(cell) => getComputedStyle(cell, '::before').content")
    assert named == '"Rung"'
    story = next(rung for rung in costume.LADDER if "story" in rung.name).questions[0].text
    long = page.locator(".exp-table details").filter(has_text=story[:40]).first
    expect(long.locator("div")).to_be_hidden()
    long.locator("summary").tap()
    expect(long.locator("div")).to_have_text(story)


def test_cards_can_be_reached_and_run_by_keyboard(visitor, url):
    page = visitor(url)
    open_tab(page)
    page.get_by_role("link", name="Training is over").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#exp_intro")).to_contain_text("How it is judged")
    assert page.locator(".exp-steps").count() == 0, "a title only opens the text"
    page.locator("#exp_start").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".exp-verdict .badge")).to_have_text("Shown by this pair", timeout=PATIENCE)


def test_a_comparison_of_the_run_opens_in_compare_as_receipt_and_as_link(visitor, url):
    page = visitor(url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "My own question")
    ended(page)
    open_tab(page)
    run(page, "inputs")
    page.locator("#exp_chosen input").click()
    page.get_by_role("option", name="Changed: seed (99)").click()
    expect(page.locator("#exp_inputs")).to_contain_text("seed 99")
    with page.expect_download() as download:
        page.locator("#exp_receipt").click()
    receipt = receipts.read(download.value.path().read_bytes())
    assert receipt.comparison.sampling.seed == 99 and receipt.comparison.prompt == "What is a good name for a cat?"
    page.locator("#exp_link").click()
    expect(page.locator("#exp_notice")).to_contain_text("is copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{url}/#c=")
    page.locator("#exp_open").click()
    expect(page.locator("#banner")).to_contain_text("Loaded from a guided experiment")
    expect(page.locator("#prompt textarea")).to_have_value("What is a good name for a cat?")
    page.locator("#prompt textarea").press("Enter")
    ended(page, PATIENCE)
    expect(page.locator("#banner")).to_contain_text("These are the replies that were shared, token for token")
    page.get_by_role("button", name="Back to my conversation").click()
    expect(page.locator(".turn .words")).to_contain_text("My own question")


def test_a_link_to_a_lesson_opens_its_text_and_runs_nothing(visitor, url):
    page = visitor(url)
    page.goto(f"{url}/#lesson=costume")  # in an open page only the fragment changes
    expect(page.locator("#exp_intro h2")).to_have_text("The costume slips")
    assert page.locator(".exp-steps, .exp-verdict").count() == 0
    page.evaluate("location.hash = '#lesson=ledger'")
    expect(page.locator("#exp_intro h2")).to_have_text("One function call per token, and copies scale")
    page.evaluate("location.hash = '#lesson=nothing'")
    expect(page.locator("#prompt textarea")).to_be_visible()


def test_the_flag_lesson_opens_the_page_on_it(come, pool):
    demo = whole_page.build(pool, experiments.find("repeat"))
    _, address, _ = whole_page.launch(demo, Settings(port=free_port()), prevent_thread_lock=True, quiet=True)
    try:
        page = come()
        page.goto(address)
        expect(page.locator("#exp_intro h2")).to_have_text("Same inputs, same output")
        page.get_by_role("button", name="All experiments").click()
        expect(page.locator(".exp-card")).to_have_count(len(EXPERIMENTS))
    finally:
        demo.close(verbose=False)


def test_an_experiment_that_is_stopped_shows_what_came_until_then_and_no_verdict(visitor, scripted):
    page = visitor(scripted("one two three four five six seven eight nine ten " * 3, pause=0.05))
    open_tab(page)
    page.get_by_role("button", name="Run it: If it behaves differently").click()
    expect(page.locator(".exp-steps li.now")).to_contain_text("One input at a time", timeout=PATIENCE)
    page.locator("#exp_stop").click()
    expect(page.locator("#exp_notice")).to_contain_text("Stopped", timeout=PATIENCE)
    assert page.locator(".exp-verdict").count() == 0
    expect(page.locator("#exp_start")).to_have_text("Run it again")
    page.locator("#exp_start").click()
    expect(page.locator(".exp-steps li.now")).to_contain_text(re.compile("[1-9] of .*left"), timeout=PATIENCE)
    page.locator("#exp_stop").click()
    expect(page.locator(".exp-verdict .badge")).to_have_text("Stopped early", timeout=PATIENCE)
    expect(page.locator(".exp-table")).to_contain_text("What was asked")
    expect(page.locator("#exp_receipt")).to_be_visible()


@pytest.mark.slow
def test_a_class_that_runs_the_same_experiment_at_once_gets_the_same_verdict(url):
    clients = [Client(url, verbose=False) for _ in range(3)]  # a client may ask many things at once

    def lesson(number: int) -> ExperimentVerdict:
        answer = clients[number % len(clients)].submit("repeat", api_name="/experiment").result(timeout=600)
        return ExperimentVerdict.model_validate_json(json.dumps(answer))

    with ThreadPoolExecutor(CLASS) as threads:
        verdicts = list(threads.map(lesson, range(CLASS)))
    for found in verdicts:
        assert found.finding.outcome == "shown", found.finding.sentence
        assert found.finding.figures["new_process"] == "identical"
    first = [verdict.finding.exhibits[0].result for verdict in verdicts]
    assert len({(result.base.token_ids, result.post.token_ids) for result in first}) == 1


@pytest.mark.slow
def test_an_unknown_experiment_is_one_sentence_at_the_endpoint(url):
    with pytest.raises(Exception, match="There is no experiment 'x'; choose one of"):
        Client(url, verbose=False).predict("x", api_name="/experiment")


# --- what is drawn ------------------------------------------------------------------------------------


def test_texts_of_models_are_escaped_everywhere(pool):
    hostile = "<script>alert(1)</script>${1}"
    lease = pool.wait(pool.default.id)
    result = compare(lease, Lab(lease, "2026-01-01").comparison("Hello", max_new_tokens=2))
    lease.release()
    evil = result.model_copy(update={"post": result.post.model_copy(update={"text": hostile, "prompt_text": hostile})})
    finding = Finding(
        outcome="shown",
        sentence=hostile,
        details=(hostile,),
        tables=(Table(title=hostile, columns=(hostile,), rows=((hostile,),)),),
        plots=(
            Plot(
                title=hostile, x_label=hostile, y_label=hostile, series=(Series(name=hostile, points=((0, 1), (1, 2))),)
            ),
        ),
        exhibits=(Exhibit(label=hostile, result=evil),),
    )
    found = ExperimentVerdict(
        experiment="x", pair=hostile, base_sha256="a" * 64, post_sha256="b" * 64, seconds=1, finding=finding
    )
    for drawn in (experiments_render.verdict(found), experiments_render.exhibit(finding.exhibits[0])):
        assert "<script" not in drawn


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-8.3, -2.1, [-10, -8, -6, -4, -2]), (0, 24, [0, 5, 10, 15, 20, 25]), (3, 3, None)],
)  # fmt: skip
def test_axes_have_round_numbers_that_span_the_data(low, high, ticks):
    found = plot.round_ticks(low, high)
    assert ticks is None or found == ticks
    assert found[0] <= low and found[-1] >= high and len(found) >= 2


def test_what_is_counted_has_whole_numbers_on_its_axis():
    copies = Plot(
        title="t",
        x_label="copies",
        y_label="y",
        series=(Series(name="a", points=((1.0, 1.0), (2.0, 2.0), (4.0, 3.0))),),
    )
    assert re.findall(r"text-anchor='middle'>([\d.]+)<", plot.svg(copies)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("years", [(1996, 1997, 2001), (2015, 2016, 2028), (1996, 2010, 2029), (1998, 2000, 2014)])
def test_no_line_of_a_mark_goes_through_words(years):
    """Measured on what is drawn: where each line begins, and how far each word may reach."""
    series = Series(name="a", points=tuple((float(year), -5.0) for year in range(1995, 2031)))
    marks = tuple(PlotMark(x=float(year), text=f"post-trained falls ({year})") for year in years)
    drawn = plot.svg(Plot(title="t", x_label="year", y_label="y", series=(series,), marks=marks))
    found = re.findall(
        r"<line x1='([\d.]+)' x2='[\d.]+' y1='([\d.]+)' y2='[\d.]+'/><text x='([\d.]+)' y='([\d.]+)' text-anchor='(\w+)'>([^<]+)",
        drawn,
    )
    assert len(found) == 3
    highest = min(float(y) for y in re.findall(r"<circle cx='[\d.]+' cy='([\d.]+)'", drawn))
    for _, _, x, y, anchor, text in found:
        width = plot.CHARACTER * len(text)
        left, right = (float(x), float(x) + width) if anchor == "start" else (float(x) - width, float(x))
        assert left >= 0 and right <= plot.WIDTH and float(y) < highest
        for line, top, *_ in found:
            assert not (left < float(line) < right and float(top) < float(y)), (text, line)
