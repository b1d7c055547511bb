"""The handlers of the Compare tab without a browser: what a visitor's session holds, and when."""

from collections.abc import Iterator

import gradio as gr
import pytest

from core.errors import UserError
from core.types import MAX_CHARACTERS
from core.ui import compare_tab, session
from core.ui.compare_tab import CompareTab
from core.ui.sidebar import Sidebar
from tests.scripted import PAIR, ScriptedPool
from tests.values import record


@pytest.fixture
def tab() -> CompareTab:
    with gr.Blocks(analytics_enabled=False):
        pool = ScriptedPool("a base reply", "a post-trained reply")
        return CompareTab(pool, Sidebar(pool))


class Visitor:
    """What one visitor's browser and session hold, as the handlers are given it and change it."""

    def __init__(self, tab: CompareTab):
        self.tab = tab
        held = {tab.chat: session.Lost(), tab.underway: session.Underway(), tab.shared: None}
        browser = {tab.kept: None, tab.aside: None, tab.fragment: "", tab.prompt: "Hello"}
        self.values = {**held, **browser, **{widget: widget.value for widget in tab.sidebar.widgets}}
        self.buttons: dict[gr.Component, bool] = {}

    def see(self, update: dict) -> dict:
        for part, value in update.items():
            if part in (self.tab.chat, self.tab.kept, self.tab.aside, self.tab.shared):
                self.values[part] = value
            if isinstance(part, gr.Button) and "interactive" in value:
                self.buttons[part] = value["interactive"]
        return update

    def arrive(self) -> None:
        self.see(self.tab._restore(self.values[self.tab.kept], self.values[self.tab.aside], ""))

    def watch(self, updates: Iterator[dict]) -> list[dict]:
        return [self.see(update) for update in updates]

    def press(self, act) -> dict:
        return self.see(self.tab.if_idle(act)(self.values))

    @property
    def prompts(self) -> list[str]:
        return [record.turn.prompt for record in self.values[self.tab.chat]]


@pytest.fixture
def visitor(tab) -> Visitor:
    visitor = Visitor(tab)
    visitor.arrive()
    return visitor


# --- one reply at a time -----------------------------------------------------------------------------


def test_while_a_reply_is_written_nothing_else_changes_the_conversation(tab, visitor):
    visitor.watch(tab._compare(visitor.values))
    running = tab._compare(visitor.values)
    visitor.see(next(running))
    assert not any(visitor.buttons.values()) and len(visitor.buttons) == 4
    for act in (tab._new, tab._undo, tab._edit, tab._go_back):
        assert visitor.press(act) == {tab.notice: compare_tab.BUSY}
    for second in (tab._compare, tab._retry):
        assert list(second(visitor.values)) == [{tab.notice: compare_tab.BUSY}]
    assert visitor.prompts == ["Hello"]
    visitor.watch(running)
    assert visitor.prompts == ["Hello", "Hello"]
    assert all(visitor.buttons.values())
    visitor.press(tab._new)
    assert visitor.prompts == []


def test_a_reply_can_begin_as_soon_as_the_page_shows_the_last_one(tab, visitor):
    running = tab._compare(visitor.values)
    visitor.see(next(running))
    while not visitor.buttons[tab.new]:
        visitor.see(next(running))
    second = tab._compare(visitor.values)
    visitor.see(next(second))
    running.close()  # the end of the first must not free the place of the second
    assert visitor.values[tab.underway].busy
    visitor.watch(second)
    assert visitor.prompts == ["Hello", "Hello"]


def test_a_run_is_held_only_while_somebody_waits_for_it(tab, visitor):
    """A session outlives its replies by hours; what it holds of them must not keep the models in memory."""
    for ends in ("at its end", "when the tab is closed"):
        running = tab._compare(visitor.values)
        visitor.see(next(running))
        assert visitor.values[tab.underway].run is not None, "Stop finds it"
        if ends == "at its end":
            visitor.watch(running)
        running.close()
        assert visitor.values[tab.underway].run is None, ends
        assert not visitor.values[tab.underway].busy


def test_our_own_mistake_gives_the_buttons_back(tab, visitor, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(session, "_finished", fail)
    with pytest.raises(ZeroDivisionError):
        visitor.watch(tab._compare(visitor.values))
    assert all(visitor.buttons.values()) and not visitor.values[tab.underway].busy


# --- nothing is lost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["compare", "retry", "undo", "edit"])
def test_a_session_that_was_lost_goes_on_with_what_the_browser_kept(tab, visitor, act):
    for prompt in ("One", "Two"):
        visitor.values[tab.prompt] = prompt
        visitor.watch(tab._compare(visitor.values))
    visitor.values |= {tab.chat: session.Lost(), tab.underway: session.Underway()}  # expired, or started again
    visitor.values[tab.prompt] = "Three"
    if act in ("compare", "retry"):
        visitor.watch(getattr(tab, f"_{act}")(visitor.values))
    else:
        visitor.press(getattr(tab, f"_{act}"))
    expected = {"compare": ["One", "Two", "Three"], "retry": ["One", "Two"], "undo": ["One"], "edit": ["One"]}[act]
    assert visitor.prompts == expected
    assert [record.turn.prompt for record in session.restore(visitor.values[tab.kept]).chat] == expected


def test_a_new_chat_is_not_taken_for_a_lost_one(tab, visitor):
    visitor.watch(tab._compare(visitor.values))
    kept = visitor.values[tab.kept]
    visitor.press(tab._new)
    visitor.values[tab.kept] = kept  # as though the browser had not stored the change yet
    visitor.watch(tab._compare(visitor.values))
    assert visitor.prompts == ["Hello"]


def test_a_retry_that_fails_leaves_its_turn(tab, visitor, monkeypatch):
    visitor.watch(tab._compare(visitor.values))
    monkeypatch.setattr(session, "MAX_CHARACTERS", 5)
    *_, last = visitor.watch(tab._retry(visitor.values))
    assert "wrote more than 5 characters, which is more than a conversation holds" in last[tab.notice]
    assert visitor.prompts == ["Hello"]


def test_a_reply_that_no_conversation_can_hold_is_a_sentence(tab, visitor):
    tab.pool.say("a" * 10, "word " * (MAX_CHARACTERS // 5 + 1))
    *_, last = visitor.watch(tab._compare(visitor.values))
    assert "The post-trained side wrote more than 400,000 characters" in last[tab.notice]
    assert visitor.prompts == [] and last[tab.prompt]["value"] == "Hello"


# --- kept turns of other starts of the app ------------------------------------------------------------


def test_a_kept_turn_of_a_pair_that_is_gone_is_shown(tab, visitor):
    """A side that failed has no receipt, so its name is the pair's."""
    visitor.values[tab.kept] = session.save((record("Hello", pair="mine | theirs", failed="base"),))
    visitor.arrive()
    assert visitor.prompts == ["Hello"]
    assert tab.sidebar.name_of("mine | theirs", "base") == "Base model"


@pytest.mark.parametrize("spec", ["./models/x/", "/home/me/models/x", "~/x", "owner/x@main", "x"])
def test_a_side_is_called_by_its_own_name(tab, spec):
    tab.sidebar.pool.pairs = (PAIR.model_copy(update={"base": spec}),)
    assert tab.sidebar.name_of(PAIR.id, "base") == "x"


def test_a_prompt_that_cannot_be_rebuilt_is_a_sentence(tab, visitor, monkeypatch):
    def refuse(*arguments):
        raise UserError("These models have no chat template.")

    monkeypatch.setattr(session.prompts, "build", refuse)
    visitor.values[tab.kept] = session.save((record("Hello", pair=PAIR.id),))
    update = tab._restore(visitor.values[tab.kept], None, "")
    assert "These models have no chat template." in update[tab.sent]
