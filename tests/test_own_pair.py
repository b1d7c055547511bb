"""A pair of one's own, brought through the page: who may, what is said, and how a model without a chat template is asked."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from axe_playwright_python.sync_playwright import Axe
from gradio_client import Client
from playwright.sync_api import expect

from core.hub import HuggingFaceHub
from core.pool import Pool
from core.settings import Settings
from core.ui import page as whole_page
from core.ui.security_headers import asked_here
from tests import tiny
from tests.browser import ask, at_most, ended, open_page, quiet, reply, served
from tests.rooms import Guest, House

HERE = SimpleNamespace(headers={"host": "127.0.0.1:7860"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model, its sibling with a chat template, and one without."""
    folder = tmp_path_factory.mktemp("models")
    base, post = tiny.save_pair(folder)
    bare = tiny.save(folder / "tiny-bare", tiny.model(seed=3), tiny.tokenizer(adds_bos=True))
    return base, post, bare


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(Settings(device="cpu", dtype="float32", threads=1, own_pairs="local"), HuggingFaceHub()) as pool:
        yield pool


@pytest.fixture
def house(pool) -> House:
    return House(pool)


@pytest.fixture
def guest(house) -> Guest:
    guest = Guest(house)
    guest.arrive()
    return guest


def bring(house: House, guest: Guest, base, post, request=HERE) -> list[dict]:
    return guest.watch(house.visitor.sidebar.own._bring(str(base), str(post), request))


def said(house: House, updates: list[dict]) -> str:
    return updates[-1][house.visitor.sidebar.own.notice]


@pytest.mark.slow
def test_a_pair_that_is_brought_is_loaded_chosen_and_asked(house, guest, folders):
    sidebar = house.visitor.sidebar
    updates = bring(house, guest, *folders[:2])
    assert "tiny-base and tiny-chat are loaded and chosen." in said(house, updates)
    assert any("tiny-" in update[sidebar.own.notice] for update in updates[:-1]), "with its progress"
    assert guest.values[sidebar.pair] == "tiny-base | tiny-chat" and guest.values[sidebar.framing_post] == "chat"
    assert ("tiny-base and tiny-chat", "tiny-base | tiny-chat") in updates[-1][sidebar.pair]["choices"]
    assert guest.ask("Hello").get("error") is None
    assert guest.session.records[0].pair == "tiny-base | tiny-chat"
    later = Guest(house)
    assert updates[-1][sidebar.pair]["choices"] == later.arrive()[sidebar.pair]["choices"], "of who comes later too"


@pytest.mark.slow
def test_a_post_trained_model_without_a_template_is_asked_as_a_transcript_and_that_is_said(house, guest, folders):
    sidebar = house.visitor.sidebar
    bring(house, guest, folders[0], folders[2])
    assert guest.values[sidebar.framing_post] == "transcript"
    assert "tiny-bare has no chat template, so it is asked under the transcript framing" in guest.values[sidebar.bare]
    assert guest.ask("Hello").get("error") is None
    assert sidebar._usual_framing("tiny-base | tiny-bare") == "transcript", "and a reset leaves it so"
    guest.see(sidebar.fit("embedded", "document"))
    assert guest.values[sidebar.framing_post] == "transcript", "another choice than the template stays"
    assert "no chat template" not in guest.values[sidebar.bare]


@pytest.mark.slow
def test_a_page_that_is_started_with_a_pair_without_a_template_begins_so(folders):
    own = Settings(device="cpu", base=str(folders[0]), post=str(folders[2]))
    with Pool(own, HuggingFaceHub()) as pool:
        sidebar = House(pool).visitor.sidebar
    assert sidebar.framing_post.value == "transcript" and "tiny-bare has no chat template" in sidebar.bare.value


@pytest.mark.slow
def test_a_pair_whose_template_is_known_only_once_it_is_there_is_fitted_then(house, guest, folders, monkeypatch):
    tab, sidebar = house.compare, house.visitor.sidebar
    bring(house, guest, folders[0], folders[2])
    guest.values[sidebar.framing_post] = "chat"
    assert "no chat template" in guest.ask("Hello")["error"]
    guest.see(tab._settled(guest.values))
    assert guest.values[sidebar.framing_post] == "transcript"
    assert guest.ask("Hello").get("error") is None


@pytest.mark.parametrize(
    ("base", "post", "sentence"),
    [
        ("", "x", "Name both models"),
        ("/nowhere/at/all", "x", "There is no folder &#x27;/nowhere/at/all&#x27; on this machine; check the path."),
        ("not a name", "x", "neither a folder here nor a Hub id"),
        ("owner/name", "owner/other", "owner/name is not on this machine and the Hub cannot be reached"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence_and_no_pair(house, guest, base, post, sentence):
    before = house.page.pool.pairs
    updates = bring(house, guest, base, post)
    assert sentence in said(house, updates) and set(updates[-1]) == {house.visitor.sidebar.own.notice}
    assert house.page.pool.pairs == before


# --- who may ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "here"),
    [
        ({"host": "127.0.0.1:7860"}, True),
        ({"host": "localhost"}, True),
        ({"host": "[::1]:7860"}, True),
        ({"host": "seed.example.org"}, False),
        ({"host": "127.0.0.1.example.org:7860"}, False),
        ({"host": "127.0.0.1:7860", "x-forwarded-for": "203.0.113.9"}, False),
        ({"host": "localhost", "forwarded": "for=203.0.113.9"}, False),
        ({"host": "["}, False),
        ({}, False),
    ],
)
def test_who_sits_at_this_machine_is_told_from_who_does_not(headers, here):
    assert asked_here(headers) is here


def test_a_stranger_who_gets_as_far_as_the_event_is_refused_unless_everyone_may(
    house, guest, folders, pool, monkeypatch
):
    stranger = SimpleNamespace(headers={"host": "seed.example.org"})
    assert "Only who sits at this machine" in said(house, bring(house, guest, folders[0], folders[1], stranger))
    assert len(pool._entries) == 0, "nothing was looked for"
    monkeypatch.setattr(pool, "settings", Settings(device="cpu", dtype="float32", threads=1, own_pairs="everyone"))
    assert "loaded and chosen" in said(house, bring(house, guest, folders[0], folders[1], stranger))


def test_a_page_that_strangers_reach_has_neither_the_form_nor_the_event(pool):
    there = Pool(Settings(), HuggingFaceHub())
    assert House(there).visitor.sidebar.own is None
    handlers = [[fn.name for fn in whole_page.build(each).fns.values()] for each in (there, pool)]
    assert handlers[1].count("_bring") == 1 and "_bring" not in handlers[0]
    assert len(handlers[1]) == len(handlers[0]) + 1


def test_the_form_is_no_named_endpoint_and_the_page_takes_it(visitor, pool, folders):
    with served(pool) as url:
        names = set(Client(url, verbose=False).view_api(return_format="dict")["named_endpoints"])
        assert names == {"/compare", "/replay", "/lens", "/experiment", "/study", "/pairs"}
        page = visitor(url)
        page.get_by_role("button", name="Your own pair").click()
        page.locator("#own_base textarea, #own_base input").fill("/nowhere")
        page.locator("#own_post textarea, #own_post input").fill(str(folders[2]))
        page.locator("#own_load").click()
        expect(page.locator("#own_notice")).to_contain_text("There is no folder '/nowhere' on this machine")
        page.locator("#own_base textarea, #own_base input").fill(str(folders[0]))
        page.locator("#own_post textarea, #own_post input").press("Enter")
        expect(page.locator("#own_notice")).to_contain_text("tiny-base and tiny-bare are loaded and chosen.")
        expect(page.locator("#pair input")).to_have_value("tiny-base and tiny-bare")
        expect(page.locator(".before .model.post")).to_contain_text("tiny-bare")
        expect(page.locator("#bare")).to_contain_text("tiny-bare has no chat template")
        assert Axe().run(page).response["violations"] == []
        at_most(page, 16)
        ask(page, "The quick brown fox")
        ended(page)
        assert reply(page, "post") is not None
        expect(page.locator(".turn .caption")).to_contain_text("ranscript")
        open_page(page, url)
        page.locator("#pair input").click()
        expect(page.get_by_role("option", name="tiny-base and tiny-bare")).to_be_visible()
        quiet(page)
        page.goto("about:blank")  # before its server goes, whose end would be an error to it
