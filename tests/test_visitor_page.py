"""Whose conversation a page shows, in a real browser: several tabs, back and forward, a server that was started again."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from core import links
from core.settings import Settings
from core.ui import line, sessions
from tests import browser as chromium
from tests.browser import Watch, ask, ended, open_page, reload, writing
from tests.ports import free_port
from tests.scripted import PAIR, ScriptedPool
from tests.values import COMPARISON

LINK = links.encode(links.Shared(comparison=COMPARISON.model_copy(update={"pair": PAIR.id})))


@pytest.fixture
def window(come) -> BrowserContext:
    """One browser of one person, in which tabs can be opened."""
    return come().context


@pytest.fixture
def open_tab(window) -> Iterator[Callable[[str], Page]]:
    watches: list[Watch] = []

    def opened(url: str) -> Page:
        page = window.new_page() if watches else window.pages[0]
        watches.append(Watch(page, url))
        open_page(page, url)
        return page

    yield opened
    for watch in watches:
        watch.end()
    for watch in watches:
        watch.check()


def say(page: Page, *prompts: str) -> None:
    for prompt in prompts:
        before = page.locator(".turn .reply.base .text").count()
        ask(page, prompt)
        expect(page.locator(".turn .reply.base .text")).to_have_count(before + 1)
        ended(page)
        expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_visible()


def shows(page: Page, *prompts: str) -> None:
    expect(page.locator(".turn .words")).to_have_text(list(prompts))


def test_who_comes_after_a_visitor_has_left_finds_nothing_of_theirs(visitors, scripted):
    """Of these tests themselves: a page is used again, and must be as new."""

    def found(page: Page) -> list:
        page.goto(f"{url}/ready")
        return page.evaluate(
            "async () => [localStorage.length, sessionStorage.length, document.cookie, history.length, innerWidth,"
            " matchMedia('(prefers-color-scheme: dark)').matches, matchMedia('(prefers-reduced-motion: reduce)').matches,"
            " (await navigator.permissions.query({ name: 'clipboard-read' })).state]"
        )

    url = scripted("a base reply", "a post-trained reply")
    page = visitors.come()
    first = found(page)
    options = {"viewport": {"width": 500, "height": 800}, "color_scheme": "dark", "reduced_motion": "reduce"}
    visitors.leave(page, for_good=False)
    left = visitors.come(permissions=["clipboard-read"], **options)
    left.route("**/ready", lambda route: route.fulfill(body="of another"))
    left.context.new_page().goto(url)
    open_page(left, url)
    say(left, "Mine")
    left.evaluate("document.cookie = 'mine=1'; sessionStorage.mine = 1")
    assert all(theirs != mine for theirs, mine in zip(found(left), first, strict=True))
    visitors.leave(left, for_good=False)
    again = visitors.come()
    assert again is left is page, "one page for all three"
    assert found(again) == first and "of another" not in again.content() and again.context.pages == [again]
    visitors.leave(again, for_good=False)


# --- each tab is a conversation of its own -------------------------------------------------------------


def test_two_tabs_never_overwrite_each_others_conversation(open_tab, scripted):
    url = scripted("a base reply", "a post-trained reply")
    first, second = open_tab(url), open_tab(url)
    say(first, "First tab")
    say(second, "Second tab")
    say(first, "First tab again")
    reload(second)
    shows(second, "Second tab")
    reload(first)
    shows(first, "First tab", "First tab again")
    say(second, "Second tab again")
    reload(second)
    shows(second, "Second tab", "Second tab again")


def test_a_new_tab_offers_the_last_conversation_and_gets_a_copy_of_it(open_tab, scripted):
    url = scripted("a base reply", "a post-trained reply")
    first = open_tab(url)
    expect(first.locator("#back")).to_have_count(0)
    say(first, "Mine", "Mine too")
    second = open_tab(url)
    shows(second)
    second.get_by_role("button", name="Continue \u201cMine\u201d").click()
    shows(second, "Mine", "Mine too")
    say(second, "Only in the second tab")
    reload(first)
    shows(first, "Mine", "Mine too")
    reload(second)
    shows(second, "Mine", "Mine too", "Only in the second tab")


def kept(page: Page) -> list[dict]:
    """The conversations in this browser, as they are stored."""
    return page.evaluate(
        "Object.keys(localStorage).filter((key) => key.startsWith('same-seed/')).map((key) => JSON.parse(localStorage[key]))"
    )


def test_what_no_open_tab_holds_is_opened_itself_and_looking_at_it_changes_nothing(open_tab, scripted):
    url = scripted("a base reply", "a post-trained reply")
    first = open_tab(url)
    say(first, "Mine")
    first.evaluate(  # as if it had been asked long ago
        "() => { for (const [key, text] of Object.entries(localStorage)) if (key.startsWith('same-seed/'))"
        " localStorage[key] = JSON.stringify({ ...JSON.parse(text), used: new Date(2020, 0, 5).getTime() }); }"
    )
    first.close(run_before_unload=True)
    second = open_tab(url)
    second.get_by_role("button", name="Continue \u201cMine\u201d, Jan 5").click()
    shows(second, "Mine")
    listed(second, "Mine")
    expect(second.locator(".conversations .open span")).to_contain_text("1 turn \u00b7 Jan 5")
    say(second, "And more")
    listed(second, "Mine")
    expect(second.locator(".conversations .open span")).not_to_contain_text("Jan 5")
    assert len(kept(second)) == 1
    second.evaluate(  # a tab that ended without a word, a moment ago
        "() => { for (const [key, text] of Object.entries(localStorage)) if (key.startsWith('same-seed/'))"
        " localStorage[key] = JSON.stringify({ ...JSON.parse(text), owner: 'gone' });"
        " localStorage['same-seed-open/gone'] = Date.now(); }"
    )
    second.add_init_script(  # on a busy machine which tabs are open is known later than the page is there
        "const query = navigator.locks.query.bind(navigator.locks);"
        " navigator.locks.query = () => new Promise((later) => setTimeout(() => later(query()), 1000));"
    )
    reload(second)
    shows(second, "Mine", "And more")
    second.wait_for_function(
        "() => Object.keys(localStorage).filter((key) => key.startsWith('same-seed/')).length === 1"
    )
    listed(second, "Mine")
    say(second, "And still more")
    assert len(kept(second)) == 1


def test_two_tabs_that_take_one_conversation_over_at_once_never_overwrite_each_other(open_tab, scripted):
    page = open_tab(scripted("a base reply", "a post-trained reply"))
    say(page, "Mine")
    page.evaluate(
        "() => { for (const [key, text] of Object.entries(localStorage)) if (key.startsWith('same-seed/'))"
        " localStorage[key] = JSON.stringify({ ...JSON.parse(text), owner: 'other' }); }"
    )
    say(page, "Mine too")
    shows(page, "Mine", "Mine too")
    assert sorted(len(json.loads(each["kept"])["records"]) for each in kept(page)) == [1, 2]
    say(page, "And more")
    assert sorted(len(json.loads(each["kept"])["records"]) for each in kept(page)) == [1, 3]
    reload(page)
    shows(page, "Mine", "Mine too", "And more")


def test_what_is_asked_is_listed_at_once_and_outlives_its_tab(open_tab, scripted):
    url = scripted("one two three " * 60, pause=0.1)
    first = open_tab(url)
    ask(first, "Once upon a time")
    listed(first, "Once upon a time")
    expect(first.locator(".conversations .open span")).to_contain_text("no reply yet")
    first.close(run_before_unload=True)
    second = open_tab(url)
    listed(second, "Once upon a time")
    second.get_by_role("button", name="Continue \u201cOnce upon a time\u201d").click()
    expect(second.locator("#prompt textarea")).to_have_value("Once upon a time")
    expect(second.locator("#notice")).to_contain_text("press Compare to ask again")
    scripted("a base reply")
    second.locator("#prompt textarea").press("Enter")
    ended(second)
    expect(second.locator(".conversations .open span")).to_contain_text("1 turn \u00b7")
    second.locator("#new").click()
    shows(second)
    scripted("one two three " * 60, pause=0.1)
    ask(second, "Another")
    listed(second, "Another", "Once upon a time")
    expect(second.locator("#back")).to_be_hidden()
    second.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(second)


def test_a_question_without_a_reply_can_be_deleted(open_tab, scripted):
    url = scripted("one two three " * 60, pause=0.1)
    page = open_tab(url)
    ask(page, "Once upon a time")
    listed(page, "Once upon a time")
    page.goto("about:blank")
    open_page(page, url)
    expect(page.locator("#prompt textarea")).to_have_value("Once upon a time")
    page.get_by_role("button", name='Delete "Once upon a time"').click()
    listed(page)
    assert kept(page) == []


def test_what_begins_takes_the_offer_to_continue_away(open_tab, scripted):
    url = scripted("a base reply", "a post-trained reply")
    say(open_tab(url), "Mine")
    page = open_tab(url)
    expect(page.locator("#back")).to_be_visible()
    say(page, "Something new")
    expect(page.locator("#back")).to_be_hidden()
    expect(page.locator("#banner")).to_be_hidden()


def test_a_duplicated_tab_gets_its_own_copy(window, open_tab, scripted):
    url = scripted("a base reply", "a post-trained reply")
    first = open_tab(url)
    say(first, "Before")
    with window.expect_page() as opening:
        first.evaluate("window.open(location.href)")  # takes the tab's storage along, as a duplicate does
    second = opening.value
    open_page(second, url)  # the same address, in the tab that has that storage
    shows(second, "Before")
    say(second, "In the copy")
    say(first, "In the original")
    reload(first)
    shows(first, "Before", "In the original")
    reload(second)
    shows(second, "Before", "In the copy")


# --- back and forward ------------------------------------------------------------------------------------


def quiet(page: Page) -> None:
    page.wait_for_load_state("networkidle")


def test_back_and_forward_agree_with_what_is_shown(open_tab, scripted):
    url = scripted("a base reply", "a post-trained reply")
    page = open_tab(url)
    say(page, "My own")
    page.get_by_role("button", name="New chat").click()
    shows(page)
    say(page, "Another")
    page.goto(f"{url}/{LINK.replace('=', '%3D')}.)")  # as a chat program may hand it on
    expect(page.locator("#banner")).to_contain_text("Nothing has been run")
    shows(page)
    expect(page.locator("#prompt textarea")).to_have_value(COMPARISON.prompt)
    for go, prompts, box in (
        (page.go_back, ("Another",), ""),
        (page.go_back, ("My own",), ""),
        (page.go_forward, ("Another",), ""),
        (page.go_forward, (), COMPARISON.prompt),
    ):
        go()
        shows(page, *prompts)
        expect(page.locator("#prompt textarea")).to_have_value(box)
        page.wait_for_timeout(500)
    page.locator("#prompt textarea").press("Enter")
    ended(page)
    shows(page, COMPARISON.prompt)
    page.wait_for_function("() => location.hash === ''")
    page.go_back()
    shows(page, "Another")
    page.go_forward()
    shows(page, COMPARISON.prompt)
    page.get_by_role("button", name="Back to my conversation").click()
    shows(page, "Another")


def test_what_a_link_says_to_press_goes_once_it_was_pressed(open_tab, scripted):
    page = open_tab(scripted("one two three " * 60, pause=0.1))
    page.goto("about:blank")
    page.goto(f"{scripted('one two three ' * 60, pause=0.1)}/{LINK}")
    banner = page.locator("#banner")
    expect(banner).to_be_visible()
    page.locator("#prompt textarea").press("Enter")
    page.locator(".running").wait_for()
    expect(banner).to_be_hidden()
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    expect(banner).to_be_visible()


def test_a_browser_that_stores_nothing_still_compares(browser, scripted):
    url = scripted("a base reply", "a post-trained reply")
    context = browser.new_context()
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('refused', 'SecurityError'); } });"
    )
    page = context.new_page()
    open_page(page, url)
    say(page, "One", "Two")
    shows(page, "One", "Two")
    context.close()


# --- the list of conversations ----------------------------------------------------------------------------


def listed(page: Page, *titles: str) -> None:
    expect(page.locator(".conversations .open b")).to_have_text(list(titles))


def test_conversations_are_listed_named_taken_away_and_carried_to_another_browser(open_tab, scripted):
    page = open_tab(scripted("a base reply", "a post-trained reply"))
    say(page, "First", "And more")
    page.locator("#new").click()
    shows(page)
    say(page, "Second")
    listed(page, "Second", "First")
    expect(page.locator(".conversations [aria-current]")).to_contain_text("Second")
    expect(page.locator(".conversations li").nth(1)).to_contain_text("2 turns")
    page.once("dialog", lambda dialog: dialog.accept("A name"))
    page.locator(".conversations li").nth(1).hover()
    page.get_by_role("button", name='Rename "First"').click()
    listed(page, "Second", "A name")
    page.locator(".conversations .open").nth(1).click()
    shows(page, "First", "And more")
    page.locator(".conversations li").nth(1).hover()
    page.get_by_role("button", name='Delete "Second"').click()
    listed(page, "A name")
    page.locator(".conversations").get_by_role("button", name="Put back").click()
    listed(page, "A name", "Second")
    with page.expect_download() as download:
        page.get_by_role("button", name='Export "A name"').click()
    file = download.value.path()
    page.get_by_role("button", name='Delete "A name"').click()
    shows(page)
    listed(page, "Second")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Forget all conversations").click()
    listed(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files(file)
    shows(page, "First", "And more")
    listed(page, "A name")
    say(page, "It goes on")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files({"name": "x.json", "mimeType": "application/json", "buffer": b"{}"})
    expect(page.locator(".conversations .said")).to_contain_text("not a conversation that was exported here")


def test_on_a_shared_computer_nothing_outlives_its_tab(open_tab, scripted):
    url = scripted("a base reply", "a post-trained reply")
    page = open_tab(url)
    say(page, "Before")
    page.get_by_label("Forget this tab\u2019s conversations when it is closed").check()
    say(page, "After")
    reload(page)
    shows(page, "Before", "After")
    say(page, "And later")
    reload(page)
    shows(page, "Before", "After", "And later")
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('same-seed/'))") == []
    other = open_tab(url)
    listed(other)


def test_what_does_not_fit_costs_no_other_conversation(open_tab, scripted):
    page = open_tab(scripted("a base reply", "a post-trained reply"))
    say(page, "First")
    page.locator("#new").click()
    shows(page)
    say(page, "Second")
    huge = json.dumps({"same-seed": "conversation", "version": 1, "kept": {"records": ["x" * 6_000_000]}})
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files({"name": "x.json", "mimeType": "application/json", "buffer": huge.encode()})
    expect(page.locator(".conversations .said")).to_contain_text("no room")
    listed(page, "Second", "First")


def test_a_browser_without_room_says_so(open_tab, scripted):
    page = open_tab(scripted("a base reply", "a post-trained reply"))
    page.evaluate(
        "() => { Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }; }"
    )
    say(page, "Hello")
    shows(page, "Hello")
    expect(page.locator(".conversations .said")).to_contain_text("has no room left")


# --- the server was started again under an open page ------------------------------------------------------


def test_every_tab_goes_on_when_the_server_was_started_again(come):
    pool, port, page = ScriptedPool("a base reply", "a post-trained reply"), free_port(), come()
    with ExitStack() as running:
        first = running.enter_context(ExitStack())
        url = first.enter_context(chromium.served(pool, port))
        open_page(page, url)
        say(page, "One", "Two")
        page.get_by_role("tab", name="Token lens").click()
        expect(page.locator("#lens_turn input")).to_have_value("2. Two")
        first.close()
        running.enter_context(chromium.served(pool, port))
        page.locator("#lens_read").click()
        page.locator(".lens[data-state=done]").wait_for()
        page.get_by_role("tab", name="Receipts").click()
        expect(page.locator("#why_second input")).to_have_value("Turn 2: Two")
        page.locator("#explain").click()
        expect(page.locator("#explanation")).to_contain_text("the replies are the same")
        with page.expect_download() as download:
            page.get_by_role("button", name="Both replies as Markdown").click()
        assert "Two" in download.value.path().read_text("utf-8")
        page.get_by_role("tab", name="Experiments").click()
        page.locator("[data-lesson=weights]").first.click()
        expect(page.locator("#exp_intro")).to_contain_text("Training is over")
        page.get_by_role("tab", name="Compare").click()
        say(page, "Three")
        shows(page, "One", "Two", "Three")


def test_a_session_that_was_forgotten_loses_nothing(come, monkeypatch):
    pool, page = ScriptedPool("a base reply", "a post-trained reply"), come()
    demo, url = chromium._serve(pool, Settings(port=free_port()))
    open_page(page, url)
    say(page, "One")
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 0)
    while demo.state_holder.session_data:
        page.wait_for_timeout(50)
    monkeypatch.undo()
    say(page, "Two")
    shows(page, "One", "Two")
    demo.close(verbose=False)


def test_a_server_that_is_gone_in_mid_reply_gives_the_prompt_back_and_the_next_one_answers_it(come):
    pool, settings, page = (
        ScriptedPool("a base reply", "a post-trained reply"),
        Settings(port=free_port()),
        come(),
    )
    demo, url = chromium._serve(pool, settings)
    open_page(page, url)
    say(page, "One")
    for prompts in (("One", "Two"), ("One", "Two", "Three")):  # what is broken off a second time is no different
        pool.say("word " * 300, "word " * 300, pause=0.1)
        ask(page, prompts[-1])
        writing(page)
        for connection in list(demo.server.server_state.connections):
            connection.loop.call_soon_threadsafe(connection.transport.abort)
        demo.close(verbose=False)
        box = page.locator("#prompt textarea")
        expect(box).to_have_value(prompts[-1])
        expect(page.locator("#notice")).to_have_text(
            "The connection to the server broke off, or it is being started again. Your prompt is in the box again."
        )
        pool.say("a base reply", "a post-trained reply")
        demo, _ = chromium._serve(pool, settings)
        box.press("Enter")
        shows(page, *prompts)
        ended(page)
        expect(page.locator(".turn .reply.base .text").last).to_contain_text("a base reply")
    demo.close(verbose=False)


def test_a_limit_that_is_reached_says_what_to_do_and_keeps_the_prompt(come, scripted, monkeypatch):
    page = come()
    open_page(page, scripted("a base reply", "a post-trained reply"))
    for name, limit, sentence in (("MAX_OF_SESSION", 0, line.TOO_MANY), ("MAX_WAITING", 0, line.FULL)):
        monkeypatch.setattr(line, name, limit)
        ask(page, "Mine")
        expect(page.locator("#notice")).to_have_text(f"{sentence} Your prompt is in the box again.")
        expect(page.locator("#prompt textarea")).to_have_value("Mine")
        monkeypatch.undo()
    page.locator("#prompt textarea").press("Enter")
    shows(page, "Mine")
