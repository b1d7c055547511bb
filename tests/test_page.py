"""The page in a real browser, over the embedded pair and over scripted models."""

import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from gradio_client import Client
from playwright.sync_api import expect

from core import __version__
from core.types import DEFAULT_SAMPLING, Finish, Request
from tests.browser import ask, at_most, ended, open_page, quiet, reload, reply
from tests.pairs import loaded


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
        expect(page.locator("#chat_base .user.message")).to_have_count(turn + 1)
        ended(page)
    assert page.locator("#chat_post .bot.message").count() == 3
    page.get_by_role("button", name="Exactly what was sent").click()
    for side in ("base", "post"):
        sent = page.locator(f".sent.{side}")
        expect(sent.locator("pre")).to_contain_text("What is the capital of France?")
        expect(sent.locator("pre")).to_contain_text("What is my name?")
        assert re.search(r"[\d,]+ tokens, [\d,]+ re-sent", sent.locator("header").inner_text())
        assert "Zanlor" in "".join(sent.locator(".old").all_inner_texts())
        assert "What is my name?" in "".join(sent.locator(".new").all_inner_texts())
    assert "<|im_start|>" in page.locator(".sent.post mark").all_inner_texts()


def test_replies_stream_and_the_strip_tells_what_happened(visitor, slow):
    page = visitor(slow)
    ask(page, "Count")
    expect(page.locator(".strip.base.is-writing")).to_have_count(1)
    first = page.locator("#chat_base .bot.message").inner_text()
    page.wait_for_function(
        f"() => document.querySelector('#chat_base .bot.message').innerText.length > {len(first) + 20}"
    )
    expect(page.locator(".strip.post .status")).to_contain_text("Writing")
    for button in ("retry", "edit", "undo", "new"):
        expect(page.locator(f"#{button}")).to_be_disabled()
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(page.locator(".strip.base .status")).to_contain_text("Stopped")
    expect(page.locator(".strip.base .weights")).to_contain_text("bbbbbbbb")
    assert re.search(r"\d+ ms", page.locator(".strip.base .first-token").inner_text())
    expect(page.locator("#new")).to_be_enabled()
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


# --- turns -------------------------------------------------------------------------------------------


def test_retry_undo_edit_and_new_chat(visitor, url):
    page = visitor(url)
    at_most(page, 40)
    ask(page, "Hello there")
    ended(page)
    first = reply(page, "base")
    page.get_by_role("button", name="Retry turn").click()
    page.wait_for_timeout(300)
    ended(page)
    assert reply(page, "base") == first, "same seed, same reply"
    page.locator("#seed input").fill("99")
    page.locator("#seed input").press("Tab")
    page.get_by_role("button", name="Retry turn").click()
    page.wait_for_function(
        "(before) => { const bot = document.querySelector('#chat_base .bot.message'); return bot && bot.innerText !== before }",
        arg=first,
    )
    ended(page)
    expect(page.locator("#chat_base .bot.message")).to_have_count(1)
    page.get_by_role("button", name="Edit last prompt").click()
    expect(page.locator("#prompt textarea")).to_have_value("Hello there")
    expect(page.locator("#chat_base .bot.message")).to_have_count(0)
    ask(page, "One")
    ended(page)
    ask(page, "Two")
    expect(page.locator("#chat_base .user.message")).to_have_count(2)
    ended(page)
    page.get_by_role("button", name="Undo turn").click()
    expect(page.locator("#chat_base .user.message")).to_have_count(1)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#chat_base .user.message")).to_have_count(0)
    page.get_by_role("button", name="Undo turn").click()
    expect(page.locator("#notice")).to_contain_text("no turn to undo")


def test_a_reload_keeps_the_conversation_and_its_settings(visitor, url):
    page = visitor(url)
    page.locator("#seed input").fill("77")
    page.locator("#system textarea").fill("You are Captain Nora.")
    page.locator("#system textarea").press("Tab")
    ask(page, "Who are you?")
    ended(page)
    before = (reply(page, "base"), reply(page, "post"))
    reload(page)
    expect(page.locator("#chat_post .bot.message")).to_have_count(1)
    assert (reply(page, "base"), reply(page, "post")) == before
    expect(page.locator("#seed input")).to_have_value("77")
    expect(page.locator("#system textarea")).to_have_value("You are Captain Nora.")
    page.get_by_role("button", name="Exactly what was sent").click()
    expect(page.locator(".sent.post pre")).to_contain_text("Captain Nora")
    ask(page, "And now?")
    expect(page.locator("#chat_post .user.message")).to_have_count(2)
    ended(page)


def test_the_dice_roll_a_new_seed(visitor, url):
    page = visitor(url)
    before = page.locator("#seed input").input_value()
    page.get_by_role("button", name="Roll").click()
    page.wait_for_function("(before) => document.querySelector('#seed input').value !== before", arg=before)


def test_choosing_another_pair_renames_the_panes_and_loads_nothing(visitor, url, pool):
    page = visitor(url)
    page.locator("#pair input").click()
    page.get_by_role("option", name="SmolLM2 135M").click()
    expect(page.locator("#head_base")).to_contain_text("SmolLM2-135M")
    expect(page.locator("#head_post")).to_contain_text("SmolLM2-135M-Instruct")
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
        for side in ("base", "post"):
            shown = pages[name].locator(f"#chat_{side}").inner_text()
            assert f"My name is {name}." in shown
            assert f"My name is {other}." not in shown


def test_stop_stops_only_ones_own_replies(visitor, slow):
    mine, theirs = visitor(slow), visitor(slow)
    for page in (mine, theirs):
        ask(page, "Count")
        expect(page.locator(".strip.base.is-writing")).to_have_count(1)
    mine.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(mine)
    expect(theirs.locator(".strip.base.is-writing")).to_have_count(1)
    theirs.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(theirs)


def test_a_slow_browser_is_asked_to_draw_less_often_so_that_stop_still_works(visitor, slow):
    page = visitor(slow)
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 8})
    ask(page, "Count")
    expect(page.locator(".strip.base.is-writing")).to_have_count(1)
    page.wait_for_timeout(4000)  # long enough for what is not drawn to pile up
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(page.locator(".strip.base .status")).to_contain_text("Stopped")


def test_what_is_sent_while_a_reply_is_being_written_stays_in_its_box_and_a_sentence_says_why(visitor, slow):
    page = visitor(slow)
    ask(page, "Count")
    expect(page.locator(".strip.base.is-writing")).to_have_count(1)
    ask(page, "Too early")
    expect(page.locator("#notice")).to_contain_text("A reply is being written")
    expect(page.locator("#prompt textarea")).to_have_value("Too early")
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(page.locator("#chat_base .user.message")).to_have_count(1)
    quiet(page)  # the end of the first reply is told twice, and the second time may come late
    ask(page, "Now")
    expect(page.locator("#chat_base .user.message")).to_have_count(2)
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)


def test_closing_the_tab_in_mid_reply_frees_both_slots(browser, url, pool, monkeypatch):
    lease = pool.wait("embedded")
    finished = []
    for engine in (lease.base.engine, lease.post.engine):
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
    expect(page.locator(".strip.base.is-writing")).to_have_count(1)
    assert finished == []
    context.close()
    deadline = time.monotonic() + 60
    while len(finished) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert finished == ["stopped", "stopped"]


def test_a_visitor_who_waits_sees_how_many_are_ahead(visitor, url, pool):
    """All slots of the lane are taken by long requests; the page counts those before it."""
    page = visitor(url)
    at_most(page, 40)
    lease = pool.wait("embedded")
    long = Request(
        token_ids=(5, 6, 7), sampling=DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 200}), stop_ids=frozenset()
    )
    crowd = [
        engine.submit(long, lambda event: None) for engine in (lease.base.engine, lease.post.engine) for _ in range(24)
    ]
    try:
        ask(page, "Hello")
        expect(page.locator(".strip.base .status")).to_contain_text(re.compile(r"Waiting, \d+ ahead"))
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
    ask(page, "Hello again")
    expect(page.locator("#notice")).to_contain_text("Seed is empty")
    expect(page.locator("#prompt textarea")).to_have_value("Hello again")
    expect(page.locator("#chat_base .user.message")).to_have_count(1)
    page.locator("#seed input").fill("5")
    page.locator("#seed input").press("Tab")
    ask(page, "word " * 3000)
    expect(page.locator("#notice")).to_contain_text("its context holds 1,024")
    expect(page.locator("#chat_base .user.message")).to_have_count(1)
    assert len(page.locator("#prompt textarea").input_value()) > 10_000, "the prompt is still in its box"


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
    expect(page.locator("#prompt .submit-button")).to_be_visible()


# --- strangers' text -------------------------------------------------------------------------------------

HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"><iframe src="http://127.0.0.1:9/x"></iframe>
![picture](http://127.0.0.1:9/pixel.png) <form action="http://127.0.0.1:9/"><input name=password></form>
${window.hacked = 3} {{constructor.constructor('window.hacked = 4')()}} $$\\href{javascript:window.hacked=5}{x}$$
[link](javascript:window.hacked=6) <style>body { display: none }</style> <b>bold?</b> &lt;ok&gt; & done
    indented
<|im_end|> <a href="http://127.0.0.1:9/">leave</a> `<i>code</i>`"""


def shows_exactly(page, text: str) -> None:
    """The base pane holds this text, character for character."""
    page.wait_for_function(
        "(text) => document.querySelector('#chat_base .bot.message .md').textContent === text", arg=text
    )


def test_hostile_output_and_prompts_are_shown_and_do_nothing(visitor, scripted):
    url = scripted(HOSTILE)
    page = visitor(url)
    ask(page, HOSTILE)
    ended(page)
    page.get_by_role("button", name="Exactly what was sent").click()
    shows_exactly(page, HOSTILE)
    page.wait_for_timeout(500)
    assert page.evaluate("window.hacked") is None
    for place in ("#chat_base", "#chat_post", "#sent"):
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
    assert "<script>window.hacked = 1</script>" in page.locator("#chat_post .bot.message").inner_text()
    assert "<script>" in page.locator("#sent .sent.base pre").inner_text()


def test_copy_gives_the_text_itself(visitor, scripted):
    text = "if a < b && b > c: ![x](y) &amp; **bold** `a && b` ``c ` d``\n\n1. Run\n    ```sh\n    a < b && echo '&#x41;'\n    ```"
    url = scripted(text)
    page = visitor(url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "Hello")
    ended(page)
    for side in ("base", "post"):
        page.locator(f"#chat_{side} .bot-row").hover()
        page.locator(f"#chat_{side} .bot-row").get_by_role("button", name="Copy message").click()
        page.wait_for_timeout(200)
        assert page.evaluate("navigator.clipboard.readText()") == text


def test_markdown_keeps_its_form_on_the_post_trained_side(visitor, scripted):
    markdown = "# Title\n\n- one\n- two\n\n```python\nprint('<b>')\n```\n\n**bold** and `x < y`"
    url = scripted(markdown)
    page = visitor(url)
    ask(page, "Hello")
    ended(page)
    pane = page.locator("#chat_post .bot.message")
    expect(pane.locator("strong")).to_have_text("bold")
    assert pane.locator("li").all_inner_texts() == ["one", "two"]
    assert "print('<b>')" in pane.locator("pre").inner_text()
    assert "x < y" in pane.inner_text()
    shows_exactly(page, markdown)


# --- for everybody -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing(visitor, scripted, width):
    url = scripted("A reply with **markdown**, `code` and\n\n- a list")
    page = visitor(url, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    for state in ("empty", "answered"):
        if state == "answered":
            ask(page, "Hello")
            ended(page)
            page.get_by_role("button", name="Exactly what was sent").click()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(
                f"() => document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}"
            )
            page.wait_for_timeout(300)  # colours fade from one scheme to the other
            found = Axe().run(page)
            assert found.violations_count == 0, (state, scheme, found.generate_report())


def test_it_fits_a_phone(visitor, slow):
    page = visitor(slow, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing scrolls sideways but the panes"
    expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_in_viewport()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
def test_the_foot_says_the_version_and_with_what_the_pair_was_built_and_takes_no_room(visitor, scripted, width, height):
    page = visitor(scripted("One reply"), viewport={"width": width, "height": height})
    ask(page, "Hello")
    ended(page)
    expect(page.locator("#foot")).to_have_text(
        f"Same Seed {__version__} \u00b7 Apache-2.0 \u00b7 The embedded pair: Built with Llama"
    )
    expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate("document.documentElement.scrollHeight - innerHeight")
    assert width < 1440 or beyond == 0, "a finished comparison still fits the screen"
    page.locator("#foot").scroll_into_view_if_needed()
    expect(page.locator("#foot")).to_be_in_viewport(ratio=1)


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
    for name in (
        "pair",
        "system",
        "temperature",
        "seed",
        "dice",
        "prompt",
        "retry",
        "edit",
        "undo",
        "new",
        "Exactly what was sent",
    ):
        assert name in seen, f"{name} cannot be reached with Tab: {sorted(reached)}"


def test_strangers_routes_are_blocked_and_headers_are_set(url):
    import httpx

    home = httpx.get(url)
    assert "default-src 'self'" in home.headers["content-security-policy"]
    assert home.headers["x-content-type-options"] == "nosniff"
    for path in (
        "/gradio_api/file=http://127.0.0.1:9/x",
        "//gradio_api//file=http://127.0.0.1:9/x",
        "/gradio_api/proxy=http://127.0.0.1:9/x",
        "/monitoring",
        "/docs",
        "/openapi.json",
    ):
        assert httpx.get(url + path).status_code in (404, 403), path
