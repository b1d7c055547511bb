"""Links, receipts, marks and exports in a real browser, over tiny models that really write."""

import base64
import json
import random
import re
import zlib
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from gradio_client import Client
from playwright.sync_api import Page, expect

from core import canonical, links, receipts
from core.hub import HuggingFaceHub
from core.pool import Pool
from core.settings import Settings
from core.types import DEFAULT_SAMPLING, Comparison, Conversation, Receipt, Request, Sampling, Turn
from core.ui import page as whole_page
from tests import browser as chromium
from tests import tiny
from tests.browser import Watch, ask, at_most, ended, reload, reply, writing
from tests.ports import free_port
from tests.test_replay import resealed

CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    base, post = tiny.save_pair(tmp_path_factory.mktemp("pair"))
    pool = Pool(Settings(base=str(base), post=str(post), threads=1), HuggingFaceHub())
    pool.wait(pool.default.id).release()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def url(pool):
    with chromium.served(pool) as url:
        yield url


def comparison(pool, prompt="What is a model?", turns=(), **changes) -> Comparison:
    sampling = Sampling.model_validate({**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 24, **changes})
    return Comparison(
        pair=pool.default.id,
        conversation=Conversation(system="Be kind.", turns=turns),
        prompt=prompt,
        sampling=sampling,
        today="2026-01-02",
    )


def run(url: str, asked: Comparison) -> Receipt:
    """By the API, as programs do."""
    answer = Client(url, verbose=False).predict(canonical.dump(asked), api_name="/compare")
    return receipts.within(answer)


@pytest.fixture(scope="module")
def receipt(pool, url) -> Receipt:
    turns = (Turn(prompt="Hello", base=" there", post="Hello **you**"), Turn(prompt="More", base=" and", post="Less"))
    odd = {
        "temperature": 0.37,
        "top_p": 0.934,
        "seed": 2**53 - 1,
        "repetition_penalty": 0.93,
        "max_new_tokens": 13,
        "top_k": 300,
    }
    return run(url, comparison(pool, turns=turns, **odd))


def copied_link(page: Page, turn: int, inside=None) -> str:
    page.evaluate("navigator.clipboard.writeText('')")
    (inside or page).locator(f".turn[data-turn='{turn}'] [data-do=link]").click()
    for _ in range(100):
        text = page.evaluate("navigator.clipboard.readText()")
        if text:
            return text
        page.wait_for_timeout(100)
    raise AssertionError("nothing was copied")


def without_texts(link: str) -> str:
    """As the link of the turn's receipt would be, which knows the tokens and not their texts."""
    address, shared = link.partition("#")[0], links.decode(link)
    outputs = {side: output.model_copy(update={"text": None}) for side, output in shared.outputs.items()}
    return address + links.encode(shared.model_copy(update=outputs))


def ask_next(page: Page, text: str, turn: int) -> None:
    """Ask once the page takes a prompt, and wait until the turn has its receipt."""
    expect(page.locator("#prompt").get_by_role("button", name="Compare")).to_be_visible()
    ask(page, text)
    expect(page.locator(f".turn[data-turn='{turn - 1}'] [data-do=receipt]")).to_have_count(1)


def drop(page: Page, data: str) -> None:
    """Drop a file on the Receipts tab."""
    page.get_by_role("tab", name="Receipts").click()
    file = {"name": "receipt.json", "mimeType": "application/json", "buffer": data.encode()}
    page.locator("#receipt_file input[type=file]").set_input_files(file)


# --- links --------------------------------------------------------------------------------------------


def test_a_link_restores_everything_runs_nothing_and_then_tells_whether_it_is_the_same(visitor, url, receipt):
    link = f"{url}/{links.encode(links.of_receipt(receipt))}"
    page = visitor(link, **CLIPBOARD)
    expect(page.locator("#banner")).to_contain_text("a prompt after 2 earlier turns")
    expect(page.locator("#banner")).to_contain_text("Nothing has been run")
    expect(page.locator("#prompt textarea")).to_have_value("What is a model?")
    expect(page.locator("#system textarea")).to_have_value("Be kind.")
    expect(page.locator("#seed input")).to_have_value(str(2**53 - 1))
    expect(page.locator("#temperature input[type=number]")).to_have_value("0.37")
    expect(page.locator(".turn:not(.shared)")).to_have_count(2)
    shared = page.locator(".turn.shared")
    expect(shared.locator(".caption")).to_contain_text("as shared, not checked")
    replies = {side: reply(page, side, 2) for side in ("base", "post")}
    assert all(replies.values()), "they came with the link"
    assert reply(page, "base", 0).strip() == "there"
    page.wait_for_timeout(1000)
    assert page.locator(".running").count() == 0, "nothing runs"
    assert page.locator(".turn:not(.shared) [data-do]").count() == 0, "how those turns were made is not known"
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('same-seed/'))") == [], (
        "nothing is kept before it is run"
    )
    page.locator("#prompt textarea").press("Enter")
    ended(page)
    expect(page.locator("#banner")).to_contain_text("These are the replies that were shared")
    page.wait_for_function("() => location.hash === ''")
    assert without_texts(copied_link(page, 2)) == link, "the same comparison, the same link"
    reload(page)
    expect(page.locator(".turn .reply.post .text")).to_have_count(3)
    expect(page.locator("#banner")).to_be_hidden()


def test_other_replies_than_the_shared_ones_are_told(visitor, url, receipt):
    shared, other = links.of_receipt(receipt), {"sha256": "0" * 64, "token_ids": ()}
    for output, expected in (
        (shared.base.model_copy(update=other), "Base: the same weights wrote something else"),
        (shared.base.model_copy(update={**other, "weights_sha256": "e" * 64}), "other weights (eeeeeeee"),
    ):
        page = visitor(f"{url}/{links.encode(shared.model_copy(update={'base': output}))}")
        expect(page.locator("#banner")).to_contain_text("Nothing has been run")
        page.locator("#prompt textarea").press("Enter")
        ended(page)
        expect(page.locator("#banner")).to_contain_text("These are not the replies that were shared")
        expect(page.locator("#banner")).to_contain_text(expected)


def test_a_changed_comparison_is_no_longer_the_shared_one(visitor, url, receipt):
    page = visitor(f"{url}/{links.encode(links.of_receipt(receipt))}")
    expect(page.locator("#banner")).to_contain_text("Nothing has been run")
    ask(page, "Something else")
    ended(page)
    expect(page.locator("#banner")).to_be_hidden()


def hostile(pool, receipt) -> dict[str, str]:
    """Fragments and what is said about them; every other kind is in test_links.py."""
    data = json.dumps(canonical.dump(links.of_receipt(receipt)))
    html = json.dumps("<img src=x onerror='window.hacked=1'>${window.hacked=2}")
    markup = data.replace('"Be kind."', html).replace(json.dumps(pool.default.id), html)
    return {
        "#c=<b>&": "damaged",
        "#c": "damaged",
        packed(b" " * 50_000_000): "unpacks to more than",
        "#c=" + "A" * 400_000: "longer than 150,000",  # Chromium itself refuses much longer addresses
        packed(markup.encode()): "There is no pair",
    }


def packed(data: bytes) -> str:
    return links.PREFIX + base64.urlsafe_b64encode(zlib.compress(data)).decode().rstrip("=")


def test_hostile_links_get_one_sentence_and_change_nothing(visitor, url, pool, receipt):
    page = visitor(url)
    page.locator("#seed input").fill("77")
    ask(page, "Hello")
    ended(page)
    for fragment, sentence in hostile(pool, receipt).items():
        page.goto("about:blank")
        page.goto(f"{url}/{fragment}")
        expect(page.locator("#notice")).to_contain_text(sentence)
        expect(page.locator(".turn .reply.base .text")).to_have_count(1)
        expect(page.locator("#seed input")).to_have_value("77")
        expect(page.locator("#prompt textarea")).to_have_value("")
        expect(page.locator("#banner")).to_be_hidden()
        assert page.evaluate("window.hacked") is None
    page.goto("about:blank")
    page.goto(url)
    expect(page.locator(".turn .reply.base .text")).to_have_count(1)
    expect(page.locator("#back")).to_have_count(0)


def test_html_in_a_link_is_shown_as_text(visitor, url, pool):
    html = "<img src=x onerror='window.hacked=1'>${window.hacked=2}<script>window.hacked=3</script>"
    asked = comparison(pool, prompt=html, turns=(Turn(prompt=html, base=html, post=html),))
    asked = asked.model_copy(update={"conversation": asked.conversation.model_copy(update={"system": html})})
    page = visitor(f"{url}/{links.encode(links.Shared(comparison=asked))}")
    expect(page.locator("#prompt textarea")).to_have_value(html)
    assert html in page.locator(".turn .reply.base .text").inner_text()
    page.wait_for_timeout(500)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".turn img, #banner img").count() == 0


def test_ones_own_conversation_waits_while_a_link_is_looked_at(visitor, url, receipt):
    page = visitor(url)
    ask(page, "My own question")
    ended(page)
    expect(page.locator("#back")).to_have_count(0)
    page.goto(f"{url}/{links.encode(links.of_receipt(receipt))}")  # in an open page only the fragment changes
    expect(page.locator("#banner")).to_contain_text("Nothing has been run")
    page.locator("#prompt textarea").press("Enter")
    ended(page)
    page.wait_for_function("() => location.hash === ''")
    reload(page)
    expect(page.locator(".turn .words")).to_have_count(3)
    page.get_by_role("button", name="Back to my conversation").click()
    expect(page.locator(".turn .words")).to_have_count(1)
    expect(page.locator(".turn .words")).to_contain_text("My own question")
    reload(page)
    expect(page.locator(".turn .words")).to_contain_text("My own question")
    expect(page.locator("#back")).to_have_count(0)


def test_a_link_of_fifty_turns_opens(visitor, url, pool):
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "does", "not", "mind"]
    turns = tuple(
        Turn(prompt=f"Turn {i} {' '.join(words[i % 9 :])}", base=" ".join(words * 20), post=" ".join(words[::-1] * 20))
        for i in range(50)
    )
    link = links.encode(links.Shared(comparison=comparison(pool, turns=turns)))
    page = visitor(f"{url}/{link}")
    expect(page.locator("#banner")).to_contain_text("50 earlier turns")
    expect(page.locator(".turn .reply.post .text")).to_have_count(30)
    page.get_by_role("button", name="Show earlier turns (20)").click()
    expect(page.locator(".turn .reply.post .text")).to_have_count(50)


def test_the_longest_link_fits_the_address(visitor, url, pool):
    noise = random.Random(4).randbytes(50_000).hex()
    link = links.encode(links.Shared(comparison=comparison(pool, prompt=noise)))
    assert len(link) > 60_000
    page = visitor(f"{url}/{link}")
    expect(page.locator("#banner")).to_contain_text("Nothing has been run")
    assert page.locator("#prompt textarea").input_value() == noise


def test_without_a_clipboard_the_link_is_shown_for_copying(visitor, url):
    page = visitor(url)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    ask(page, "Hello")
    ended(page)
    page.locator(".turn [data-do=link]").click()
    field = page.get_by_role("dialog").get_by_label("What is copied")
    expect(field).to_have_value(re.compile(re.escape(url) + r"/#c=[\w-]+"))
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


@contextmanager
def served_as(pool, **settings):
    demo = whole_page.build(pool)
    _, address, _ = whole_page.launch(
        demo, Settings(port=free_port(), **settings), prevent_thread_lock=True, quiet=True
    )
    try:
        yield demo, re.findall(r"^http://127\.0\.0\.1:\d+", address)[0]
    finally:
        demo.close(verbose=False)


def test_links_work_under_a_path_prefix_in_a_frame_and_are_public_with_share(come, pool, receipt):
    """A proxy that strips the prefix, a page of the same origin that frames the app, and a share address."""
    fragment = links.encode(links.of_receipt(receipt))
    with served_as(pool, root_path="/same/seed") as (demo, address):
        page = come(**CLIPBOARD)
        watch = Watch(page, address)
        page.context.route(
            "**/same/seed/**", lambda route: route.continue_(url=route.request.url.replace("/same/seed", "", 1))
        )
        frame = f"<!doctype html><title>Outer</title><iframe id=app src='{address}/same/seed/{fragment}' width=1200 height=800 allow='clipboard-write'></iframe>"
        page.context.route("**/outer", lambda route: route.fulfill(body=frame, content_type="text/html"))
        page.goto(f"{address}/outer")
        inside = page.frame_locator("#app")
        expect(inside.locator("#banner")).to_contain_text("Nothing has been run")
        inside.locator("#prompt textarea").press("Enter")
        expect(inside.locator("#banner")).to_contain_text("These are the replies that were shared")
        assert without_texts(copied_link(page, 2, inside)) == f"{address}/same/seed/{fragment}"
        demo.share_url = "https://0123456789abcdef.gradio.live"
        assert without_texts(copied_link(page, 2, inside)) == f"https://0123456789abcdef.gradio.live/{fragment}"
        watch.end()
        watch.check()


# --- receipts -----------------------------------------------------------------------------------------


def test_a_receipt_is_downloaded_dropped_and_replayed(visitor, url):
    page = visitor(url)
    ask(page, "Hello")
    ended(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Receipt, turn 1").click()
    text = download.value.path().read_text()
    receipt = receipts.read(text.encode())
    assert download.value.suggested_filename == receipts.file_name(receipt)
    drop(page, text)
    expect(page.locator("#check_notice")).to_contain_text("This receipt is sound")
    expect(page.locator("#receipt_summary")).to_contain_text("Hello")
    page.get_by_role("button", name="Replay it").click()
    expect(page.locator("#verdict h3")).to_have_text("Identical, bit for bit.")
    ids = receipt.post.token_ids
    drop(page, receipts.write(resealed(receipt, "post", token_ids=(*ids[:3], (ids[3] + 1) % 300, *ids[4:]))))
    expect(page.locator("#verdict h3")).to_have_count(0)
    page.get_by_role("button", name="Replay it").click()
    expect(page.locator("#verdict h3")).to_contain_text("Diverged")
    rows = page.locator("#verdict .divergence tbody tr")
    expect(rows).to_have_count(2)
    cells = rows.nth(1).locator("td").all_inner_texts()
    assert cells[1] == str(ids[3])
    assert all(re.fullmatch(r"-?[\d.e-]+", cell) for cell in cells[2:]), "logit and margin"
    expect(page.locator("#verdict .divergence")).to_contain_text("Token 4")
    drop(page, receipts.write(resealed(receipt, weights_sha256="e" * 64)))
    expect(page.locator("#verdict h3")).to_have_count(0)
    page.get_by_role("button", name="Replay it").click()
    expect(page.locator("#verdict")).to_contain_text("Not replayable here")
    expect(page.locator("#verdict")).to_contain_text("eeeeeeeeeeeeeeee in the receipt")


def test_hostile_and_tampered_files_get_one_sentence(visitor, url, receipt):
    page = visitor(url)
    text = receipts.write(receipt)
    html = "<img src=x onerror='window.hacked=1'>"
    for data, sentence in (
        (text.replace('"seed": 9007199254740991', '"seed": 5', 1), "comparison.sampling.seed is not the original"),
        ("hello", "does not hold JSON"),
        (text.replace("Be kind.", html), "conversation.system is not the original"),
        (json.dumps({"schema_version": html}), "which is not a number"),
    ):
        drop(page, data)
        expect(page.locator("#check_notice")).to_contain_text(sentence)
        expect(page.get_by_role("button", name="Replay it")).to_be_disabled()
    assert page.evaluate("window.hacked") is None


def test_a_receipt_opens_in_compare_like_a_link(visitor, url, receipt):
    page = visitor(url)
    at_most(page, 24)
    ask(page, "My own question")
    ended(page)
    drop(page, receipts.write(receipt))
    page.get_by_role("button", name="Open it in Compare").click()
    expect(page.locator("#banner")).to_contain_text("Loaded from a receipt")
    expect(page.locator("#prompt textarea")).to_have_value("What is a model?")
    page.locator("#prompt textarea").press("Enter")
    ended(page)
    expect(page.locator("#banner")).to_contain_text("These are the replies that were shared")
    page.get_by_role("button", name="Back to my conversation").click()
    expect(page.locator(".turn .words")).to_have_count(1)
    expect(page.locator(".turn .words")).to_contain_text("My own question")


def test_why_did_it_change_between_two_turns_and_a_forgery(visitor, url, pool):
    page = visitor(url)
    at_most(page, 24)
    ask(page, "Hello")
    ended(page)
    page.locator("#seed input").fill("99")
    page.locator("#seed input").press("Tab")
    ask_next(page, "Hello you", 2)
    page.get_by_role("tab", name="Receipts").click()
    expect(page.locator("#why_first input")).to_have_value("Turn 1: Hello")
    expect(page.locator("#why_second input")).to_have_value("Turn 2: Hello you")
    page.get_by_role("button", name="Explain").click()
    found = page.locator("#explanation")
    expect(found.locator(".changes")).to_contain_text("seed")
    assert found.locator(".changes th[scope=row]").all_inner_texts() == ["history, number of turns", "prompt", "seed"]
    assert "you" in found.locator(".changes ins").all_inner_texts()[1]
    expect(found).to_contain_text(re.compile(r"replies diverge at token \d+: '.+' \(id \d+\) and '.+' \(id \d+\)"))
    expect(found.locator("pre ins").first).to_be_visible()
    receipt = run(url, comparison(pool))
    drop(page, receipts.write(receipt))
    expect(page.locator("#why_second input")).to_have_value(re.compile("Receipt .*What is a model"))
    drop(page, receipts.write(resealed(receipt, token_ids=(1, *receipt.base.token_ids[1:]))))
    expect(page.locator("#why_first input")).to_have_value(re.compile("Receipt .*What is a model"))
    page.get_by_role("button", name="Explain").click()
    expect(found.locator(".verdict.bad")).to_contain_text("No input differs, but the replies do: this must not happen")


def test_a_replay_can_be_stopped(visitor, url, pool):
    page = visitor(url)
    drop(page, receipts.write(run(url, comparison(pool, max_new_tokens=200, temperature=2))))
    lease = pool.wait(pool.default.id)
    crowd = [
        engine.submit(_long(), lambda event: None)
        for engine in (lease.loaded["base"].engine, lease.loaded["post"].engine)
        for _ in range(30)
    ]
    try:
        page.get_by_role("button", name="Replay it").click()
        page.locator("#replay_stop").click()
        expect(page.locator("#check_notice")).to_contain_text("The replay was stopped")
        expect(page.get_by_role("button", name="Replay it")).to_be_enabled()
    finally:
        for ticket in crowd:
            ticket.cancel()
        lease.release()


def _long():
    settings = DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 200})
    return Request(token_ids=(5, 6, 7), sampling=settings, stop_ids=frozenset())


# --- marks and exports --------------------------------------------------------------------------------


def test_marks_survive_a_reload_and_become_preferences(visitor, url):
    page = visitor(url)
    at_most(page, 24)
    for number, prompt in enumerate(("Hello", "Again", "Thanks")):
        ask_next(page, prompt, number + 1)
    page.get_by_role("group", name="Better reply, turn 3").get_by_role("button", name="Post-trained").click()
    for turn, name in ((1, "Both bad"), (2, "Base"), (1, "Tie")):
        button = page.get_by_role("group", name=f"Better reply, turn {turn}").get_by_role("button", name=name)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
    reload(page)
    expect(page.locator(".turn [aria-pressed=true]")).to_have_count(3)
    replies = {side: [reply(page, side, turn) for turn in range(3)] for side in ("base", "post")}
    page.get_by_role("tab", name="Receipts").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Preferences as JSON Lines").click()
    pairs = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert [pair["prompt"][-1]["content"] for pair in pairs] == ["Again", "Thanks"]
    assert pairs[0]["chosen"][0]["content"].split() == replies["base"][1].split()
    assert pairs[1]["rejected"][0]["content"].split() == replies["base"][2].split()
    with page.expect_download() as download:
        page.get_by_role("button", name="Both chats as JSON Lines").click()
    assert len(download.value.path().read_text().splitlines()) == 2
    with page.expect_download() as download:
        page.get_by_role("button", name="Both replies as Markdown").click()
    assert "Better reply: a tie." in download.value.path().read_text()


def test_a_mark_waits_until_the_replies_have_ended(visitor, scripted):
    page = visitor(scripted("a short reply"))
    ask(page, "Hello")
    ended(page)
    scripted("one two three four five six seven eight nine ten " * 60, pause=0.1)
    ask(page, "Count")
    writing(page)
    tie = page.get_by_role("group", name="Better reply, turn 1").get_by_role("button", name="Tie")
    tie.click()
    expect(page.locator("#notice")).to_contain_text("A reply is being written")
    writing(page)
    page.locator("#prompt").get_by_role("button", name="Stop").click()
    ended(page)
    tie.click()
    expect(tie).to_have_attribute("aria-pressed", "true")


def test_what_can_do_nothing_yet_cannot_be_pressed_and_says_why(visitor, url):
    page = visitor(url)
    page.get_by_role("tab", name="Receipts").click()
    markdown, explain = (page.get_by_role("button", name=name) for name in ("Both replies as Markdown", "Explain"))
    expect(markdown).to_be_disabled()
    expect(page.locator("#export_not")).to_contain_text("There is no turn to export yet")
    expect(explain).to_be_disabled()
    expect(page.locator("#why_not")).to_contain_text("Two turns are needed")
    page.get_by_role("tab", name="Compare").click()
    at_most(page, 4)
    ask(page, "One")
    ended(page)
    page.get_by_role("tab", name="Receipts").click()
    expect(markdown).to_be_enabled()
    expect(page.locator("#export_not")).not_to_contain_text("no turn")
    expect(explain).to_be_disabled()


# --- the endpoint -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_replay_endpoint_gives_the_verdict(url, receipt):
    client = Client(url, verbose=False)
    assert client.predict(canonical.dump(receipt), api_name="/replay")["outcome"] == "identical"
    forged = canonical.dump(resealed(receipt, token_ids=(1, *receipt.base.token_ids[1:])))
    assert client.predict(forged, api_name="/replay")["base"]["divergence"]["step"] == 0
    with pytest.raises(Exception, match="base\\.weights_sha256 is not the original"):
        client.predict({**forged, "base": {**forged["base"], "weights_sha256": "f" * 64}}, api_name="/replay")


# --- for everybody ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme, width", [("light", 1440), ("dark", 390)])
def test_axe_finds_nothing(visitor, url, receipt, scheme, width):
    link = f"{url}/{links.encode(links.of_receipt(receipt))}"
    page = visitor(link, color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    expect(page.locator("#banner")).to_contain_text("Nothing has been run")
    page.locator("#prompt textarea").press("Enter")
    ended(page)
    page.locator(".turn [data-value=post]").first.click()
    expect(page.locator(".turn [aria-pressed=true]")).to_have_count(1)
    check(page)
    ids = receipt.post.token_ids
    drop(page, receipts.write(resealed(receipt, "post", token_ids=(*ids[:3], (ids[3] + 1) % 300, *ids[4:]))))
    page.get_by_role("button", name="Replay it").click()
    expect(page.locator("#verdict h3")).to_contain_text("Diverged")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explanation h3")).to_be_visible()
    check(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def check(page: Page) -> None:
    page.wait_for_timeout(300)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_turns_and_receipts_can_be_reached_by_keyboard(visitor, url):
    page = visitor(url)
    at_most(page, 4)
    ask(page, "Hello")
    ended(page)
    ask_next(page, "Hello again", 2)
    reached = _tabbed(page, 50)
    for name in ("Post-trained", "Tie", "Both bad", "Copy link, turn 1", "Receipt, turn 1"):
        assert name in reached, sorted(reached)
    page.get_by_role("tab", name="Receipts").click()
    reached = _tabbed(page, 50)
    for name in ("Explain", "Both replies as Markdown", "Preferences as JSON Lines"):
        assert name in reached, sorted(reached)


def _tabbed(page: Page, times: int) -> set[str]:
    names = set()
    for _ in range(times):
        page.keyboard.press("Tab")
        names.add(page.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText || '').trim()"))
    return names
