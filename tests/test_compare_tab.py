"""The handlers of the Compare tab without a browser: what a visitor's session holds, and what the script is told."""

import re
from itertools import cycle
from typing import Any

import pytest

from core import chat_template, links, receipts
from core.errors import UserError
from core.lease import Lease
from core.pairs import find_pair
from core.run import Run
from core.types import MAX_CHARACTERS, MAX_SEED, SIDES, Conversation
from core.ui.compare import session
from core.ui.visitor import BUSY, Kept
from tests.rooms import Guest, House, event
from tests.scripted import PAIR, ScriptedPool
from tests.values import COMPARISON, record


@pytest.fixture(scope="module")
def _house() -> House:
    return House(ScriptedPool())


@pytest.fixture
def house(_house) -> House:
    """One page for all tests: what a visitor does is in the session alone."""
    _house.page.pool.say("a base reply", "a post-trained reply")
    return _house


@pytest.fixture
def tab(house):
    return house.compare


@pytest.fixture
def guest(house) -> Guest:
    guest = Guest(house)
    guest.arrive()
    return guest


@pytest.fixture
def three(guest) -> Guest:
    """A visitor with three turns."""
    for prompt in ("One", "Two", "Three"):
        guest.ask(prompt)
    return guest


def with_chat(guest: Guest, *records) -> dict:
    """The visitor arrives with these turns; what the script is told."""
    guest.kept = Kept(records=records).model_dump_json()
    return guest.told(guest.arrive())


def titles(rows: str) -> int:
    """How often the models are named above the turns."""
    return rows.count("<li class='heads'")


# --- a turn as a log -----------------------------------------------------------------------------------


def test_a_turn_is_its_row_then_what_is_new_and_at_last_the_row_that_stays(house, guest):
    house.page.pool.say("word " * 30, "**word** " * 30, pause=0.005)
    *views, end = guest.start("Hello & so on")
    assert "Hello &amp; so on" in views[0]["row"] and all(line["turn"] == 0 for line in (*views, end))
    first = next(line for line in views if "heads" in line)
    assert "Scripted-Base" in first["heads"] and "<b>1234</b>" in first["caption"]
    assert "".join(line.get("base", "") for line in views) == "word " * 30 and len(views) > 3
    assert end["end"].count("<li class='turn'") == 1 and "<strong>word</strong>" in end["end"]
    assert (end["rest"], end["tone"], end["banner"], end["elsewhere"]) == (0, "unseen", None, "")
    assert "finished" in end["said"], "for those who do not see it"
    assert guest.prompts == guest.kept_prompts == ["Hello & so on"]


def test_a_page_that_is_behind_gets_what_it_missed_in_the_next_view(house, tab, guest):
    house.page.pool.say("one two three four five " * 20, "word " * 100, pause=0.005)
    asked, now_and_then = event(prompt="Hello", at=0), cycle([False, True, True])
    *views, end = tab._lines(guest.values, asked, lambda: next(now_and_then))
    written = "".join(line.get("base", "") for line in views)
    assert len(views) > 1 and len(written) > 100 and ("one two three four five " * 20).startswith(written)
    [end] = tab._lines(guest.values, asked, lambda: True)
    assert "five one" in end["end"], "whoever reads nothing until then has all of it at the end"


def test_only_the_first_turn_says_what_to_look_for(guest):
    first, second = guest.ask("What is the capital of France?"), guest.ask("Two")
    assert "goes on with more questions" in first["look"] and second["look"] == ""
    guest.see(guest.house.compare._new(guest.values, event()))
    assert "What was sent shows all" in guest.ask("Any other prompt")["look"]


def test_while_the_models_are_loaded_the_script_is_told_how_far_that_is(house, guest):
    house.page.pool.say("a", "b", loading=0.1)
    waiting, *_ = guest.start("Hello")
    assert "row" in waiting and waiting["waiting"] == "Downloading Scripted-Base (12 MB) 50%"


# --- one reply at a time -----------------------------------------------------------------------------


def test_while_a_reply_is_written_nothing_else_changes_the_conversation(house, tab, guest):
    guest.ask("Hello")
    running = guest.start("Again")
    next(running)
    kept = guest.kept
    assert guest.ask("Second").items() >= {"turn": 1, "error": BUSY, "box": "Second"}.items()
    assert guest.retry(0).items() >= {"turn": 0, "error": BUSY, "box": None}.items()
    for act in (
        {"do": "version", "turn": 0, "versions": [1]},
        {"do": "delete", "turn": 0},
        {"do": "mark", "turn": 0, "value": "post"},
    ):
        told = guest.act(**act)
        assert told.pop("serial") and told.pop("app") and told == {"error": BUSY}
    update = guest.see(tab._new(guest.values, event()))
    assert set(update) == {tab.answer} and guest.told(update)["error"] == BUSY
    assert guest.prompts == ["Hello"] and guest.session.records[0].mark is None and guest.kept == kept
    *_, end = running
    assert "end" in end and guest.prompts == ["Hello", "Again"]
    guest.see(tab._new(guest.values, event()))
    assert guest.prompts == []


def test_what_changes_nothing_can_be_looked_at_while_a_reply_is_written(guest):
    guest.ask("Hello")
    running = guest.start("Again")
    next(running)
    assert guest.act("copy", turn=0, side="base")["copy"] == "a base reply"
    assert "parcel" in guest.act("link", turn=0) and "sent" in guest.act("sent", turn=0)
    running.close()


def test_a_reply_can_begin_as_soon_as_the_page_shows_the_last_one(tab, guest):
    running = guest.start("Hello")
    while "end" not in next(running):
        assert guest.session.busy("compare")
    second = guest.start("Hello")
    assert "row" in next(second)
    running.close()  # the end of the first must not free the place of the second
    assert guest.session.busy("compare")
    *_, end = second
    assert "end" in end and guest.prompts == ["Hello", "Hello"]


@pytest.mark.parametrize("ends", ["at its end", "when the tab is closed"])
def test_a_run_is_held_only_while_somebody_waits_for_it(guest, ends):
    """A session outlives its replies by hours; what it holds of them must not keep the models in memory."""
    running = guest.start("Hello")
    next(running)
    assert guest.session.busy("compare"), "Stop finds it"
    if ends == "at its end":
        assert list(running)
    running.close()
    assert not guest.session.busy("compare") and not guest.session._work


def test_a_closed_tab_ends_both_replies(house, guest, monkeypatch):
    cancelled = []
    monkeypatch.setattr("tests.scripted.Ticket.cancel", lambda ticket: cancelled.append(ticket.stopped.set()))
    views, compare = [], session.compare  # held here, so that nobody but the handler closes them
    monkeypatch.setattr(session, "compare", lambda *which, **how: views.append(compare(*which, **how)) or views[-1])
    house.page.pool.say("word " * 500, "word " * 500, pause=0.002)
    running = guest.start("Hello")
    while "heads" not in next(running):
        pass
    running.close()
    assert len(cancelled) >= 2 and guest.prompts == []


def test_stop_ends_a_reply_and_keeps_what_was_written(house, guest):
    house.page.pool.say("word " * 500, "word " * 500, pause=0.002)
    running = guest.start("Hello")
    while "base" not in next(running):
        pass
    guest.session.stop("compare")
    *_, end = running
    (turn,) = guest.session.records
    assert turn.base.finish_reason == turn.post.finish_reason == "stopped" and "stopped" in end["end"]
    assert 0 < len(turn.turn.base) < 2500


def test_stop_works_while_the_models_are_still_loading(house, guest):
    house.page.pool.loading = 60
    running = guest.start("Hello")
    next(running)
    guest.session.stop("compare")
    *_, end = running
    assert "Stopped" in end["error"] and end["box"] == "Hello"
    assert guest.prompts == [] and not guest.session.busy("compare")


def test_our_own_mistake_leaves_nothing_busy(guest, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError

    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(session, "_finished", fail)
        guest.ask("Hello")
    assert not guest.session.busy("compare") and guest.prompts == []
    assert "end" in guest.ask("Hello"), "the next one runs"


def test_a_setting_that_cannot_be_used_leaves_nothing_busy(house, guest):
    guest.values[house.visitor.sidebar.seed] = None
    first, second = guest.ask("Hello"), guest.ask("Hello")
    assert first.items() >= {"turn": 0, "error": "Seed is empty; type a number.", "box": "Hello"}.items()
    assert first == second
    assert not guest.session.busy("compare")


# --- a chat of many turns -------------------------------------------------------------------------------


def drawn(rows: str) -> list[int]:
    return [int(turn) for turn in re.findall(r"<li class='turn[^']*' data-turn='(\d+)'", rows)]


def gaps(rows: str) -> list[tuple[int, int]]:
    return [
        (int(start), int(end)) for start, end in re.findall(r"class='gap' data-turn='(\d+)' data-end='(\d+)'", rows)
    ]


def many(guest: Guest) -> dict:
    """The visitor arrives with 130 turns."""
    return with_chat(guest, *(record(f"turn {n}", pair=PAIR.id) for n in range(130)))


def test_of_many_turns_the_newest_are_drawn_and_the_others_on_demand(guest):
    rows, asked = many(guest)["rows"], 0
    seen: list[int] = []
    while True:
        seen[:0] = drawn(rows)
        assert titles(rows) == 1, "the names stand above the first of what is drawn"
        assert len(drawn(rows)) <= 30
        if not gaps(rows):
            break
        ((start, end),) = gaps(rows)
        assert (start, end) == (0, seen[0]) and f"Show earlier turns ({end:,})" in rows and "data-again" in rows
        told = guest.act("earlier", turn=start, end=end)
        rows, asked = told["earlier"], asked + 1
    assert seen == [*range(130)] and asked == 4
    assert "data-again" not in rows, "above the very first turn they are not said again"
    assert told["notice"] == "Turns 1 to 10 are shown."


def test_turns_of_many_characters_are_drawn_one_by_one(guest):
    long = record("turn", base="x" * 150_000, pair=PAIR.id)
    rows = with_chat(guest, long, record("short", pair=PAIR.id), long, long)["rows"]
    assert drawn(rows) == [3] and gaps(rows) == [(0, 3)]
    rows = guest.act("earlier", turn=0, end=3)["earlier"]
    assert drawn(rows) == [1, 2] and gaps(rows) == [(0, 1)]


def test_what_is_asked_about_a_turn_that_is_not_drawn_is_answered(guest):
    many(guest)
    assert "parcel" in guest.act("link", turn=3) and "parcel" in guest.act("receipt", turn=3)
    assert "turn 3" in guest.act("code", turn=3)["code"] and guest.act("copy", turn=3, side="base")["copy"]
    assert guest.act("mark", turn=3, value="post")["marked"] == [3, "post"]
    assert "turn 3" in guest.act("sent", turn=3)["sent"]


def test_another_version_of_a_turn_far_back_is_drawn_with_what_is_around_it(guest):
    many(guest)
    guest.ask("Instead", at=40)
    told = guest.act("version", turn=40, versions=[1])
    assert told["turn"] == 40 and len(guest.session.records) == 130
    assert drawn(told["rows"]) == [*range(20, 50), *range(100, 130)]
    assert gaps(told["rows"]) == [(0, 20), (50, 100)]
    told = guest.act("earlier", turn=50, end=100)
    assert drawn(told["earlier"]) == [*range(70, 100)] and gaps(told["earlier"]) == [(50, 70)]


def test_a_gap_that_is_no_more_draws_nothing_beyond_the_chat(guest):
    with_chat(guest, *(record(f"turn {n}", pair=PAIR.id) for n in range(3)))
    assert "no longer there" in guest.act("earlier", turn=7, end=9)["error"]
    for end in (99, -1, "x", None):
        assert drawn(guest.act("earlier", turn=1, end=end)["earlier"]) == [1, 2]
    assert drawn(guest.act("earlier", turn=2, end=1)["earlier"]) == []


# --- turns that are run again, edited, taken away ------------------------------------------------------


def test_a_retry_that_fails_leaves_its_turn_and_those_behind_it(three, monkeypatch):
    kept = three.kept
    monkeypatch.setattr(session, "MAX_CHARACTERS", 5)
    for turn in (0, 2):
        end = three.retry(turn)
        assert "wrote more than 5 characters, which is more than a conversation holds" in end["error"]
        assert end["box"] is None, "nothing was typed"
    assert three.prompts == ["One", "Two", "Three"] and three.kept == kept


def test_an_edit_that_fails_leaves_its_turn_and_gives_the_prompt_back(three, monkeypatch):
    monkeypatch.setattr(session, "MAX_CHARACTERS", 5)
    assert three.ask("Other", at=0)["box"] == "Other"
    assert three.prompts == ["One", "Two", "Three"]


def test_a_reply_that_no_conversation_can_hold_is_a_sentence(house, guest):
    house.page.pool.say("a" * 10, "word " * (MAX_CHARACTERS // 5 + 1))
    end = guest.ask("Hello")
    assert "The post-trained side wrote more than 400,000 characters" in end["error"]
    assert guest.prompts == [] and end["box"] == "Hello"


def test_a_retry_that_comes_to_the_same_leaves_what_followed_and_is_no_version(three):
    before = three.session.records
    end = three.retry(0)
    assert end["rest"] == 2 and "back" not in end and "versions" not in end["end"]
    assert three.prompts == three.kept_prompts == ["One", "Two", "Three"]
    assert three.session.records[1:] == before[1:] and len(three.session.versions.nodes) == 3
    assert three.ask("One", at=0)["rest"] == 2, "an edit that changes nothing is a retry"


@pytest.mark.parametrize("how", ["retry", "edit"])
def test_another_result_takes_later_turns_out_of_sight_and_back_brings_all_of_them_back(house, three, how):
    before = three.session.records
    house.page.pool.say("another base reply", "another reply")
    end = three.retry(0) if how == "retry" else three.ask("Other", at=0)
    assert (end["rest"], end["back"]["turn"], end["back"]["lost"]) == (0, 0, 2)
    assert "<span>2/2</span>" in end["end"]
    assert three.prompts == three.kept_prompts == ["One" if how == "retry" else "Other"]
    three.leave()  # and they come back from the browser too
    told = three.act("version", turn=end["back"]["turn"], versions=end["back"]["versions"])
    assert three.session.records == before and three.kept_prompts == ["One", "Two", "Three"]
    assert told["rows"].count("<li class='turn'") == 3 and "<span>1/2</span>" in told["rows"]


def test_back_brings_the_versions_that_were_in_sight(house, three):
    """Of a turn that has several, not just the last one."""
    house.page.pool.say("another base reply", "another reply")
    three.retry(2)
    three.act("version", turn=2, versions=[1])
    before = three.session.records
    back = three.ask("Other", at=0)["back"]
    assert back["versions"] == [1, 1, 1, 0]
    three.act("version", turn=0, versions=back["versions"])
    assert three.session.records == before


def test_the_last_turn_run_again_takes_nothing_out_of_sight(house, three):
    house.page.pool.say("another base reply", "another reply")
    end = three.retry(2)
    assert "back" not in end and "<span>2/2</span>" in end["end"] and len(three.prompts) == 3
    three.act("version", turn=2, versions=[1])
    assert three.session.records[2].turn.base == "a base reply"


def test_what_is_deleted_can_be_put_back(three):
    before = three.session.records
    told = three.act("delete", turn=1)
    assert three.prompts == three.kept_prompts == ["One"] and told["rows"].count("<li class='turn'") == 1
    assert (told["back"]["turn"], told["back"]["lost"]) == (1, 2)
    three.act("version", turn=1, versions=told["back"]["versions"])
    assert three.session.records == before


def test_a_turn_run_again_with_nothing_changed_is_the_same_and_that_is_said(house, three):
    assert three.retry(1)["said"].endswith("the same again, token for token. Another seed may draw others.")
    three.values[house.visitor.sidebar.temperature] = 0
    three.retry(1)
    assert three.retry(1)["said"].endswith("the same again, token for token."), "no seed changes them"
    three.values[house.visitor.sidebar.seed] = 77
    assert "the same again" not in three.retry(1)["said"], "another seed is another input, whatever came of it"
    house.page.pool.say("something else", "and more")
    assert "the same again" not in three.retry(1)["said"]


def test_a_turn_run_again_is_asked_after_the_turns_before_it_alone(house, three, monkeypatch):
    asked = []
    begin = Run.begin
    monkeypatch.setattr(
        Run, "begin", lambda lease, comparison, **how: asked.append(comparison) or begin(lease, comparison, **how)
    )
    three.retry(1)
    three.ask("Other", at=1)
    for comparison, prompt in zip(asked, ("Two", "Other"), strict=True):
        assert [turn.prompt for turn in comparison.conversation.turns] == ["One"] and comparison.prompt == prompt


def test_another_seed_or_framing_is_set_before_a_turn_is_run_again(tab):
    seed, framing = tab._adjust(event(seed=MAX_SEED))
    assert seed == MAX_SEED and framing["__type__"] == "update" and "value" not in framing
    seed, framing = tab._adjust(event(framing_base="transcript"))
    assert framing == "transcript" and seed["__type__"] == "update" and "value" not in seed
    for seed, framing in (tab._adjust(event(seed="x", framing_base=7)), tab._adjust(event(seed=True))):
        assert seed["__type__"] == framing["__type__"] == "update" and "value" not in {**seed, **framing}


# --- who wrote it -----------------------------------------------------------------------------------------


def test_the_models_are_named_only_where_they_change(three):
    one, two = record("One", pair=PAIR.id), record("Two", pair="mine | theirs", failed="base")
    rows = with_chat(three, one, one, two, two, one)["rows"]
    assert titles(rows) == 3
    order = [part[:24] for part in rows.split("<li class='")[1:]]
    assert [part.partition("'")[0] for part in order] == [
        "heads", "turn", "turn", "heads", "turn", "turn", "heads", "turn",
    ]  # fmt: skip


def test_the_row_of_a_turn_brings_the_names_only_where_they_change(three):
    with_chat(three, record("One", pair=PAIR.id))
    end = three.ask("Two")
    assert titles(end["end"]) == 1, "another model answered before"
    assert titles(three.ask("Three")["end"]) == 0
    assert titles(three.retry(1)["end"]) == 1 and titles(three.retry(2)["end"]) == 0
    running = three.start("Four")
    assert [line["heads"] for line in running if "heads" in line] == [""]


def test_another_pair_is_named_before_anything_is_asked_of_it(house, tab, guest):
    house.page.pool.pairs = (PAIR, PAIR.model_copy(update={"id": "other", "base": "owner/Other-<Base>"}))
    told = guest.told(tab._choose_pair("other"))
    assert "Other-&lt;Base&gt;" in told["heads"] and "Scripted-Chat" in told["heads"]


def test_another_try_that_comes_to_the_same_keeps_its_mark(guest):
    guest.ask("Hello")
    guest.act("mark", turn=0, value="post")
    guest.retry(0)
    assert guest.session.records[0].mark == "post"


def test_only_the_first_mark_of_a_turn_is_blind(guest):
    guest.ask("Hello", blind=True)
    assert guest.session.records[0].hidden
    assert "row" in guest.act("mark", turn=0, value="base") and guest.session.records[0].blind
    assert "row" in guest.act("mark", turn=0, value="post")
    assert (guest.session.records[0].mark, guest.session.records[0].blind) == ("post", None)
    guest.act("mark", turn=0, value="post")
    assert not guest.session.records[0].hidden, "its models are known"


def test_another_try_of_a_turn_that_was_marked_blind_keeps_both(guest):
    guest.ask("Hello", blind=True)
    guest.act("mark", turn=0, value="tie")
    first = guest.session.records[0].blind
    guest.retry(0)
    guest.retry(0, blind=True)
    assert (guest.session.records[0].mark, guest.session.records[0].blind) == ("tie", first)


def test_once_the_models_are_there_the_switches_of_their_template_are_offered(house, tab, guest, monkeypatch):
    switches = house.visitor.sidebar.switches
    monkeypatch.setattr(chat_template, "switches", lambda tokenizer: ("enable_thinking",))
    guest.ask("Hello")
    update = tab._settled(guest.values)
    assert update[switches]["visible"] and update[switches]["placeholder"] == "enable_thinking="
    assert "value" not in update[switches], "what was typed stays"
    monkeypatch.setattr(house.page.pool, "peek", lambda id: None)
    assert set(tab._settled(guest.values)) == {house.visitor.session}


# --- kept turns of other starts of the app ------------------------------------------------------------


def test_a_kept_turn_of_a_pair_that_is_gone_is_shown_and_goes_on(house, tab, guest, monkeypatch):
    """A side that failed has no receipt, so its name is the pair's."""
    pool = house.page.pool
    monkeypatch.setattr(pool, "peek", lambda id: find_pair(pool.pairs, id) and pool.lease)  # as a Pool refuses it
    told = with_chat(guest, record("Hello", pair="mine | theirs", failed="base"))
    assert guest.prompts == ["Hello"] and "Base model" in told["rows"]
    assert house.visitor.sidebar.name_of("mine | theirs", "base") == "Base model"
    for do in ("sent", "lens"):
        assert "not in memory now" in guest.act(do, turn=0)["error"]
    assert "python" in guest.act("code", turn=0)["code"].lower() and "parcel" in guest.act("link", turn=0)
    assert guest.ask(" ")["error"] == "Type a prompt first."
    gone = {**guest.values, house.visitor.sidebar.pair: "mine | theirs"}
    assert set(tab._settled(gone)) == {house.visitor.session}
    assert "end" in guest.ask("Two") and guest.prompts == ["Hello", "Two"]


@pytest.mark.parametrize("spec", ["./models/x/", "/home/me/models/x", "~/x", "owner/x@main", "x"])
def test_a_side_is_called_by_its_own_name(house, spec):
    house.page.pool.pairs = (PAIR.model_copy(update={"base": spec}),)
    assert house.visitor.sidebar.name_of(PAIR.id, "base") == "x"


def test_a_prompt_that_cannot_be_rebuilt_is_a_sentence(guest, monkeypatch):
    def refuse(*arguments):
        raise UserError("These models have no chat template.")

    monkeypatch.setattr(Lease, "prompt", refuse)
    assert "error" not in with_chat(guest, record("Hello", pair=PAIR.id)), "nobody has asked for it"
    told = guest.act("sent", turn=0)
    assert told["error"] == "These models have no chat template." and "sent" not in told


# --- what can be had of a turn ----------------------------------------------------------------------------


def test_what_was_sent_the_code_and_the_lens_of_a_turn_say_which_turn_they_are_of(three):
    sent = three.act("sent", turn=1)
    assert sent["turn"] == 1 and "<mark class='new'><bdi>&lt;|im_end|&gt;</bdi></mark>" in sent["sent"]
    code = three.act("code", turn=1, address="http://127.0.0.1:7860/x/")
    assert code["turn"] == 1 and "http://127.0.0.1:7860/x" in code["code"]
    lens = three.act("lens", turn=1)
    assert lens["turn"] == 1 and set(lens["tokens"]) == set(SIDES)
    assert "".join(text for text, *_ in lens["tokens"]["base"]) == "a base reply"


def test_a_reply_a_link_and_a_receipt_are_handed_out(three):
    assert [three.act("copy", turn=1, side=side)["copy"] for side in SIDES] == ["a base reply", "a post-trained reply"]
    link = three.act("link", turn=1)
    assert links.decode(link["parcel"]["fragment"]).comparison.prompt == "Two" and "turn 2" in link["notice"]
    receipt = three.act("receipt", turn=1)
    assert receipts.read(receipt["parcel"]["text"].encode()).comparison.prompt == "Two"
    assert receipt["parcel"]["name"] in receipt["notice"]


def test_a_turn_that_came_with_a_link_has_nothing_that_a_run_has(guest):
    theirs = record("Theirs", pair=PAIR.id).model_copy(update={"base": None, "post": None})
    told = with_chat(guest, theirs)
    assert "actions" not in told["rows"] and "brought along" in told["rows"]
    for do in ("receipt", "code"):
        assert guest.act(do, turn=0)["error"].startswith("Turn 1 ")


def test_equal_answers_in_a_row_differ_in_their_serial_and_are_nobodys_markup(three):
    one, two = (three.house.compare._act(three.values, event(do="sent", turn=0)) for _ in range(2))
    assert one != two and "<" not in one


NO_TURN: list[Any] = [-1, True, "x", None, 99, 1.5, [], {}, 10**30]
NO_VERSION: list[Any] = ["abc", [99], [[]], [], None, 7, True, {"1": 1}, [None, 1.5], [0], [-1]]
NO_ACTION: list[dict[str, Any]] = [
    {"do": "unknown"},
    {"do": None},
    {"do": []},
    {"do": "copy"},
    {"do": "copy", "side": "nobody"},
    {"do": "copy", "side": []},
    {"do": "mark"},
    {"do": "mark", "value": "best"},
    {"do": "mark", "value": []},
]


def test_a_turn_that_is_not_there_is_a_sentence_or_nothing(three):
    records = three.session.records
    for turn in NO_TURN:
        for do in ("mark", "delete", "copy", "link", "receipt", "sent", "code", "lens"):
            told = three.act(do, turn=turn, value="post", side="base")
            assert told["error"] == "This turn is no longer there.", (do, turn)
        assert "error" not in three.act("version", turn=turn, versions=[1])
        assert three.session.records == records


def test_versions_that_are_not_there_change_nothing(house, three):
    house.page.pool.say("another base reply", "another reply")
    three.retry(0)
    records = three.session.records
    for versions in NO_VERSION:
        assert "error" not in three.act("version", turn=0, versions=versions)
        assert three.session.records == records, versions


def test_an_action_that_is_none_does_nothing(three):
    kept = three.kept
    for asked in NO_ACTION:
        assert set(three.act(turn=0, **asked)) == {"serial", "app"} and three.kept == kept, asked


def test_a_turn_at_no_place_is_asked_at_the_end(guest):
    for number, at in enumerate(NO_TURN):
        *_, end = guest.house.compare._lines(guest.values, event(prompt="Hello", at=at))
        assert end["turn"] == number and guest.prompts == ["Hello"] * (number + 1)


def test_nothing_to_ask_is_a_sentence(guest):
    guest.ask("One")
    for asked in ({}, {"prompt": None}, {"prompt": ""}, {"again": True}, {"again": True, "at": 7}):
        *_, end = guest.house.compare._lines(guest.values, event(**asked))
        assert end["error"] and guest.prompts == ["One"]


# --- marks ----------------------------------------------------------------------------------------------


def test_a_mark_belongs_to_its_turn_alone_and_a_second_time_takes_it_back():
    chat = tuple(record(prompt) for prompt in ("One", "Two", "Three"))
    marked = session.mark(chat, 1, "post")
    assert [(each.turn.prompt, each.mark) for each in marked] == [("One", None), ("Two", "post"), ("Three", None)]
    assert [each.mark for each in session.mark(marked, 1, "base")] == [None, "base", None]
    assert session.mark(marked, 1, "post") == chat


def test_a_mark_is_told_kept_and_no_version(three):
    assert three.act("mark", turn=1, value="tie")["marked"] == [1, "tie"]
    assert [each.mark for each in Kept.model_validate_json(three.kept).records] == [None, "tie", None]
    assert len(three.session.versions.nodes) == 3
    three.leave()
    assert three.act("mark", turn=1, value="tie")["marked"] == [1, None], "the browser had kept it"


# --- what came with a link --------------------------------------------------------------------------------


def test_what_was_shared_stands_behind_the_turns_as_a_row_that_nobody_has_run(guest):
    made = links.of_turn((record("Theirs", pair=PAIR.id),), 0)
    texts = {side: made.output(side).model_copy(update={"text": f"{side} <b>"}) for side in SIDES}
    told = guest.told(guest.arrive(address=links.encode(made.model_copy(update=texts)), fresh=True))
    assert "<li class='turn shared' data-turn='0'" in told["rows"] and "as shared, not checked" in told["rows"]
    assert "base &lt;b&gt;" in told["rows"] and titles(told["rows"]) == 1
    assert (told["box"], told["banner"][1]) == ("Theirs", "info") and guest.prompts == []
    end = guest.ask("Theirs", at=0)
    assert end["banner"][1] == "bad" and guest.prompts == ["Theirs"]
    assert "shared" not in guest.told(guest.arrive())["rows"], "its row is gone once it was run"


def test_what_waits_without_replies_has_no_row(guest):
    asked = COMPARISON.model_copy(update={"pair": PAIR.id, "conversation": Conversation()})
    told = guest.told(guest.arrive(address=links.encode(links.Shared(comparison=asked)), fresh=True))
    assert told["rows"] == "" and told["box"] == asked.prompt and "Nothing has been run" in told["banner"][0]


def test_no_part_of_the_page_lets_gradio_draw_markdown(house):
    """Its own Markdown loads programs for diagrams and formulas; ours is HTML that does nothing (core/ui/markdown.py)."""
    kinds = {type(block).__name__ for block in house.demo.blocks.values()}
    assert not kinds & {
        "Markdown",
        "Chatbot",
        "Code",
        "JSON",
        "Dataframe",
        "HighlightedText",
        "Label",
        "MultimodalTextbox",
    }
