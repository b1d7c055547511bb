"""The Token lens tab in a real browser: what it shows, by mouse, keyboard and touch, and what it starts."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from core.types import DEFAULT_SAMPLING, LensReport
from tests.browser import ask, at_most, ended, reload, reply
from tests.test_axe import axe

GLOSSARY = (Path(__file__).parent.parent / "docs" / "glossary.md").read_text("utf-8")
PLANTS = "Plants are tiny chefs that cook with sunshine!\n\n1. **Sip** water from the soil.\n2. Breathe in air.\n"
HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> ${window.hacked = 3} {{x}} </span>\n"
)


def open_lens(page: Page) -> None:
    page.get_by_role("tab", name="Token lens").click()
    expect(page.locator("#lens_turn input")).not_to_have_value("")


def read(page: Page) -> None:
    page.locator("#lens_read").click()
    page.locator(".lens[data-state=done]").wait_for(timeout=60_000)


def shown(page: Page) -> str:
    return page.evaluate("[...document.querySelectorAll('.lens-text .token')].map((span) => span.textContent).join('')")


def saved(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value.path().read_text("utf-8")


def finished(page: Page) -> None:
    page.wait_for_function(
        "() => [...document.querySelectorAll('.what-if header')].filter((head) => !/Writing|Waiting/.test(head.innerText)).length === 2",
        timeout=60_000,
    )


def test_terms_come_behind_plain_words_and_stand_in_the_glossary(visitor, scripted):
    page = visitor(scripted("The sea is wide.", "The sea is deep."))
    ask(page, "The sea is")
    ended(page)
    open_lens(page)
    read(page)
    terms = page.locator(".lens .term").evaluate_all(
        "terms => terms.map((term) => [term.parentElement.textContent.split(term.textContent)[0], term.textContent])"
    )
    widgets = page.locator("#lens_what_if").inner_text()
    terms += re.findall(r"^(.+) \((\w+(?: \w+)?)\)$", widgets, re.MULTILINE)
    assert len(terms) >= 14 and all(plain.strip() for plain, _ in terms), terms
    headings = "\n".join(re.findall(r"^### .*|\*\*.*?\*\*", GLOSSARY, re.MULTILINE)).lower()
    assert [term for _, term in terms if term.lower().removesuffix("s") not in headings] == []


def test_the_lens_of_a_reply_agrees_with_the_endpoint_and_with_what_is_saved(visitor, url):
    page = visitor(url)
    at_most(page, 30)
    ask(page, "The sea is")
    ended(page)
    written = reply(page, "post")
    open_lens(page)
    read(page)
    assert " ".join(shown(page).replace("<|im_end|>", "").split()) == " ".join(written.split())
    sampling = {**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 30}
    client = Client(url, verbose=False)
    asked = {"pair": "embedded", "prompt": "The sea is", "sampling": sampling, "today": "2026-01-01"}
    answer = client.predict(asked, api_name="/compare")
    over_the_api = LensReport.model_validate(client.predict(answer, "post", "identical", api_name="/lens"))
    report = LensReport.model_validate_json(saved(page, "#lens_json"))
    assert report.lens == over_the_api.lens, "the same lens, to the last bit, made twice"
    assert report.summary == over_the_api.summary
    rows = list(csv.DictReader(io.StringIO(saved(page, "#lens_csv"))))
    assert [json.loads(row["text"]) for row in rows] == [shift.text for shift in report.lens.shifts]
    figures = page.locator(".lens-figures").inner_text()
    assert f"{report.summary.mean_kl:.2f} nats" in figures
    page.locator("#lens_context label").nth(1).click()
    page.locator("#lens_side label").nth(0).click()
    read(page)
    expect(page.locator(".lens-text")).to_have_attribute("aria-label", "Tokens of the base reply")
    with pytest.raises(Exception, match="none of base, post"):
        client.predict(answer, "both", "identical", api_name="/lens")


def test_the_link_of_a_lens_on_a_branch_opens_in_another_browser_and_gives_the_same_figures(visitor, url):
    page = visitor(url, permissions=["clipboard-read", "clipboard-write"])
    at_most(page, 20)
    ask(page, "The moon is")
    ended(page)
    open_lens(page)
    page.locator("#lens_hand_over").click()
    finished(page)
    page.locator("#lens_open").click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    open_lens(page)
    page.locator("#lens_side label").nth(0).click()
    page.locator("#lens_context label").nth(1).click()
    read(page)
    first = LensReport.model_validate_json(saved(page, "#lens_json"))
    assert len(first.comparison.prefill_base) == 5
    page.locator("#lens_link").click()
    expect(page.locator("#lens_notice")).to_contain_text("whoever opens it")
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('#c=')")
    link = page.evaluate("navigator.clipboard.readText()")
    other = visitor(url)
    other.goto("about:blank")
    other.goto(link)
    expect(other.locator("#banner")).to_contain_text("The base reply begins with 5 given tokens")
    expect(other.locator("#banner")).to_contain_text("look at the base reply on the Token lens tab")
    other.locator("#prompt").get_by_role("button", name="Compare").click()
    expect(other.locator("#banner")).to_contain_text("These are the replies that were shared")
    open_lens(other)
    read(other)
    second = LensReport.model_validate_json(saved(other, "#lens_json"))
    assert (second.lens.side, second.lens.context) == ("base", "own")
    assert second == first


def test_tokens_are_chosen_by_keyboard_mouse_and_on_the_plot(visitor, scripted):
    page = visitor(scripted(PLANTS))
    ask(page, "Explain plants")
    ended(page)
    open_lens(page)
    read(page)
    card = page.locator(".lens-card")
    total = page.locator(".lens-text .token").count()
    assert shown(page) == PLANTS
    page.locator(".lens-text").focus()
    for key, expected in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", total), ("Home", 1)):
        page.keyboard.press(key)
        expect(card).to_contain_text(f"Token {expected} of {total}")
    page.keyboard.press("ArrowDown")
    expect(card).not_to_contain_text(f"Token 1 of {total}")
    chosen = page.locator(".token[aria-selected=true]")
    expect(chosen).to_have_count(1)
    assert page.locator(".lens-text").get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    page.keyboard.press("ArrowUp")
    expect(card).to_contain_text(f"Token 1 of {total}")
    page.locator(".token").nth(4).click()
    expect(card).to_contain_text(f"Token 5 of {total}")
    page.locator(".lens-plot svg").scroll_into_view_if_needed()
    box = page.locator(".lens-plot svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] * (9.5 / total), box["y"] + box["height"] / 2)
    expect(card).to_contain_text(f"Token 10 of {total}")
    page.locator("[data-colour=rank]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-colour=kl]")).to_have_attribute("aria-checked", "true")
    expect(page.locator("[data-colour=kl]")).to_be_focused()
    expect(page.locator(".token.kl")).to_have_count(total)
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token.ratio")).to_have_count(total)


def test_where_they_part_is_shown_in_the_text_and_a_button_leads_there(visitor, scripted):
    page = visitor(scripted("one two three four five six seven eight nine ten " * 30))
    ask(page, "Count")
    ended(page)
    open_lens(page)
    read(page)
    parting = int(page.locator(".lens-figures div").nth(4).locator("dd").inner_text().removeprefix("token "))
    expect(page.locator(".token.parts")).to_have_attribute("data-step", str(parting - 1))
    page.locator(".token").nth(parting + 3).click()
    expect(page.locator(".lens-parts")).to_have_count(0)
    page.get_by_role("button", name="Go to where they part").click()
    expect(page.locator(".lens-card")).to_contain_text(f"Token {parting} of")
    expect(page.locator(".lens-parts")).to_contain_text("the base model, reading the same text, would have written")
    page.locator("[data-colour=kl]").click()
    expect(page.locator(".token.parts")).to_have_count(1)
    told = page.locator(".lens-parts code").inner_text()
    drawn = page.locator(".lens-top-five.base button").first
    expect(drawn.locator("code")).to_have_text(told)
    expect(drawn).to_contain_text("drawn")
    drawn.click()
    expect(page.locator("#what_if h2")).to_contain_text(
        re.compile(f"Branch at token {parting}: \u201c *{re.escape(told.strip())}\u201d")
    )
    finished(page)
    page.locator("#lens_open").click()
    open_lens(page)
    read(page)
    expect(page.locator(".token.given")).to_have_count(parting)
    given_parts = page.locator(".token.given.parts")
    expect(given_parts).to_have_count(0)


def test_a_reading_says_when_it_is_not_what_is_chosen_now(visitor, scripted):
    page = visitor(scripted(PLANTS))
    ask(page, "Explain plants")
    ended(page)
    open_lens(page)
    read(page)
    old = page.locator(".lens-old")
    expect(old).to_be_hidden()
    page.locator("#lens_context label").nth(1).click()
    expect(old).to_contain_text("of which the other model read the same token ids; press Read this reply")
    page.locator("#lens_context label").nth(0).click()
    expect(old).to_be_hidden()
    page.locator("#lens_side label").nth(0).click()
    expect(old).to_contain_text("the post-trained reply of turn 1")
    read(page)
    expect(old).to_be_hidden()


def test_a_branch_and_a_handover_take_the_place_of_a_turn_only_when_asked(visitor, url):
    page = visitor(url)
    at_most(page, 24)
    ask(page, "Once upon a time")
    ended(page)
    plain = reply(page, "post")
    open_lens(page)
    read(page)
    page.locator(".token").nth(3).click()
    start = "".join(page.locator(".lens-text .token").all_text_contents()[:3])
    candidate = page.locator(".lens-top-five.base button").nth(2)
    page.set_viewport_size({"width": 1440, "height": 500})
    candidate.click()
    title = page.locator("#what_if h2")
    expect(title).to_contain_text("Branch at token 4: \u201c")
    expect(title).to_be_in_viewport()
    page.set_viewport_size({"width": 1440, "height": 900})
    finished(page)
    for side in ("base", "post"):
        given = page.locator(f".what-if.{side} mark").text_content()
        assert given.startswith(start)
        assert "after 4 given" in page.locator(f".what-if.{side} header").inner_text()
    page.locator("#lens_hand_over").click()
    expect(page.locator(".what-if.base header")).to_contain_text("after 5 given")
    finished(page)
    handed = page.locator(".what-if.post pre").text_content()
    page.get_by_role("tab", name="Compare").click()
    assert reply(page, "post") == plain, "nothing has changed there yet"
    page.get_by_role("tab", name="Token lens").click()
    page.locator("#lens_open").click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator(".turn .reply.post .text")).to_have_count(1)
    assert " ".join(reply(page, "post").split()) == " ".join(handed.split())
    reload(page)
    expect(page.locator(".turn .reply.post .text")).to_have_count(1)
    assert " ".join(reply(page, "post").split()) == " ".join(handed.split()), "it is kept like any other turn"


def test_the_dial_its_sweep_and_the_grid(visitor, url):
    page = visitor(url)
    at_most(page, 16)
    ask(page, "What is the capital of France?")  # a reply without Markdown: what is shown is what was written
    ended(page)
    post = reply(page, "post")
    open_lens(page)
    box = page.locator("#lens_amount input[type=number]")
    box.fill("1")
    box.press("Tab")
    page.locator("#lens_dial").click()
    expect(page.locator(".what-if.post header")).to_contain_text("Dial at 1, logits")
    finished(page)
    assert " ".join(page.locator(".what-if.post pre").text_content().split()) == " ".join(post.split())
    page.locator("#lens_sweep").click()
    expect(page.locator("table.sweep tbody tr")).to_have_count(7)
    rows = page.locator("table.sweep tbody tr")
    assert rows.nth(0).locator("td").first.inner_text() == "never"
    assert " ".join(rows.nth(4).locator("td.text").text_content().split()) == " ".join(post.split())
    page.locator("#lens_grid").click()
    expect(page.locator("table.grid td.text")).to_have_count(4)
    expect(page.locator("#what_if")).to_contain_text("by the weights")


def test_the_tokens_of_a_hostile_reply_are_shown_and_do_nothing(visitor, scripted):
    page = visitor(scripted(HOSTILE))
    ask(page, HOSTILE)
    ended(page)
    open_lens(page)
    read(page)
    assert shown(page) == HOSTILE
    page.locator("#lens_hand_over").click()
    finished(page)
    assert HOSTILE.strip() in page.locator(".what-if.base pre").text_content()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    for tag in ("script", "img", "iframe", "b:not(.lens-card b):not(header b)"):
        assert page.locator(f"#lens .lens-text {tag}, #what_if pre {tag}").count() == 0


def test_two_thousand_tokens_arrive_once_and_stay_quick_to_walk_through(visitor, scripted):
    page = visitor(scripted("one two three four five six seven eight nine ten " * 200))
    ask(page, "Count")
    ended(page)
    open_lens(page)
    read(page)
    total = page.locator(".lens-text .token").count()
    assert total >= 2000
    spent = page.evaluate(
        """() => {
          const text = document.querySelector(".lens-text"), before = performance.now();
          for (let i = 0; i < 50; i++) text.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
          return (performance.now() - before) / 50;
        }"""
    )
    expect(page.locator(".lens-card")).to_contain_text(f"Token 51 of {total}")
    assert spent < 100, "milliseconds for one step to the next token"


def test_what_can_do_nothing_yet_cannot_be_pressed_and_says_why(visitor, scripted):
    page = visitor(scripted(PLANTS))
    page.get_by_role("tab", name="Token lens").click()
    of_a_turn = ("read", "link", "hand_over", "dial", "sweep", "grid")
    for button in (*of_a_turn, "stop", "json", "csv", "open"):
        expect(page.locator(f"#lens_{button}")).to_be_disabled()
    expect(page.locator("#lens_why")).to_contain_text("press Compare on the first tab")
    page.get_by_role("tab", name="Compare").click()
    ask(page, "Explain plants")
    ended(page)
    open_lens(page)
    expect(page.locator("#lens_why")).not_to_contain_text("press Compare")
    for button in of_a_turn:
        expect(page.locator(f"#lens_{button}")).to_be_enabled()
    expect(page.locator("#lens_csv")).to_be_disabled()
    read(page)
    expect(page.locator("#lens_csv")).to_be_enabled()
    expect(page.locator("#lens_open")).to_be_disabled()
    page.locator("#lens_hand_over").click()
    finished(page)
    expect(page.locator("#lens_open")).to_be_enabled()


@pytest.mark.parametrize(("width", "schemes"), [(390, ("light", "dark")), (1440, ("dark",))])
def test_axe_finds_nothing_on_the_lens(visitor, scripted, width, schemes):
    touch = {"is_mobile": True, "has_touch": True} if width == 390 else {}
    page = visitor(scripted(PLANTS), viewport={"width": width, "height": 844}, reduced_motion="reduce", **touch)
    ask(page, "Explain plants")
    ended(page)
    open_lens(page)
    read(page)
    token = page.locator(".token").nth(6)
    token.tap() if touch else token.click()
    expect(page.locator(".lens-card")).to_contain_text("Token 7 of")
    page.locator("#lens_hand_over").click()
    finished(page)
    for colour in ("rank", "kl", "ratio"):
        page.locator(f"[data-colour={colour}]").click()
        axe(page, schemes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
