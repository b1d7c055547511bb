"""The handlers of the Compare tab without a browser: what a visitor's session holds, and when."""

import pytest

from core.errors import UserError
from core.pool import Lease
from core.types import MAX_CHARACTERS
from core.ui.compare import session
from core.ui.visitor import BUSY, Kept
from tests.rooms import Guest, House
from tests.scripted import PAIR, ScriptedPool
from tests.values import record


@pytest.fixture
def house() -> House:
    return House(ScriptedPool("a base reply", "a post-trained reply"))


@pytest.fixture
def tab(house):
    return house.compare


@pytest.fixture
def guest(house) -> Guest:
    guest = Guest(house)
    guest.arrive()
    return guest


# --- one reply at a time -----------------------------------------------------------------------------


def test_while_a_reply_is_written_nothing_else_changes_the_conversation(house, tab, guest):
    guest.ask("Hello")
    running = tab._compare(guest.values)
    guest.see(next(running))
    assert len(guest.buttons) >= 4 and not any(guest.buttons[button] for button in tab._changers)
    for act in (lambda values: house.visitor.new(guest.session), tab._undo, tab._edit):
        assert house.visitor.if_idle(act, tab.notice)(guest.values) == {tab.notice: BUSY}
    for second in (tab._compare, tab._retry):
        assert list(second(guest.values)) == [{tab.notice: BUSY}]
    assert guest.prompts == ["Hello"]
    guest.watch(running)
    assert guest.prompts == ["Hello", "Hello"]
    assert all(guest.buttons[button] for button in tab._changers)
    guest.see(house.visitor.new(guest.session))
    assert guest.prompts == []


def test_a_reply_can_begin_as_soon_as_the_page_shows_the_last_one(tab, guest):
    running = tab._compare(guest.values)
    guest.see(next(running))
    while not guest.buttons[tab.new]:
        guest.see(next(running))
    second = tab._compare(guest.values)
    guest.see(next(second))
    running.close()  # the end of the first must not free the place of the second
    assert guest.session.busy("compare")
    guest.watch(second)
    assert guest.prompts == ["Hello", "Hello"]


@pytest.mark.parametrize("ends", ["at its end", "when the tab is closed"])
def test_a_run_is_held_only_while_somebody_waits_for_it(tab, guest, ends):
    """A session outlives its replies by hours; what it holds of them must not keep the models in memory."""
    running = tab._compare(guest.values)
    guest.see(next(running))
    assert guest.session.busy("compare"), "Stop finds it"
    if ends == "at its end":
        guest.watch(running)
    running.close()
    assert not guest.session.busy("compare") and not guest.session._work


def test_stop_ends_a_reply_and_keeps_what_was_written(house, tab, guest):
    house.page.pool.say("word " * 500, "word " * 500, pause=0.002)
    running = tab._compare(guest.values)
    for _ in range(4):
        guest.see(next(running))
    guest.session.stop("compare")
    guest.watch(running)
    (turn,) = guest.session.records
    assert turn.base.finish_reason == turn.post.finish_reason == "stopped"
    assert 0 < len(turn.turn.base) < 2500


def test_stop_works_while_the_models_are_still_loading(house, tab, guest):
    house.page.pool.loading = 60
    running = tab._compare(guest.values)
    guest.see(next(running))
    guest.session.stop("compare")
    *_, last = guest.watch(running)
    assert "Stopped" in last[tab.notice] and last[tab.prompt]["value"] == "Hello"
    assert guest.prompts == [] and not guest.session.busy("compare")


def test_our_own_mistake_gives_the_buttons_back(tab, guest, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(session, "_finished", fail)
    with pytest.raises(ZeroDivisionError):
        guest.watch(tab._compare(guest.values))
    assert all(guest.buttons[button] for button in tab._changers) and not guest.session.busy("compare")


def test_a_retry_that_fails_leaves_its_turn(tab, guest, monkeypatch):
    guest.ask("Hello")
    monkeypatch.setattr(session, "MAX_CHARACTERS", 5)
    *_, last = guest.watch(tab._retry(guest.values))
    assert "wrote more than 5 characters, which is more than a conversation holds" in last[tab.notice]
    assert guest.prompts == ["Hello"]


def test_a_reply_that_no_conversation_can_hold_is_a_sentence(house, tab, guest):
    house.page.pool.say("a" * 10, "word " * (MAX_CHARACTERS // 5 + 1))
    *_, last = guest.watch(tab._compare(guest.values))
    assert "The post-trained side wrote more than 400,000 characters" in last[tab.notice]
    assert guest.prompts == [] and last[tab.prompt]["value"] == "Hello"


# --- kept turns of other starts of the app ------------------------------------------------------------


def test_a_kept_turn_of_a_pair_that_is_gone_is_shown(house, guest):
    """A side that failed has no receipt, so its name is the pair's."""
    guest.kept = Kept(records=(record("Hello", pair="mine | theirs", failed="base"),)).model_dump_json()
    guest.arrive()
    assert guest.prompts == ["Hello"]
    assert house.visitor.sidebar.name_of("mine | theirs", "base") == "Base model"


@pytest.mark.parametrize("spec", ["./models/x/", "/home/me/models/x", "~/x", "owner/x@main", "x"])
def test_a_side_is_called_by_its_own_name(house, spec):
    house.page.pool.pairs = (PAIR.model_copy(update={"base": spec}),)
    assert house.visitor.sidebar.name_of(PAIR.id, "base") == "x"


def test_a_prompt_that_cannot_be_rebuilt_is_a_sentence(tab, guest, monkeypatch):
    def refuse(*arguments):
        raise UserError("These models have no chat template.")

    monkeypatch.setattr(Lease, "prompt", refuse)
    guest.kept = Kept(records=(record("Hello", pair=PAIR.id),)).model_dump_json()
    assert "These models have no chat template." in guest.arrive()[tab.sent]


# --- marks ----------------------------------------------------------------------------------------------


def test_a_mark_belongs_to_its_turn_alone_and_a_second_time_takes_it_back():
    chat = tuple(record(prompt) for prompt in ("One", "Two", "Three"))
    marked = session.mark(chat, 1, "post")
    assert marked.changed
    assert [(each.turn.prompt, each.mark) for each in marked.chat] == [("One", None), ("Two", "post"), ("Three", None)]
    assert [each.mark for each in session.mark(marked.chat, 1, "base").chat] == [None, "base", None]
    assert session.mark(marked.chat, 1, "post").chat == chat
    for gone in (-1, 3):
        refused = session.mark(chat, gone, "post")
        assert (refused.chat, refused.changed, refused.tone) == (chat, False, "error")
