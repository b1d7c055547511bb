"""The page in a real browser, over the embedded pair and over scripted models."""

import re
import time
from contextvars import copy_context

import pytest
from gradio_client import Client
from playwright.sync_api import Route, expect

from core import __version__, links
from core.turns import Who, asking
from core.types import DEFAULT_SAMPLING, Conversation, Finish, Request, Turn
from core.ui.compare import render
from tests.browser import ask, at_most, ended, open_page, quiet, reload, reply, writing
from tests.pairs import loaded
from tests.scripted import PAIR
from tests.test_axe import PHONE, axe, on_a_phone_and_a_desk, unfold_sidebar
from tests.values import COMPARISON


def do(page, what: str, turn: int = -1) -> None:
    """Press one of the buttons of a turn."""
    page.locator(".turn").nth(turn).locator(f"[data-do={what}]").click()


@pytest.fixture
def slow(scripted):
    """Two models that write for a minute; the page's address."""
    return scripted("one two three four five six seven eight nine ten " * 60, pause=0.1)


# --- the main job ------------------------------------------------------------------------------------


def test_both_models_answer_three_turns_and_the_history_is_in_sight(visitor, url):
    page = visitor(url)
    at_most(page, 40)
    for turn, prompt in enumerate(("What is the capital of France?", "My name is Zanlor.", "What is my name?")):
        ask(page, prompt)
        expect(page.locator(".turn .words")).to_have_count(turn + 1)
        ended(page)
    assert page.locator(".turn .reply.post .text").count() == 3
    page.locator(".turn").last.locator("[data-do=sent]").click()
    for side in ("base", "post"):
        sent = page.locator(f".sent.{side}")
        expect(sent.locator("pre")).to_contain_text("What is the capital of France?")
        expect(sent.locator("pre")).to_contain_text("What is my name?")
        assert re.search(r"[\d,]+ tokens, [\d,]+ re-sent", sent.locator("header").inner_text())
        assert "Zanlor" in "".join(sent.locator(".old").all_inner_texts())
        assert "What is my name?" in "".join(sent.locator(".new").all_inner_texts())
    assert "<|im_start|>" in page.locator(".sent.post mark").all_inner_texts()


def test_replies_stream_and_the_row_tells_what_happened(visitor, slow):
    page = visitor(slow)
    ask(page, "Count")
    writing(page)
    first = page.locator(".running .reply.base .text").inner_text()
    page.wait_for_function(
        f"() => document.querySelector('.running .reply.base .text').innerText.length > {len(first) + 20}"
    )
    writing(page, "post")
    page.locator("#new").click()
    expect(page.locator("#notice")).to_contain_text("A reply is being written")
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    turn = page.locator(".turn")
    expect(turn.locator(".reply.base .stands")).to_contain_text("stopped")
    assert re.search(r"first token after \d+ ms", turn.locator(".reply.base .wrote").get_attribute("title") or "")
    expect(turn.locator(".caption")).to_have_text(re.compile(r"^seed 1234 . temperature 0\.7$"))
    expect(page.locator(".turns .model.base .weights")).to_contain_text("bbbbbbbb")
    expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_visible()
    assert reply(page, "base").startswith("one two three"), "what was written until then stays"


def test_same_seed_same_replies_for_another_visitor_and_for_the_endpoint(visitor, url):
    replies = []
    for _ in range(2):
        page = visitor(url)
        at_most(page, 40)
        ask(page, "Tell me about the sea")
        ended(page)
        replies.append((reply(page, "base"), reply(page, "post")))
    assert replies[0] == replies[1]
    comparison = {
        "pair": "embedded",
        "prompt": "Tell me about the sea",
        "sampling": {**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 40},
        "today": "2026-01-01",
    }
    answer = Client(url, verbose=False).predict(comparison, api_name="/compare")
    assert replies[0][0].split() == answer["base"]["text"].split()
    assert replies[0][1].split() == answer["post"]["text"].split()


def test_what_is_asked_before_the_conversation_is_there_goes_behind_it(visitor, scripted):
    """On a slow line a page can be used before its server has said which turns it holds."""
    page = visitor(scripted("a base reply", "a post-trained reply"))
    ask(page, "Before")
    ended(page)
    quiet(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/gradio_api/**/predict*", hold)  # an arrival is no event of the queue
    page.reload()
    page.locator("#prompt textarea").wait_for()
    ask(page, "At once")
    page.wait_for_timeout(500)
    expect(page.locator(".turn")).to_have_count(0)
    for route in held:
        route.continue_()
    expect(page.locator(".turn .words")).to_have_text(["Before", "At once"])
    ended(page)


# --- turns -------------------------------------------------------------------------------------------


def test_retry_edit_and_delete_leave_versions_and_a_way_back(visitor, url):
    page = visitor(url)
    at_most(page, 40)
    ask(page, "Hello there")
    ended(page)
    first = reply(page, "base")
    do(page, "retry")
    ended(page)
    assert reply(page, "base") == first, "same seed, same reply"
    expect(page.locator(".versions")).to_have_count(0), "and so no other version"
    ask(page, "And then?")
    ended(page)
    page.locator("#seed input").fill("99")
    page.locator("#seed input").press("Tab")
    do(page, "retry", turn=0)
    ended(page)
    expect(page.locator(".turn")).to_have_count(1)
    assert reply(page, "base") != first
    expect(page.locator(".turn .caption")).to_contain_text("seed 99")
    expect(page.locator("#notice")).to_contain_text("1 turn was taken out of sight")
    page.get_by_role("button", name="Put back").click()
    expect(page.locator(".turn .words")).to_have_text(["Hello there", "And then?"])
    assert reply(page, "base", 0) == first
    expect(page.locator(".turn").first.locator(".versions")).to_contain_text("1/2")
    do(page, "edit", turn=1)
    expect(page.locator("#prompt textarea")).to_have_value("And then?")
    expect(page.locator(".turn")).to_have_count(2)
    ask(page, "And now?")
    ended(page)
    expect(page.locator(".turn .words")).to_have_text(["Hello there", "And now?"])
    quiet(page)
    page.get_by_role("button", name="Earlier version of turn 2").click()
    expect(page.locator(".turn .words")).to_have_text(["Hello there", "And then?"])
    do(page, "delete", turn=0)
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("button", name="Put back").click()
    expect(page.locator(".turn .words")).to_have_text(["Hello there", "And then?"])
    reload(page)
    expect(page.locator(".turn .words")).to_have_text(["Hello there", "And then?"])
    expect(page.locator(".turn").last.locator(".versions")).to_contain_text("1/2")
    page.locator("#new").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.go_back()
    expect(page.locator(".turn")).to_have_count(2)


def linked(turns: int) -> str:
    """A link with so many turns, and a prompt behind them."""
    chat = tuple(Turn(prompt=f"p{n + 1}", base="b", post="c") for n in range(turns))
    asked = COMPARISON.model_copy(update={"pair": PAIR.id, "conversation": Conversation(turns=chat)})
    return "/" + links.encode(links.Shared(comparison=asked))


def test_a_long_chat_opens_with_its_newest_turns_and_draws_the_others_when_asked(visitor, scripted):
    page = visitor(scripted("a base reply") + linked(1000))
    rows, numbers, earlier = page.locator(".turn"), page.locator(".turn .number"), page.locator("[data-do=earlier]")
    expect(rows).to_have_count(30)
    expect(numbers.first).to_have_text("971")
    expect(page.locator(".turns .heads")).to_have_count(1)
    first = page.locator(".turn[data-turn='970']")
    earlier.scroll_into_view_if_needed()
    before = first.bounding_box()["y"]
    earlier.click()
    expect(rows).to_have_count(60)
    expect(page.locator("#notice")).to_have_text("Turns 941 to 970 are shown.")
    expect(page.locator(".turns .heads")).to_have_count(1)
    expect(earlier).to_be_focused()
    assert abs(first.bounding_box()["y"] - before) < 3, "what was in sight stays where it was"
    page.keyboard.press("Enter")
    expect(rows).to_have_count(90)
    expect(numbers.first).to_have_text("911")


def test_a_turn_behind_those_that_are_not_drawn_has_its_own_number_and_the_earliest_are_put_away_again(
    visitor, scripted
):
    page = visitor(scripted("a base reply") + linked(130))
    rows, numbers, earlier = page.locator(".turn"), page.locator(".turn .number"), page.locator("[data-do=earlier]")
    for count in (30, 60, 90, 120, 130):
        expect(rows).to_have_count(count)
        if count < 130:
            earlier.click()
    expect(earlier).to_have_count(0)
    page.locator(".jump").click()
    expect(page.locator(".jump")).to_be_hidden()
    ask(page, "One more?")
    expect(numbers.last).to_have_text("131")
    expect(rows).to_have_count(60)
    expect(earlier).to_have_text("Show earlier turns (71)")
    expect(page.locator(".turns .heads")).to_have_count(1)
    do(page, "retry")
    expect(page.locator(".versions")).to_have_count(0)
    expect(numbers.last).to_have_text("131")
    earlier.click()
    expect(rows).to_have_count(90)
    expect(numbers.first).to_have_text("42")


def test_the_way_back_outlives_its_sentence(visitor, scripted):
    page = visitor(scripted("One reply"))
    back = page.locator(".way-back")
    for prompt in ("First", "Second", "Third"):
        ask(page, prompt)
        ended(page)
    do(page, "delete", turn=1)
    expect(page.locator("#notice")).to_contain_text("2 turns were taken out of sight")
    page.locator(".turn [data-value=post]").first.click()  # something else is said
    expect(page.locator("#notice")).not_to_contain_text("out of sight")
    ask(page, "Fourth")
    ended(page)
    expect(back).to_have_text("Put back 2 turns")
    do(page, "delete", turn=1)
    expect(back).to_have_text("Put back 1 turn")
    back.click()
    expect(page.locator(".turn .words")).to_have_text(["First", "Fourth"])
    expect(back).to_be_hidden()
    page.get_by_role("button", name="Earlier version of turn 2").click()
    expect(page.locator(".turn .words")).to_have_text(["First", "Second", "Third"])
    do(page, "delete", turn=2)
    expect(back).to_be_visible()
    page.locator("#new").click()
    expect(back).to_be_hidden()


def test_escape_leaves_an_edit_and_then_stops_a_reply(visitor, slow):
    page = visitor(slow)
    ask(page, "Count")
    writing(page)
    page.keyboard.press("Escape")
    ended(page)
    expect(page.locator(".turn .reply.base .stands")).to_contain_text("stopped")
    do(page, "edit")
    page.keyboard.press("Escape")
    expect(page.locator(".editing")).to_be_hidden()
    expect(page.locator("#prompt textarea")).to_have_value("")
    expect(page.locator(".turn")).to_have_count(1)


def test_a_silent_reply_is_said_in_words_and_asks_again_with_another_seed_or_framing(visitor, scripted):
    page = visitor(scripted("", "A reply"))
    ask(page, "Hello")
    ended(page)
    expect(page.locator(".reply.base .text")).to_contain_text("Ended at once with")
    page.get_by_role("button", name="Try the next seed").click()
    expect(page.locator(".versions")).to_contain_text("2/2")
    expect(page.locator(".turn .caption")).to_contain_text("seed 1235")
    expect(page.locator("#seed input")).to_have_value("1235")
    ended(page)
    page.get_by_role("button", name="Ask it as a transcript").click()
    expect(page.locator(".versions")).to_contain_text("3/3")
    expect(page.locator(".turn .caption")).to_contain_text("base framed as transcript")


def test_a_prompt_whose_page_was_left_in_mid_reply_comes_back(visitor, slow):
    page = visitor(slow)
    ask(page, "Count")
    writing(page)
    page.goto("about:blank")
    page.goto(slow)
    expect(page.locator("#prompt textarea")).to_have_value("Count")
    expect(page.locator("#notice")).to_contain_text("press Compare to ask again")
    expect(page.locator(".turn")).to_have_count(0)


def test_an_example_asks_at_once_and_says_what_to_look_for(visitor, scripted):
    page = visitor(scripted("a base reply", "a post-trained reply"))
    expect(page.locator("#prompt textarea")).to_be_focused()
    expect(page.locator(".example")).to_have_count(6)
    page.locator(".example").first.click()
    ended(page)
    expect(page.locator(".turn .words")).to_have_text("What is the capital of France?")
    expect(page.locator("#notice")).to_contain_text("One goes on with more questions")


def test_blind_names_the_models_once_a_reply_is_marked(visitor, scripted):
    page = visitor(scripted("**one**", "**another**"))
    hint = page.locator("#blind-hint")
    expect(hint).to_be_hidden()
    page.get_by_role("switch", name="Blind").hover()
    expect(hint).to_be_visible()
    page.mouse.move(800, 300)
    expect(hint).to_be_hidden()
    page.locator("#prompt textarea").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("switch", name="Blind")).to_be_focused()
    expect(hint).to_be_visible()
    page.get_by_role("switch", name="Blind").click()
    expect(page.locator("#notice")).to_contain_text("in an order that is drawn")
    for turn, prompt in enumerate(("Hello", "Again", "More", "And more")):
        ask(page, prompt)
        ended(page)
        row = page.locator(".turn").last
        named = page.locator(".heads").last.locator(".blind-model > .model:first-child b")
        assert [each.inner_text() for each in named.all()] == ["A", "B"]
        assert all(each.bounding_box()["width"] > 5 for each in named.all()), "in sight, and not cut off"
        expect(row.locator(".text")).to_contain_text(["**"] * 2), "no formatting tells them apart"
        for told in (
            ".stands:not([hidden])",
            "[data-do=sent]",
            "[data-do=receipt]",
            "[data-do=code]",
            ".base",
            ".post",
        ):
            expect(row.locator(told)).to_have_count(0)
        expect(page.locator(".turns .heads").last).to_have_text("AB")
        expect(page.locator("#transcript")).not_to_contain_text("seed 1234") if turn == 0 else None
        row.get_by_role("button", name="A", exact=True).click()
        expect(row.locator(".caption")).to_contain_text("marked blind")
        expect(row.locator("[data-do=receipt]")).to_have_count(1)
        expect(page.locator(".turns .heads").last).to_contain_text("Scripted-Base")
        first = row.locator(".reply").first.get_attribute("data-side")
        expect(row.locator("[aria-pressed=true]")).to_have_text("Base" if first == "base" else "Post-trained")
        expect(page.locator("#notice")).to_contain_text(f"of {turn + 1} (")
    reload(page)
    expect(page.locator(".turn [aria-pressed=true]")).to_have_count(4)
    ask(page, "Not marked")
    ended(page)
    expect(page.locator(".turn").last.locator(".reply.base")).to_have_count(1), "a reload ends it"


def test_the_code_for_a_turn_is_there_to_copy(visitor, scripted):
    url = scripted("a base reply", "a post-trained reply")
    page = visitor(url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "It's <b>here</b>")
    ended(page)
    do(page, "code")
    python = page.get_by_role("region", name="Python")
    expect(python).to_contain_text(url)
    expect(page.get_by_role("region", name="Command line")).to_contain_text("<b>here</b>")
    python.get_by_role("button", name="Copy").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('gradio_client')")
    do(page, "code")
    expect(python).to_have_count(0)


def test_the_lens_colours_the_words_where_they_are(visitor, url):
    page = visitor(url)
    at_most(page, 24)
    ask(page, "What is the capital of France?")
    ended(page)
    plain = reply(page, "post").strip()
    page.get_by_role("switch", name="Lens").click()
    words = page.locator(".reply.post .read-token")
    expect(words.first).to_be_visible()
    assert "".join(words.all_text_contents()).startswith(plain[:20])
    words.nth(1).hover()
    card = page.locator("#token-card")
    expect(card).to_contain_text("The base model would choose")
    expect(page.locator(".legend")).to_contain_text("Press a word")
    drawn = page.locator(".reply.base .read-token")
    expect(drawn.first).to_have_attribute("data-newline", "")
    said = []
    for step in range(2, 8):  # the base's fifth word was not its first choice
        drawn.nth(step).hover()
        said.append(card.inner_text())
    assert any("The colour is about the base model's first choice" in text for text in said), said
    assert not all("The colour is about" in text for text in said)
    page.locator(".reply.base .read-tokens").focus()
    page.keyboard.press("ArrowRight")
    expect(card).to_contain_text("The post-trained model would choose")
    page.keyboard.press("Enter")
    expect(card.locator("[data-do=branch]").nth(2)).to_be_visible()
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    words.nth(1).click()
    card.get_by_role("button").nth(2).click()
    ended(page)
    expect(page.locator(".reply.base .stands")).to_contain_text("begins with 2 given tokens")
    expect(page.locator(".reply.post .read-token.given")).to_have_count(2)
    expect(page.locator(".versions")).to_contain_text("2/2")
    expect(words.first).to_be_visible()
    page.get_by_role("switch", name="Lens").click()
    expect(words.first).to_be_hidden()


def test_a_handover_and_a_dial_are_made_where_the_reply_is_and_are_versions_of_it(visitor, url):
    page = visitor(url)
    at_most(page, 24)
    ask(page, "What is the capital of France?")
    ended(page)
    plain = [reply(page, side).strip() for side in ("base", "post")]
    page.get_by_role("switch", name="Lens").click()
    page.locator(".reply.post .read-token").nth(2).click()
    page.get_by_role("button", name="Hand over after 3 tokens").click()
    ended(page)
    for side in ("base", "post"):
        expect(page.locator(f".reply.{side} .stands")).to_contain_text("begins with 3 given tokens")
    expect(page.locator(".versions")).to_contain_text("2/2")
    expect(page.locator(".turn .reply.base .read-token").nth(2)).to_be_visible()
    page.get_by_role("switch", name="Lens").click()
    assert reply(page, "base").strip().startswith(plain[1][:5])
    page.locator(".versions button").first.click()
    expect(page.locator(".versions")).to_contain_text("1/2")
    page.get_by_role("switch", name="Lens").click()
    page.locator(".dial input").fill("0")
    page.locator(".dial button").click()
    ended(page)
    expect(page.locator(".versions")).to_contain_text("3/3")
    expect(page.locator(".caption")).to_contain_text("dial 0 in logits")
    page.locator(".dial input").fill("7")
    page.locator(".dial button").click()
    expect(page.locator("#notice")).to_contain_text("less than or equal to 1.5")
    expect(page.locator(".versions")).to_contain_text("3/3")


def test_a_reload_keeps_the_conversation_and_its_settings(visitor, url):
    page = visitor(url)
    at_most(page, 40)
    page.locator("#seed input").fill("77")
    page.locator("#system textarea").fill("You are Captain Nora.")
    page.locator("#system textarea").press("Tab")
    ask(page, "Who are you?")
    ended(page)
    before = (reply(page, "base"), reply(page, "post"))
    reload(page)
    expect(page.locator(".turn .reply.post .text")).to_have_count(1)
    assert (reply(page, "base"), reply(page, "post")) == before
    expect(page.locator("#seed input")).to_have_value("77")
    expect(page.locator("#system textarea")).to_have_value("You are Captain Nora.")
    page.locator(".turn").last.locator("[data-do=sent]").click()
    expect(page.locator(".sent.post pre")).to_contain_text("Captain Nora")
    ask(page, "And now?")
    expect(page.locator(".turn .words")).to_have_count(2)
    ended(page)


def test_the_dice_roll_a_new_seed(visitor, url):
    page = visitor(url)
    before = page.locator("#seed input").input_value()
    page.get_by_role("button", name="Roll").click()
    page.wait_for_function("(before) => document.querySelector('#seed input').value !== before", arg=before)


def test_every_setting_says_in_a_sentence_what_it_does_and_all_can_be_reset(visitor, scripted):
    page = visitor(scripted("a base reply", "a post-trained reply"))
    sentence = page.locator("#temperature .info-text")
    expect(sentence).to_be_hidden()
    page.locator("#temperature").hover()
    expect(sentence).to_contain_text("at 0 nothing is drawn")
    page.mouse.move(800, 300)
    page.locator("#seed input").focus()
    expect(page.locator("#seed .info-text")).to_contain_text("Same inputs and seed, same tokens")
    expect(sentence).to_be_hidden()
    page.get_by_role("button", name="More sampling and framing").click()
    for name, value in (("seed input", "7"), ("top_p input[type=number]", "0.5"), ("min_p input[type=number]", "0.1")):
        page.locator(f"#{name}").fill(value)
        page.locator(f"#{name}").press("Tab")
    page.locator("#reset").click()
    for name, value in (("seed input", "1234"), ("top_p input[type=number]", "1"), ("min_p input[type=number]", "0")):
        expect(page.locator(f"#{name}")).to_have_value(value)


def test_use_via_api_stands_at_the_foot_and_names_the_endpoints(come, scripted):
    page = come()  # unwatched: it also asks for Gradio's own MCP server, which is not here
    open_page(page, scripted("x"))
    page.locator("footer").get_by_role("button", name="Use via API").click()
    shown = page.locator(".api-docs")
    for name in ("/compare", "/replay", "/lens", "/experiment", "/study", "/pairs"):
        expect(shown).to_contain_text(name)


def test_choosing_another_pair_names_its_models_and_loads_nothing(visitor, url, pool):
    page = visitor(url)
    room = "(box) => { const at = box.getBoundingClientRect(); return [box.scrollWidth, box.clientWidth, at.right - parseFloat(getComputedStyle(box).paddingRight)]; }"
    wide, there, end = page.locator("#pair input").evaluate(room)
    arrow = page.locator("#pair .icon-wrap").bounding_box()
    assert wide <= there and end <= arrow["x"], "the whole title stands there, and not under the arrow"
    page.locator("#pair input").click()
    page.get_by_role("option", name="SmolLM2 135M").click()
    expect(page.locator(".before .model.base")).to_contain_text("SmolLM2-135M")
    expect(page.locator(".before .model.post")).to_contain_text("SmolLM2-135M-Instruct")
    ask(page, "Hello")
    expect(page.locator("#notice")).to_contain_text("cannot be reached")
    expect(page.locator("#prompt textarea")).to_have_value("Hello")
    assert not any("SmolLM2" in name for name in loaded(pool))


# --- several people ------------------------------------------------------------------------------------


def test_two_visitors_at_once_see_only_their_own_chat(visitor, url):
    pages = {name: visitor(url) for name in ("Ada", "Bob")}
    for name, page in pages.items():
        at_most(page, 40)
        ask(page, f"My name is {name}.")
    for page in pages.values():
        ended(page)
    for name, other in (("Ada", "Bob"), ("Bob", "Ada")):
        shown = pages[name].locator("#transcript").inner_text()
        assert f"My name is {name}." in shown
        assert f"My name is {other}." not in shown


def test_stop_stops_only_ones_own_replies(visitor, slow):
    mine, theirs = visitor(slow), visitor(slow)
    for page in (mine, theirs):
        ask(page, "Count")
        writing(page)
    mine.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(mine)
    writing(theirs)
    theirs.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(theirs)


def test_a_slow_browser_is_asked_to_draw_less_often_so_that_stop_still_works(visitor, slow):
    page = visitor(slow)
    slowing = page.context.new_cdp_session(page)
    slowing.send("Emulation.setCPUThrottlingRate", {"rate": 8})
    ask(page, "Count")
    writing(page)
    page.wait_for_timeout(4000)  # long enough for what is not drawn to pile up
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(page.locator(".turn .reply.base .stands")).to_contain_text("stopped")
    slowing.detach()  # the process serves other tests


def test_what_is_sent_while_a_reply_is_being_written_stays_in_its_box_and_a_sentence_says_why(visitor, slow):
    page = visitor(slow)
    ask(page, "Count")
    writing(page)
    ask(page, "Too early")
    expect(page.locator("#notice")).to_contain_text("A reply is being written")
    expect(page.locator("#prompt textarea")).to_have_value("Too early")
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(page.locator(".turn .words")).to_have_count(1)
    ask(page, "Now")
    expect(page.locator(".turn .words")).to_have_count(2)
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)


def test_the_late_end_of_one_turn_takes_nothing_from_the_next(visitor, scripted):
    page = visitor(scripted("a reply"))
    quiet(page)
    held: list[Route] = []

    late = True

    def hold(route: Route) -> None:
        held.append(route) if late else route.continue_()

    page.route("**/gradio_api/**/predict*", hold)  # what follows a reply, as on a slow line
    ask(page, "Hello")
    ended(page)
    scripted("one two three four five six seven eight nine ten " * 60, pause=0.1)
    ask(page, "Count")
    writing(page)
    assert held
    late = False
    for route in held:
        route.continue_()
    page.wait_for_timeout(500)
    writing(page)
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(page.locator(".turn .words")).to_have_text(["Hello", "Count"])


def test_a_chat_that_changes_late_leaves_a_turn_that_was_begun_meanwhile(visitor, scripted):
    page = visitor(scripted("a reply"))
    ask(page, "Hello")
    ended(page)
    quiet(page)
    held: list[Route] = []
    late = True

    def hold(route: Route) -> None:
        held.append(route) if late else route.continue_()

    page.route("**/gradio_api/**/predict*", hold)
    do(page, "delete")
    page.wait_for_function("() => true")
    scripted("one two three four five six seven eight nine ten " * 60, pause=0.1)
    ask(page, "Count")
    writing(page)
    late = False
    for route in held:
        route.continue_()
    page.wait_for_timeout(500)
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(page.locator(".turn .words").last).to_have_text("Count")


def test_closing_the_tab_in_mid_reply_frees_both_slots(browser, url, pool, monkeypatch):
    lease = pool.wait("embedded")
    finished = []
    for engine in (lease.loaded["base"].engine, lease.loaded["post"].engine):
        submit = engine.submit

        def endless(request, emit, submit=submit):
            def spy(event) -> None:
                finished.extend([event.reason] if isinstance(event, Finish) else [])
                emit(event)

            return submit(request.model_copy(update={"stop_ids": frozenset()}), spy)

        monkeypatch.setattr(engine, "submit", endless)
    lease.release()
    context = browser.new_context()
    page = context.new_page()
    open_page(page, url)
    page.locator("#max_new_tokens input[type=number]").fill("900")
    page.locator("#max_new_tokens input[type=number]").press("Tab")
    ask(page, "Once upon a time")
    writing(page)
    assert finished == []
    context.close()
    deadline = time.monotonic() + 60
    while len(finished) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert finished == ["stopped", "stopped"]


def test_a_visitor_who_waits_sees_how_many_are_ahead(visitor, url, pool):
    """All slots of the lane are taken by long requests of others, and more of them wait; the page counts those before it."""
    page = visitor(url)
    at_most(page, 40)
    lease = pool.wait("embedded")
    long = Request(
        token_ids=(5, 6, 7), sampling=DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 200}), stop_ids=frozenset()
    )

    def submit(engine, address):
        asking.set(Who(address))
        return engine.submit(long, lambda event: None)

    crowd = [
        copy_context().run(submit, engine, f"10.0.0.{number}")
        for engine in (lease.loaded["base"].engine, lease.loaded["post"].engine)
        for number in range(24)
    ]
    try:
        ask(page, "Hello")
        expect(page.locator(".running .reply.base .stands")).to_contain_text(re.compile(r"Waiting, \d+ ahead"))
    finally:
        for ticket in crowd:
            ticket.cancel()
        lease.release()
    ended(page)


# --- mistakes ------------------------------------------------------------------------------------------


def test_mistakes_get_one_sentence_and_lose_nothing(visitor, url):
    page = visitor(url)
    at_most(page, 40)
    ask(page, "   ")
    expect(page.locator("#notice")).to_contain_text("Type a prompt first")
    ask(page, "Hello")
    ended(page)
    page.locator("#seed input").fill("")
    for _ in range(2):  # the second time as the first
        ask(page, "Hello again")
        ended(page)
        expect(page.locator("#notice")).to_contain_text("Seed is empty")
        expect(page.locator("#prompt textarea")).to_have_value("Hello again")
    expect(page.locator(".turn .words")).to_have_count(1)
    page.locator("#seed input").fill("5")
    page.locator("#seed input").press("Tab")
    ask(page, "word " * 3000)
    expect(page.locator("#notice")).to_contain_text("its context holds 1,024")
    expect(page.locator(".turn .words")).to_have_count(1)
    assert len(page.locator("#prompt textarea").input_value()) > 10_000, "the prompt is still in its box"
    page.get_by_role("button", name="New chat with the last turn").click()
    expect(page.locator(".turn .caption")).to_contain_text("brought along")
    expect(page.locator(".turn .words")).to_have_text("Hello")
    assert len(page.locator("#prompt textarea").input_value()) > 10_000
    ask(page, "And now?")
    ended(page)
    expect(page.locator(".turn .words")).to_have_text(["Hello", "And now?"])
    quiet(page)
    page.go_back()
    expect(page.locator(".turn .words")).to_have_text("Hello")
    expect(page.locator(".turn .caption")).to_contain_text("seed")


def choose(page, title: str, model: str) -> str:
    """Choose a pair of the list by the beginning of its title; returns what its models are called above the prompt."""
    page.locator("#pair input").click()
    page.get_by_role("option").filter(has_text=title).first.click()
    before = page.locator("#transcript .before .model b")
    expect(before.first).to_contain_text(model)
    return before.first.inner_text()


def test_after_a_failed_download_the_pair_that_answers_is_the_one_that_is_chosen(visitor, url):
    page = visitor(url)
    at_most(page, 8)
    choose(page, "SmolLM2 135M", "SmolLM2-135M")
    for _ in range(2):  # no other pair takes its place
        ask(page, "Hello")
        expect(page.locator("#notice")).to_contain_text("not on this machine")
        expect(page.locator("#prompt textarea")).to_have_value("Hello")
        expect(page.locator("#pair input")).to_have_value(re.compile("SmolLM2 135M"))
        expect(page.locator(".turn")).to_have_count(0)
    name = choose(page, "Llama Same Seed 2 6M", "Llama-Same-Seed-2-6M")
    expect(page.locator("#notice")).to_have_text("")
    ask(page, "Hello")
    ended(page)
    expect(page.locator(".turns .model b").first).to_have_text(name)


def test_an_error_goes_once_its_reason_may_be_gone(visitor, scripted):
    page = visitor(scripted("a", "b"))
    ask(page, " ")
    expect(page.locator("#notice")).to_contain_text("Type a prompt first")
    page.locator("#prompt textarea").fill("Hello")
    expect(page.locator("#notice")).to_have_text("")
    page.locator("#seed input").fill("")
    ask(page, "Hello")
    expect(page.locator("#notice")).to_contain_text("Seed is empty")
    page.locator("#seed input").fill("5")
    expect(page.locator("#notice")).to_have_text("")


def test_loading_shows_its_progress(visitor, scripted):
    page = visitor(scripted("a", "b", loading=2.0))
    ask(page, "Hello")
    expect(page.locator("#notice")).to_contain_text("Downloading Scripted-Base (12 MB) 50%")
    ended(page)


def test_stop_while_the_models_are_loading_gives_the_prompt_back(visitor, scripted):
    page = visitor(scripted("a", "b", loading=60.0))
    ask(page, "Hello")
    expect(page.locator("#notice")).to_contain_text("Downloading Scripted-Base")
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    expect(page.locator("#notice")).to_contain_text("Stopped")
    expect(page.locator("#prompt textarea")).to_have_value("Hello")
    expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_visible()


def test_reasoning_is_folded_above_its_answer_while_it_is_written(visitor, scripted):
    """Lines as the server tells them; that it tells such ones is tested without a browser."""
    page = visitor(scripted("a base reply"))
    quiet(page)
    page.evaluate(
        "(lines) => lines.forEach((line) => document.dispatchEvent(new CustomEvent('told', { detail: { turn: 0, ...line } })))",
        [
            {"row": render.running_row(0, "Hello")},
            {"thought": {"post": [0, "I thimk"]}},
            {"thought": {"post": [5, "nk so"]}, "post": [0, 0, "<p>Yes.</p>"]},
        ],
    )
    thought = page.locator(".running .reply.post .thought")
    expect(thought.locator("div")).to_have_text("I think so", use_inner_text=False)
    expect(thought.locator("div")).to_be_hidden()
    thought.locator("summary").click()
    expect(thought.locator("div")).to_be_visible()
    expect(page.locator(".running .reply.base .thought")).to_be_hidden()
    axe(page)


# --- strangers' text -------------------------------------------------------------------------------------

HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"><iframe src="http://127.0.0.1:9/x"></iframe>
![picture](http://127.0.0.1:9/pixel.png) <form action="http://127.0.0.1:9/"><input name=password></form>
${window.hacked = 3} {{constructor.constructor('window.hacked = 4')()}} $$\\href{javascript:window.hacked=5}{x}$$
[link](javascript:window.hacked=6) <style>body { display: none }</style> <b>bold?</b> &lt;ok&gt; & done
    indented
<|im_end|> <a href="http://127.0.0.1:9/">leave</a> `<i>code</i>`"""


def shows_exactly(page, text: str) -> None:
    """The base pane holds this text, character for character."""
    page.wait_for_function("(text) => document.querySelector('.reply.base .text').textContent === text", arg=text)


def test_hostile_output_and_prompts_are_shown_and_do_nothing(visitor, scripted):
    url = scripted(HOSTILE)
    page = visitor(url)
    ask(page, HOSTILE)
    ended(page)
    page.locator(".turn").last.locator("[data-do=sent]").click()
    shows_exactly(page, HOSTILE)
    page.wait_for_timeout(500)
    assert page.evaluate("window.hacked") is None
    expect(page.locator(".was-sent .sent")).to_have_count(2)
    for place in (".turns .reply.base", ".turns .reply.post", ".turns .prompt", ".was-sent"):
        for tag in (
            "script",
            "img[src^=http]",
            "iframe",
            "form",
            "style:not(svg style)",
            "b:not(header b)",
            "a[href^=javascript]",
        ):
            assert page.locator(f"{place} {tag}").count() == 0, (place, tag)
    assert "<script>window.hacked = 1</script>" in page.locator(".turn .reply.post .text").inner_text()
    assert "<script>" in page.locator(".was-sent .sent.base pre").inner_text()


def test_a_link_of_asterisks_and_of_a_diagram_is_text_and_settles(visitor, scripted):
    diagram = 'graph TD; A["<img src=x>"] --> B'
    turns = (
        Turn(prompt="Draw", base="x", post=f"```mermaid\n{diagram}\n```"),
        Turn(prompt="Stars", base="*" * 50_000, post="*" * 50_000 + "a"),
    )
    asked = COMPARISON.model_copy(update={"pair": PAIR.id, "conversation": Conversation(turns=turns)})
    page = visitor(f"{scripted('x')}/{links.encode(links.Shared(comparison=asked))}")
    expect(page.locator(".turn")).to_have_count(2)
    assert page.evaluate("performance.now()") < 30_000
    texts = page.locator(".turn .reply.post .text")
    expect(texts.first.locator("code.language-mermaid")).to_have_text(diagram)
    assert texts.last.evaluate("text => text.textContent.trim() === '*'.repeat(50000) + 'a'")
    expect(page.locator(".turns svg, .turns img, .turns canvas")).to_have_count(0)


def test_copy_gives_the_text_itself(visitor, scripted):
    text = "if a < b && b > c: ![x](y) &amp; **bold** `a && b` ``c ` d``\n\n1. Run\n    ```sh\n    a < b && echo '&#x41;'\n    ```"
    url = scripted(text)
    page = visitor(url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "Hello")
    ended(page)
    do(page, "copy")
    for name in ("base reply", "post-trained reply"):
        page.evaluate("navigator.clipboard.writeText('')")
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_function("async (text) => (await navigator.clipboard.readText()) === text", arg=text)


def test_markdown_keeps_its_form_on_the_post_trained_side(visitor, scripted):
    markdown = "# Title\n\n- one\n- two\n\n```python\nprint('<b>')\n```\n\n**bold** and `x < y`"
    url = scripted(markdown)
    page = visitor(url)
    ask(page, "Hello")
    ended(page)
    pane = page.locator(".turn .reply.post .text")
    expect(pane.locator("strong")).to_have_text("bold")
    assert pane.locator("li").all_inner_texts() == ["one", "two"]
    assert "print('<b>')" in pane.locator("pre").inner_text()
    assert "x < y" in pane.inner_text()
    shows_exactly(page, markdown)


CODE = "```python\ndef f(x: int) -> str:  # once upon a time there was a line that no phone and no column could hold, however wide\n    # twice\n    return 'a' + str(2 * x)\n```\n\n"
FORMULAS = "So $x^2 < 5$ and \\[ \\frac{a}{b} = \\sqrt{c} \\] but not $5 and $6, nor $\\nope{x}$.\n\n"
WIDE = f"$${' + '.join(f'x_{{{n}}}' for n in range(90))}$$"


def test_code_has_colours_and_formulas_are_set(visitor, scripted):
    page = visitor(scripted(CODE + FORMULAS + WIDE, pause=0.002), viewport={"width": 390, "height": 844})
    ask(page, "Hello")
    ended(page)
    post = page.locator(".turn .reply.post .text")
    assert post.locator("pre").inner_text() == CODE.removeprefix("```python\n").removesuffix("```\n\n")
    colours = post.locator("pre span").evaluate_all("spans => spans.map((span) => getComputedStyle(span).color)")
    assert len(set(colours)) >= 4
    formulas = post.locator("math")
    assert (
        formulas.evaluate_all("all => all.map((each) => each.namespaceURI)")
        == ["http://www.w3.org/1998/Math/MathML"] * 3
    )
    small, large = (formulas.nth(n).locator("mi").first.bounding_box() for n in (0, 1))
    assert small and large and small["width"] > 0 and large["height"] > 0
    assert "but not $5 and $6, nor $\\nope{x}$." in post.inner_text()
    fits = "() => document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits), "what is wide is moved in its own place"
    assert formulas.nth(2).evaluate("each => each.scrollWidth > each.clientWidth && each.clientWidth <= innerWidth")
    shows_exactly(page, CODE + FORMULAS + WIDE)


# --- for everybody -------------------------------------------------------------------------------------


def test_axe_finds_nothing_in_all_that_a_reply_is_formatted_with(visitor, scripted):
    url = scripted(f"A reply with **markdown**, `code` and\n\n- a list\n\n{CODE}{FORMULAS}{WIDE}")
    page = visitor(url, viewport=PHONE, reduced_motion="reduce")
    ask(page, "Hello")
    ended(page)
    do(page, "sent")
    on_a_phone_and_a_desk(page)


def test_it_fits_a_phone_where_what_was_kept_is_in_sight_and_actions_have_words(visitor, scripted):
    url = scripted("a base reply", "a post-trained reply")
    page = visitor(url, viewport=PHONE, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "nothing scrolls sideways"
    expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_in_viewport()
    ask(page, "Hello")
    ended(page)
    for name in ("Retry", "Copy link", "Delete"):
        words = page.locator(".does").get_by_text(name, exact=True)
        assert words.evaluate("each => parseFloat(getComputedStyle(each).fontSize)") >= 11
    assert page.locator("#new").evaluate("each => parseFloat(getComputedStyle(each).fontSize)") >= 11
    again = page.context.new_page()
    again.set_viewport_size(PHONE)
    open_page(again, url)
    expect(again.locator("#back")).to_be_in_viewport()
    again.get_by_role("button", name="Conversations", exact=True).tap()
    expect(again.locator(".conversations .open")).to_be_in_viewport()
    again.locator(".conversations .open").tap()
    expect(again.locator(".turn .words")).to_have_text("Hello")


def test_the_foot_says_the_version_and_with_what_the_pair_was_built_and_takes_no_room(visitor, scripted):
    page = visitor(scripted("One reply"), viewport=PHONE)
    ask(page, "Hello")
    ended(page)
    expect(page.locator("#foot p").first).to_have_text(
        f"Same Seed {__version__} \u00b7 Apache-2.0 \u00b7 The embedded pair: Built with Llama"
    )
    for width, height in ((390, 844), (1024, 768), (1440, 900)):
        page.set_viewport_size({"width": width, "height": height})
        if width > 768:
            unfold_sidebar(page)
        page.evaluate("scrollTo(0, 0)")
        expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#foot").scroll_into_view_if_needed()
        expect(page.locator("#foot")).to_be_in_viewport(ratio=1)


def test_the_first_tab_stop_leads_past_the_settings(visitor, scripted):
    page = visitor(
        scripted("a base reply"), has_touch=True, is_mobile=True
    )  # where the prompt does not take the focus by itself
    page.keyboard.press("Tab")
    skip = page.get_by_role("button", name="Skip the settings")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#prompt textarea")).to_be_focused()


def test_it_is_usable_at_a_zoom_of_two_and_four(visitor, scripted):
    """1440 CSS pixels at 200% and 400%, and the narrowest width that WCAG 1.4.10 asks for."""
    page = visitor(scripted("a base reply " * 20, "a post-trained reply"), viewport={"width": 720, "height": 450})
    ask(page, "Hello")
    ended(page)
    for width in (720, 360, 320):
        page.set_viewport_size({"width": width, "height": 450})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_in_viewport(ratio=1)
        do(page, "sent")
        expect(page.locator(".was-sent .sent")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#prompt textarea").bounding_box()["width"] > 100
        do(page, "sent")
        expect(page.locator(".was-sent .sent")).to_have_count(0)


def test_a_page_whose_app_was_updated_says_so_and_keeps_its_chat(visitor, scripted):
    page = visitor(scripted("a base reply"))
    ask(page, "Hello")
    ended(page)
    page.evaluate("window.sameSeed.transcript.answer(JSON.stringify({ serial: -1, app: '0.0.1', notice: '' }))")
    expect(page.locator("#notice")).to_contain_text("The app was updated under this page")
    reload(page)
    expect(page.locator(".turn .words")).to_have_text("Hello")
    expect(page.locator("#notice")).not_to_contain_text("updated")


def test_everything_can_be_reached_by_keyboard(visitor, url):
    page = visitor(url)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(document.activeElement.closest('[id]') || {}).id + '|' + (document.activeElement.innerText || document.activeElement.ariaLabel || '').trim()"
            )
        )
    seen = " ".join(reached)
    for name in ("pair", "system", "temperature", "seed", "dice", "prompt", "new", "What is the capital of France?"):
        assert name in seen, f"{name} cannot be reached with Tab: {sorted(reached)}"


def test_the_headers_are_set(url):
    import httpx

    home = httpx.get(url)
    assert "default-src 'self'" in home.headers["content-security-policy"]
    assert home.headers["x-content-type-options"] == "nosniff"
