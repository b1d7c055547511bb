"""The report of a study: one file that asks nothing of anybody, says what was counted, and carries its receipt."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from axe_playwright_python.sync_playwright import Axe

from core.study import export, report, store
from core.study import receipt as receipts
from core.study.plan import StudyPlan, StudyPrompt
from core.study.results import results
from tests.test_study_plan import plan
from tests.test_study_results import PARIS, say
from tests.test_study_run import Typist, perform

HOSTILE = "</pre></script><script>alert(1)</script><img src=https://a.example/x onerror='x'>\u202eabc & \"q\""


def reported(asked: StudyPlan, say=say) -> tuple[export.StudyReport, str]:
    with store.opened(None) as kept:
        perform(asked, kept, Typist(say, slots=4))
        written = kept.written(asked)
        made = export.StudyReport(results=results(asked, written), receipt=receipts.make(asked, kept, written))
    return made, report.html_report(asked, written, made)


class Reader(HTMLParser):
    """Every tag with its attributes; fails where they are not closed in turn."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def one():
    return reported(plan(checks=(PARIS,), seeds=16))


def test_it_says_the_rates_and_groups_equal_replies(one):
    made, text = one
    read = Reader(text)
    arm = made.results.whole.arms[1]
    assert export.rate(arm.rates["contains:Paris"]) in read.text
    for title in ("Each under its own framing", "Both under document", "Both under chat", "unpaired seeds would give"):
        assert title in read.text
    assert f"post-trained, chat: {arm.distinct} distinct of 16" in read.text
    assert f"{arm.rates['contains:Paris'].passed} of 16" in read.text and "It is Paris." in read.text
    labels = [attributes["aria-label"] for tag, attributes in read.tags if tag == "svg"]
    assert any(f"contains:Paris, post-trained: {arm.rates['contains:Paris'].share:.0%}" in label for label in labels)
    assert any(label.startswith("The word at which the two part.") for label in labels)
    assert any(label.startswith("The token at which the two part.") for label in labels)
    assert "ranching factor" not in read.text


def test_where_it_was_asked_the_branching_factor_stands_in_the_table_and_over_the_tokens():
    made, text = reported(plan(checks=(PARIS,), seeds=16, branching=True))
    read = Reader(text)
    assert export.branching(made.results.whole.arms[0].branching) in read.text and "1.27 (" in read.text
    labels = [attributes["aria-label"] for tag, attributes in read.tags if tag == "svg"]
    assert sum(label.startswith("The branching factor at each token, ") for label in labels) == 3
    assert any("base: 2.72 at the first" in label for label in labels)


def test_it_asks_nothing_of_anybody_and_one_script_alone_may_run(one):
    _, text = reported(plan(HOSTILE, seeds=8, checks=(PARIS,)), lambda comparison, side: HOSTILE)
    for page in (text, one[1]):
        read = Reader(page)
        assert {tag for tag, _ in read.tags} <= {
            "html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "p", "pre", "dl", "dt", "dd",
            "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "line", "polyline", "text", "circle", "rect", "span", "code", "script",
            "button", "label", "input", "details", "summary",
        }  # fmt: skip
        assert [attributes for tag, attributes in read.tags if tag == "script"] == [
            {"type": "application/json", "id": "receipt"},
            {},
        ]
        [policy] = [attributes["content"] for tag, attributes in read.tags if "http-equiv" in attributes]
        _, _, own = page.rpartition("<script>")
        digest = hashlib.sha256(own.partition("</script>")[0].encode()).digest()
        assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy, "no other script may run"
        names = {name for _, attributes in read.tags for name in attributes}
        assert not {name for name in names if name in ("src", "href", "style") or name.startswith("on")}
        assert "url(" not in page and "@import" not in page and "default-src 'none'" in page


def test_the_receipt_in_it_is_the_receipt(one):
    for made, text in (one, reported(plan(HOSTILE, seeds=8), lambda comparison, side: HOSTILE)):
        assert receipts.is_one(text.encode()) and receipts.read(text.encode()) == made.receipt


@pytest.fixture(scope="module")
def suite():
    rows = tuple(StudyPrompt(prompt=f"Question {i}?", category="ab"[i % 2], expect=PARIS) for i in range(12))
    return reported(plan(prompts=rows, seeds=2, crossed=False))


def test_a_suite_has_its_categories_and_prompts(suite):
    made, text = suite
    read = Reader(text)
    assert "By category" in read.text and "By prompt, those at which verdicts flip most first" in read.text
    assert [f"Row {each.rows[0]}" for each in made.results.prompts] == re.findall(r"<h3>(Row \d+)</h3>", text)


def test_every_flip_is_told_with_both_replies(suite):
    made, text = suite
    flips = sum(contrast.gaps["expect"].flips for contrast in made.results.whole.contrasts)
    section = Reader(text.partition("<h2>Flips</h2>")[2].partition("</section>")[0])
    assert section.text.count("expectpost-trainedboth") + section.text.count("expectbaseboth") == flips > 0
    assert len([tag for tag, _ in section.tags if tag == "details"]) == sum(
        gap.flips for contrast in made.results.whole.contrasts for gap in contrast.gaps.values()
    )


def test_its_tables_sort_by_a_column_and_show_the_rows_that_hold_some_words(suite, browser, tmp_path):
    made, text = suite
    file = tmp_path / "report.html"
    file.write_text(text, "utf-8")
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(file.as_uri())
        place = page.get_by_role("region", name="By prompt: expect")
        head = place.get_by_role("columnheader", name="post-trained")
        shares = [each.arms[1].rates["expect"].share for each in made.results.prompts]
        for order, expected in (("descending", sorted(shares)[::-1]), ("ascending", sorted(shares))):
            head.get_by_role("button").click()
            assert head.get_attribute("aria-sort") == order
            shown = [
                cell.split(",")[1].split("%")[0] for cell in place.locator("tbody td:nth-child(3)").all_inner_texts()
            ]
            assert [int(share) for share in shown] == [round(100 * share) for share in expected]
        place.get_by_role("columnheader", name="prompt", exact=True).get_by_role("button").click()
        assert head.get_attribute("aria-sort") is None
        names = place.locator("tbody th").all_inner_texts()
        assert names == [f"Question {i}?" for i in range(12)], "numbers in texts count as numbers"
        page.get_by_role("searchbox", name="Rows with, By prompt: expect").fill("10? QUESTION")
        assert place.locator("tbody tr:visible th").all_inner_texts() == ["Question 10?"]
        assert "1 of 12 rows" in place.locator("xpath=..").inner_text()


def test_it_has_an_end_and_says_what_it_left_out(monkeypatch):
    rows = tuple(StudyPrompt(prompt=f"{'x' * 400} {i}", category=str(i)) for i in range(12))
    monkeypatch.setattr(report, "MOST_BYTES", 25_000)
    _, text = reported(plan(prompts=rows, seeds=1), lambda comparison, side: "y" * 900 + side)
    assert len(text.encode()) <= 25_000
    read = Reader(text)
    assert "the replies. --receipt" in read.text and "the settings" not in read.text
    assert receipts.is_one(text.encode()) and "This file carries the receipt" in read.text
    rows = tuple(row.model_copy(update={"prompt": 5 * row.prompt}) for row in rows)
    _, text = reported(plan(prompts=rows, seeds=1), lambda comparison, side: side)
    assert len(text.encode()) <= 25_000 and not receipts.is_one(text.encode())
    assert "replay receipt.json" in text and "replay report.html" not in text


def test_a_report_of_long_replies_that_all_differ_is_whole():
    made, text = reported(plan(seeds=48), lambda comparison, side: f"{side} {comparison.sampling.seed} {'y' * 1500}")
    assert len(text.encode()) < report.MOST_BYTES // 2, "more of them add a digest each, and nothing else"
    assert receipts.read(text.encode()) == made.receipt and "Left out" not in text and "And 8 more." in text


def test_axe_finds_nothing_and_no_request_leaves(one, suite, browser, tmp_path):
    file = tmp_path / "report.html"
    for scheme, (_, text) in (("light", one), ("dark", suite)):
        file.write_text(text, "utf-8")
        with browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 800}) as context:
            page = context.new_page()
            asked: list[str] = []
            said: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto(file.as_uri())
            found = Axe().run(page)
            assert not found.violations_count, found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert asked == [file.as_uri()] and not said
