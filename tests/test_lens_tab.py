"""What happens on the Token lens tab, without a browser: readings as lines, what-ifs as records, mistakes as sentences."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from core import receipts, what_if
from core.errors import UserError
from core.run import compare
from core.steps import Stop
from core.types import SIDES, Candidate, Chat, Comparison, Dial, LensReport, Record, Shift, Turn
from core.ui.lens import session
from core.ui.lens.session import Made, View
from tests import values
from tests.pairs import OnePair, comparison, tiny_lease


@pytest.fixture(scope="module")
def lease():
    with tiny_lease() as lease:
        yield lease


def turn(lease, asked: Comparison) -> Record:
    """A finished turn, as the chat keeps it."""
    result = compare(lease, asked)
    texts = Turn(prompt=asked.prompt, base=result.base.text, post=result.post.text)
    return Record.of(asked, texts, *(receipts.side_receipt(result.side(side)) for side in SIDES))


@pytest.fixture(scope="module")
def chat(lease) -> Chat:
    """Two turns, of which the second began with given tokens."""
    first = turn(lease, comparison(max_new_tokens=6))
    after = first.comparison(()).conversation.model_copy(update={"turns": (first.turn,)})
    begun = {"prefill_base": (40, 41), "prefill_post": (42,)}
    return first, turn(lease, comparison("And then", max_new_tokens=5, conversation=after, **begun))


# --- which turn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [-1, 2, None, "0", [0], 0.0])
def test_only_a_turn_that_is_there_can_be_looked_at(chat, number):
    with pytest.raises(UserError, match="one of the turns 1 to 2"):
        session.turn_of(chat, number)


@pytest.mark.parametrize("failed", ["base", "post"])
def test_a_turn_with_a_failed_side_cannot_be_looked_at(failed):
    with pytest.raises(UserError, match="has no finished reply"):
        session.turn_of((values.record("One", failed=failed),), 0)


def test_a_turn_has_its_own_history_and_a_reply_its_given_beginning(chat):
    found = session.turn_of(chat, 1)
    assert [each.prompt for each in found.comparison.conversation.turns] == ["The quick brown fox"]
    assert found.whole("base") == (40, 41, *chat[1].base.token_ids)
    assert found.whole("post") == (42, *chat[1].post.token_ids)
    assert found.side("base") == chat[1].base


# --- readings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "side", "context"), [(0, "post", "identical"), (1, "base", "own")])
def test_a_reading_is_a_head_a_line_for_each_token_and_a_summary(lease, chat, number, side, context):
    views = list(session.read(OnePair(lease), chat, number, side, context, Stop()))
    assert views[0] == View(notice="Loading", busy=True)
    assert all(view.busy and view.report is None for view in views[:-1]) and not views[-1].busy
    shown = [view.lines for view in views if view.lines is not None]
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    head, *lines, summary, nothing = shown[-1].split("\n")
    report = LensReport.model_validate_json(views[-1].report)
    told = json.loads(head)
    assert (told["side"], told["context"], told["turn"]) == (side, context, number)
    assert "".join(f"{line}\n" for line in lines) == "".join(map(session.line, report.lens.shifts))
    assert [json.loads(line)[0] for line in lines] == list(session.turn_of(chat, number).whole(side))
    assert json.loads(summary) == json.loads(report.summary.model_dump_json()) and nothing == ""
    again = list(session.read(OnePair(lease), chat, number, side, context, Stop()))[-1].lines
    assert json.loads(again.split("\n")[0])["name"] != told["name"], "every reading is one of its own"


def test_while_nothing_is_read_nothing_is_sent_again(lease, chat):
    held = lease.loaded["base"].engine.score(range(1, 250), 1, lambda news: None)
    reading = session.read(OnePair(lease), chat, 0, "post", "identical", Stop())
    try:
        views = [next(reading) for _ in range(4)]
    finally:
        held.cancel()
    assert views[1].lines and views[2:] == [View(busy=True)] * 2, "somebody else has the base"
    assert list(reading)[-1].report


def test_a_line_is_the_shift_in_the_order_in_which_the_script_reads_it_and_nobodys_markup():
    candidates = [Candidate(id=id, text=f"<{id}>", logprob=-id / 3) for id in range(1, 7)]
    figures = {"logprob_base": -1 / 3, "logprob_post": -2 / 3, "kl": 4 / 3, "js": 1 / 9, "agreement": 5 / 9}
    shift = Shift(
        step=8, id=7, text="caf\u00e9 </b>", rank_base=11, rank_post=12, first_choice_rank=13, **figures,
        drawn_base=candidates[0], drawn_post=candidates[1], top_base=tuple(candidates[2:4]), top_post=tuple(candidates[4:]),
    )  # fmt: skip
    line = session.line(shift)
    assert "<" not in line and "caf\u00e9" in line and " " not in line.replace("\u00e9 ", "") and line.endswith("\n")
    assert json.loads(line) == [
        7, "caf\u00e9 </b>", 11, 12, 13, -0.33333, -0.66667, 1.33333, 0.11111, 0.55556, [1, "<1>"], [2, "<2>"],
        [[3, "<3>", -1.0], [4, "<4>", -1.33333]], [[5, "<5>", -1.66667], [6, "<6>", -2.0]],
    ]  # fmt: skip


# --- what if ----------------------------------------------------------------------------------------------


def made(views) -> Made:
    """The last view's, after views that only showed how far it is."""
    *under_way, last = views
    assert all(view.busy and view.made is None for view in under_way) and not last.busy
    assert [view for view in under_way if view.what_if] and last.what_if
    assert last.made is not None and not last.notice
    return last.made


def test_a_branch_goes_on_on_both_sides_from_the_reply_that_was_read(lease, chat):
    *_, read = session.read(OnePair(lease), chat, 1, "base", "own", Stop())
    head = json.loads(read.lines.split("\n")[0])
    branched = made(session.branch(OnePair(lease), chat, {**head, "step": 3, "token": 9}, Stop()))
    whole = session.turn_of(chat, 1).whole("base")
    assert branched.turn == 1
    assert branched.record.prefill_base == branched.record.prefill_post == (*whole[:3], 9)
    assert branched.record.turn.prompt == "And then"
    assert branched.record.base.token_ids == compare(lease, branched.record.comparison(chat[:1])).base.token_ids


def test_a_handover_gives_each_model_the_others_first_tokens(lease, chat):
    handed = made(session.hand_over(OnePair(lease), chat, 0, 3, Stop())).record
    base, post = (session.turn_of(chat, 0).whole(side) for side in SIDES)
    expected = what_if.handover(lease, session.turn_of(chat, 0).comparison, base, post, 3)
    assert (handed.prefill_base, handed.prefill_post) == (expected.prefill_base, expected.prefill_post)
    nothing = made(session.hand_over(OnePair(lease), chat, 0, None, Stop())).record
    assert (nothing.prefill_base, nothing.prefill_post) == ((), ())
    assert nothing.turn == chat[0].turn, "both go on from nothing, as they did"


def test_a_dial_turns_the_post_trained_side_alone(lease, chat):
    views = list(session.dial(OnePair(lease), chat, 0, 0.5, "logits", Stop()))
    dialled = made(views).record
    assert dialled.dial == Dial(amount=0.5, space="logits")
    assert dialled.base.token_ids == chat[0].base.token_ids != dialled.post.token_ids
    assert "Dial at 0.5, logits" in (views[-1].what_if or "")
    assert "<h2>The dial at 0.5, logits</h2>" in (views[-1].what_if or "")
    *_, last = session.dial(OnePair(lease), chat, 0, 1.5, "weights", Stop())
    assert last.made.record.dial == Dial(amount=1.5, space="weights")


def test_a_sweep_and_a_grid_show_what_has_come_so_far(lease, chat):
    swept = list(session.sweep(OnePair(lease), chat, 0, "logits", Stop()))
    soon, *drawn = [view.what_if for view in swept if view.what_if]
    assert "at work" in soon, "it is seen that something was begun"
    assert [html.count("<th scope='row'>") for html in drawn] == list(range(1, len(what_if.AMOUNTS) + 1))
    assert all("in the space of logits" in html for html in drawn)
    filled = list(session.grid(OnePair(lease), chat, 0, Stop()))
    tables = [view.what_if.count("<table") for view in filled if view.what_if][1:]
    assert tables == list(range(1, len(tables) + 1)) and tables
    for views in (swept, filled):
        assert views[-1] == View() and all(view.busy for view in views[:-1])


def test_a_sweep_that_is_stopped_says_what_stays(lease, chat):
    stop = Stop()
    sweeping = session.sweep(OnePair(lease), chat, 0, "logits", stop)
    next(sweeping)
    stop.press()
    assert list(sweeping)[-1] == View(notice="Stopped; the settings that were finished stay.")


def test_a_mistake_is_one_sentence_and_makes_nothing(lease, chat):
    for views, said in (
        (session.read(OnePair(lease), (), 0, "post", "own", Stop()), "no reply to look at yet"),
        (session.grid(OnePair(lease), chat, 7, Stop()), "one of the turns 1 to 2"),
        (session.dial(OnePair(lease), chat, 0, 9.0, "logits", Stop()), "amount: "),
        (session.branch(OnePair(lease), chat, {"turn": 0, "of": "x"}, Stop()), "changed since"),
    ):
        *_, last = views
        assert said in last.notice and last == View(notice=last.notice, tone="error")


# --- into the chat ------------------------------------------------------------------------------------------


def test_a_what_if_takes_the_place_of_the_turn_that_it_was_made_from_and_ends_the_chat_there(chat):
    other = chat[0].model_copy(update={"turn": chat[0].turn.model_copy(update={"post": "Another reply"})})
    assert session.made_chat(chat, Made(0, other)) == (other,)
    last = chat[1].model_copy(update={"turn": chat[1].turn.model_copy(update={"post": "Another reply"})})
    assert session.made_chat(chat, Made(1, last)) == (chat[0], last)


def test_a_what_if_of_another_conversation_goes_nowhere(chat):
    there = Made(1, chat[1])
    for turns, what in ((chat, None), (chat[:1], there), (chat[:1], replace(there, turn=0)), ((), there)):
        with pytest.raises(UserError, match="no finished what-if"):
            session.made_chat(turns, what)
