"""The Studies tab in a real browser, and the endpoint behind it, over one page whose models say what they are told."""

import json

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from core.study import link, receipt
from core.study.export import StudyReport
from core.study.run import StudyProgress
from core.types import DEFAULT_SAMPLING
from tests.browser import ask, ended
from tests.scripted import PAIR
from tests.test_axe import CLIPBOARD, axe

SAYS = ("The capital is Lyon, I think, or perhaps another town further to the south.", "It is Paris.")
SUITE = {"name": "mine.csv", "mimeType": "text/csv", "buffer": b"prompt,category,expect\nOne?,a,Paris\nTwo?,b,Lyon\n"}
PLAN = {
    "prompts": [{"prompt": "What is the capital of France?"}],
    "pairs": [PAIR.id],
    "seeds": 8,
    "sampling": DEFAULT_SAMPLING.model_dump(),
    "today": "2026-01-31",
    "checks": [{"kind": "contains", "value": "Paris"}],
}


def open_tab(page: Page) -> None:
    """The tabs of a narrow page may be in a menu."""
    tab = page.get_by_role("tab", name="Studies")
    expect(tab).to_be_visible()
    tab.click()
    expect(page.locator("#study_start")).to_be_visible()


def run(page: Page, seeds: int = 8) -> None:
    page.locator("#study_seeds input").fill(str(seeds))
    page.locator("#study_seeds input").press("Tab")
    page.locator("#study_start").click()
    expect(page.locator(".study-headline")).to_be_visible()
    expect(page.locator("#study_start")).to_have_text("Run the study")


def test_a_stranger_counts_looks_at_a_reply_and_runs_it_again_in_compare(visitor, scripted):
    page = visitor(scripted(*SAYS))
    ask(page, "My own question")
    ended(page)
    open_tab(page)
    run(page)
    expect(page.locator(".study-headline .post")).to_contain_text("8 of 8")
    expect(page.locator(".study-headline .difference")).to_contain_text("+100")
    with page.expect_download() as download:
        page.locator("#study_html").click()
    report = download.value.path().read_bytes()
    assert receipt.read(report).plan.repetitions == 8
    with page.expect_download() as download:
        page.locator("#study_json").click()
    assert receipt.read(download.value.path().read_bytes()).sha256 == receipt.read(report).sha256
    group = page.locator(".study-arm.post li").first
    expect(group).to_contain_text("It is Paris.")
    group.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_contain_text("Loaded from a study")
    expect(page.locator("#prompt textarea")).to_have_value("What is the capital of France?")
    page.locator("#prompt textarea").press("Enter")
    ended(page)
    expect(page.locator("#banner")).to_contain_text("These are the replies that were shared, token for token")
    page.get_by_role("button", name="Back to my conversation").click()
    expect(page.locator(".turn .words")).to_contain_text("My own question")


def test_the_link_of_a_study_opens_it_for_somebody_else_who_is_told_that_the_replies_are_the_same(visitor, scripted):
    url = scripted(*SAYS)
    page = visitor(url, **CLIPBOARD)
    open_tab(page)
    page.locator("#study_tests textarea").fill("contains:Lyon")
    page.locator("#temperature input[type=number]").fill("0.9")
    run(page)
    page.locator("#study_link").click()
    expect(page.locator("#study_notice")).to_contain_text("The link of this study is copied")
    address = page.evaluate("navigator.clipboard.readText()")
    assert address.startswith(url) and link.decode(address).plan.sampling.temperature == 0.9
    other = visitor(address)
    expect(other.locator("#study_notice")).to_contain_text("A study that somebody shared: 32 replies")
    expect(other.locator("#study_seeds input")).to_have_value("8")
    expect(other.locator("#study_tests textarea")).to_have_value("contains:Lyon")
    other.locator("#study_start").click()
    expect(other.locator("#study_notice")).to_contain_text("These are the replies that were shared, every one.")
    expect(other.locator(".study-headline .base")).to_contain_text("8 of 8")


@pytest.mark.parametrize("width", [1440, 390])
def test_a_suite_that_is_dropped_is_accessible_and_fits(visitor, scripted, width):
    page = visitor(scripted(*SAYS), viewport={"width": width, "height": 844}, reduced_motion="reduce")
    open_tab(page)
    axe(page)
    page.locator("#study_file input[type=file]").set_input_files(SUITE)
    expect(page.locator("#study_asked input")).to_have_value("mine.csv: 2 prompts")
    expect(page.locator("#study_prompt")).to_be_hidden()
    run(page, 2)
    page.locator(".study-more > summary").first.click()
    expect(page.locator("#study_row input")).to_be_visible()
    axe(page)
    flips = page.get_by_role("region", name="Prompts and seeds at which the two verdicts differ")
    page.get_by_role("searchbox", name="Rows with, Prompts and seeds").fill("two expect")
    expect(flips.locator("tbody tr:visible")).to_have_count(2)
    flips.get_by_role("button", name="seed").click()
    expect(flips.locator("tbody tr:visible td:nth-child(3)")).to_have_text(["2", "1"])
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    flips.locator("tbody tr:visible button").first.click()
    expect(page.locator("#banner")).to_contain_text("Loaded from a study")
    expect(page.locator("#prompt textarea")).to_have_value("Two?")


def test_a_study_that_is_stopped_shows_what_came_until_then(visitor, scripted):
    page = visitor(scripted("one two three four", "one two three four", pause=0.2))
    open_tab(page)
    page.locator("#study_start").click()
    expect(page.locator("#study_progress")).to_contain_text("of 256 replies")
    page.wait_for_function("() => document.querySelector('#study_progress progress')?.value > 1")
    page.locator("#study_stop").click()
    expect(page.locator("#study_notice")).to_contain_text("Stopped.")
    expect(page.locator(".study-headline")).to_contain_text("It was ended early")


@pytest.mark.slow
def test_the_endpoint_says_how_far_it_is_and_ends_with_the_report(scripted):
    client = Client(scripted(*SAYS, loading=0.5), verbose=False)
    job = client.submit(PLAN, api_name="/study")
    _, *progress, last = list(job)
    report = StudyReport.model_validate_json(json.dumps(last))
    assert report.results.done == 32 and receipt.read(receipt.dump(report.receipt).encode()) == report.receipt
    told = [StudyProgress.model_validate(each) for each in progress]
    assert "Downloading" in told[0].loading and all(each.total == 32 for each in told)
    for wrong, sentence in (
        ({**PLAN, "pairs": ["nobody"]}, "There is no pair 'nobody' here"),
        ({**PLAN, "seeds": 7}, "one prompt needs 8 to 1,024 seeds"),
        ({**PLAN, "checks": [{"kind": "regex", "value": "("}]}, "no regular expression"),
        ([], "valid dictionary"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(wrong, api_name="/study")
    client.close()
