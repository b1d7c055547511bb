"""A conversation and its versions: whatever is followed or shown, nothing is lost and everything can be brought back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.types import Chat, Record
from core.ui import versions
from core.ui.versions import Aside, Node, Versions, same
from tests.values import record, side_receipt

A, B, C, D, E = (record(prompt) for prompt in "ABCDE")


def paths(held: Versions) -> set[tuple[str, ...]]:
    """Every conversation that `held` leads to, whole or begun, as its prompts and base replies."""
    found: list[tuple[str, ...]] = []
    for node in held.nodes:
        before = found[node.parent] if node.parent >= 0 else ()
        found.append((*before, name(node.record)))
    return set(found)


def name(record: Record) -> str:
    return f"{record.turn.prompt}: {record.turn.base}"


def names(chat: Chat) -> tuple[str, ...]:
    return tuple(map(name, chat))


# --- any conversation, whatever is done to it -------------------------------------------------------

RECORDS = st.sampled_from([record(prompt, base=base) for prompt in "ABC" for base in ("one", "two")])
FOLLOW = st.tuples(
    st.just("follow"), st.integers(0, 6), st.lists(RECORDS, max_size=3)
)  # what stays, and what comes behind
SHOW = st.tuples(st.just("show"), st.integers(-1, 6), st.lists(st.integers(-1, 4), max_size=3))
STEPS = st.lists(st.one_of(FOLLOW, FOLLOW, SHOW), max_size=12)


def taken(held: Versions, step) -> Versions:
    what, turn, rest = step
    if what == "show":
        return held.show(turn, *rest)
    return held.follow((*held.chat[:turn], *rest))


@settings(max_examples=120)
@given(STEPS)
def test_what_was_followed_is_in_sight_and_nothing_that_was_is_lost(steps):
    held, seen = Versions(), set()
    for step in steps:
        before = held.chat
        held = taken(held, step)
        if step[0] == "follow":
            assert held.chat == (*before[: step[1]], *step[2])
        else:
            assert held.chat[: step[1]] == before[: max(step[1], 0)] or held.chat == before
        seen |= {names(held.chat)[: end + 1] for end in range(len(held.chat))}
        assert paths(held) == seen, "and nothing is there that never was, or twice"
        assert len(held.nodes) == len(seen)


@settings(max_examples=120)
@given(STEPS)
def test_what_is_kept_of_it_is_read_as_it_was(steps):
    held = Versions()
    for step in steps:
        held = taken(held, step)
        assert Versions.of(held.chat, held.aside) == held
        assert len(held.chat) + len(held.aside) == len(held.nodes)


@settings(max_examples=120)
@given(STEPS, STEPS, st.integers(0, 6))
def test_the_places_of_what_was_in_sight_bring_it_back(steps, later, turn):
    held = Versions()
    for step in steps:
        held = taken(held, step)
    chat, turn = held.chat, min(turn, max(len(held.chat) - 1, 0))
    places = held.places(turn)
    for step in later:  # what happens behind `turn`, or in its place, does not change where it is found
        held = taken(held, (step[0], max(step[1], turn), step[2]))
    if places[0]:
        assert held.show(turn, *places).chat == chat


@settings(max_examples=100)
@given(STEPS, st.integers(0, 6))
def test_what_is_taken_away_can_be_put_back(steps, turn):
    held = Versions()
    for step in steps:
        held = taken(held, step)
    turn = min(turn, len(held.chat))
    places = held.places(turn)
    assert held.follow(held.chat[:turn]).show(turn, *places).chat == held.chat


# --- one conversation --------------------------------------------------------------------------------


def test_a_turn_that_is_run_again_stays_as_a_version_with_all_that_followed_it():
    held = Versions().follow((A, B, C)).follow((A, D))
    assert held.chat == (A, D)
    assert [held.count(turn) for turn in (0, 1)] == [(1, 1), (2, 2)]
    assert held.show(1, 1).chat == (A, B, C), "an earlier version comes with what came last behind it"
    assert held.show(1, 1).show(1, 2) == held
    assert held.places(0) == (1, 2, 0)


def test_what_came_last_behind_a_version_is_shown_with_it():
    held = Versions().follow((A, B)).follow((A, C)).follow((D,))
    assert held.show(0, 1).chat == (A, C)
    assert held.show(0, 1, 1).chat == (A, B)
    assert held.show(0, 1, 99).chat == (A, C), "beyond the last is the last"


@pytest.mark.parametrize(("turn", "places"), [(0, ()), (0, (0,)), (0, (3,)), (-1, (1,)), (3, (1,)), (1, (-1,))])
def test_what_is_not_there_changes_nothing(turn, places):
    held = Versions().follow((A, B)).follow((C,))
    assert held.show(turn, *places) is held


def test_a_conversation_that_was_taken_away_whole_can_be_put_back():
    held = Versions().follow((A, B)).follow(())
    assert held.chat == () and held.show(0, 1).chat == (A, B)


def test_a_mark_changes_the_turn_where_it_is():
    held = Versions().follow((A, B)).follow((A, C))
    marked = held.follow((A.model_copy(update={"mark": "tie"}), C))
    assert marked.chat[0].mark == "tie" and len(marked.nodes) == len(held.nodes)
    assert marked.show(1, 1).chat == (marked.chat[0], B), "also under what is not in sight"
    assert marked.follow(held.chat) == held


# --- what is the same ------------------------------------------------------------------------------


def changed(side: str = "base", **how) -> Record:
    receipt = A.receipt("base" if side == "base" else "post")
    assert receipt is not None
    return A.model_copy(update={side: receipt.model_copy(update=how)})


@pytest.mark.parametrize(
    "other",
    [
        A.model_copy(update={"today": "2027-01-01"}),
        A.model_copy(update={"mark": "base"}),
        changed(usage=side_receipt(1).usage.model_copy(update={"seconds_decoding": 9.0})),
        changed("post", margins=(None, None), smallest_margin=None),
    ],
)
def test_when_it_was_and_how_long_it_took_and_what_was_thought_of_it_make_no_difference(other):
    assert other != A and same(A, other) and same(other, A)
    assert len(Versions().follow((A,)).follow((other,)).nodes) == 1


@pytest.mark.parametrize(
    "other",
    [
        B,
        A.model_copy(update={"system": "Be brief."}),
        A.model_copy(update={"pair": "other"}),
        A.model_copy(update={"sampling": A.sampling.model_copy(update={"seed": 1})}),
        A.model_copy(update={"chat_template_kwargs": {"enable_thinking": True}}),
        A.model_copy(update={"prefill_base": (1,)}),
        A.model_copy(update={"base": None}),
        changed(token_ids=(1, 2)),
        changed("post", weights_sha256="9" * 64),
        changed("post", finish_reason="stopped"),
        record("A", base="another text"),
    ],
)
def test_what_was_asked_and_what_was_answered_do(other):
    assert not same(A, other) and not same(other, A)
    assert len(Versions().follow((A,)).follow((other,)).nodes) == 2


# --- how many -----------------------------------------------------------------------------------------


def test_the_oldest_that_nothing_follows_goes_first(monkeypatch):
    monkeypatch.setattr(versions, "MOST_ASIDE", 3)
    held = Versions().follow((A, B)).follow((C,)).follow((D,))
    assert paths(held) == {names(chat) for chat in ((A,), (A, B), (C,), (D,))}
    held = held.follow((E,))
    assert paths(held) == {names(chat) for chat in ((A,), (C,), (D,), (E,))}, "B, behind which there is nothing"
    held = held.follow((E, A)).follow((B,))
    assert (held.chat, len(held.aside)) == ((B,), 3)
    assert paths(held) == {names(chat) for chat in ((D,), (E,), (E, A), (B,))}
    assert Versions.of(held.chat, held.aside) == held


@settings(max_examples=60)
@given(STEPS, st.integers(0, 4))
def test_never_more_than_so_many_are_aside_and_what_is_in_sight_is_whole(steps, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "MOST_ASIDE", most)
        held = Versions()
        for step in steps:
            chat = held.chat[: step[1]]
            held = taken(held, step)
            if step[0] == "follow":
                assert held.chat == (*chat, *step[2]) and len(held.aside) <= most
            assert Versions.of(held.chat, held.aside) == held


def test_two_hundred_stay():
    held = Versions()
    for seed in range(205):
        held = held.follow((A.model_copy(update={"sampling": A.sampling.model_copy(update={"seed": seed})}),))
    assert [node.record.sampling.seed for node in held.nodes] == [*range(4, 205)]


# --- what a browser brings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "aside",
    [
        [(0, -1), (0, -1)],  # one place twice
        [(5, -1)],  # beyond the last
        [(-1, -1)],
        [(0, 0)],  # follows itself,
        [(1, 2)],  # or one that comes later,
        [(0, -2)],  # or none
        [(1, 99)],
        [(0, -1), (1, -1), (9, -1)],
    ],
)
def test_what_does_not_fit_together_is_refused(aside):
    rest = [Aside(index=index, parent=parent, record=C) for index, parent in aside]
    with pytest.raises(ValueError, match=r"a turn follows one that is not there|two turns have one place"):
        Versions.of((A, B), rest)


@pytest.mark.parametrize("tip", [-2, 1, 7])
def test_a_tip_that_is_not_there_is_refused(tip):
    with pytest.raises(ValueError, match="a turn follows one that is not there"):
        Versions(nodes=(Node(parent=-1, record=A),), tip=tip)
