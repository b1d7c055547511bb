"""One comparison on a loaded pair: two requests, one stream of snapshots, and a result that tells what was sent."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from core import prompts
from core.errors import TooLong, UserError
from core.lease import Lease
from core.prompts import digest
from core.receipts import side_receipt
from core.run import Run, compare
from core.types import SIDES, Conversation, Snapshot, Turn
from core.ui.compare.render import finished_reply
from tests.pairs import comparison, tiny_lease
from tests.scripted import ScriptedPool
from tests.values import record


@pytest.fixture(scope="module")
def lease() -> Iterator[Lease]:
    with tiny_lease() as lease:
        yield lease


def test_a_result_tells_exactly_what_was_sent_and_what_came_back(lease):
    asked = comparison(seed=3, temperature=1.0)
    result = compare(lease, asked)
    assert result.comparison == asked
    for side in SIDES:
        answered, checkpoint = result.side(side), lease.side(side)
        assert answered.prompt_sha256 == digest(answered.prompt_token_ids)
        assert checkpoint.tokenizer.decode(answered.prompt_token_ids, skip_special_tokens=False) == answered.prompt_text
        assert "The quick brown fox" in answered.prompt_text
        assert len(answered.token_ids) == len(answered.logprobs) == len(answered.margins) > 0
        assert answered.usage.output_tokens == len(answered.token_ids)
        assert answered.usage.prompt_tokens == len(answered.prompt_token_ids)
        assert answered.weights_sha256 == checkpoint.weights_sha256
        assert answered.engine == lease.loaded[side].engine.info() == checkpoint.engine
    assert result.base.prompt_text != result.post.prompt_text, "the base gets the bare text, its sibling the template"
    assert result.base.weights_sha256 != result.post.weights_sha256


def test_the_same_comparison_gives_the_same_tokens_and_another_seed_others(lease):
    first, again, other = (compare(lease, comparison(seed=seed, temperature=1.2)) for seed in (1, 1, 2))
    for side in SIDES:
        assert first.side(side).token_ids == again.side(side).token_ids
        assert first.side(side).logprobs == again.side(side).logprobs
        assert first.side(side).token_ids != other.side(side).token_ids


def test_equal_weights_and_equal_prompts_feel_the_same_luck():
    """The draw is shared: with the same weights and tokens on both sides nothing can differ."""
    with tiny_lease(post_seed=1) as twins:
        result = compare(twins, comparison(temperature=1.5, framing_base="document", framing_post="document"))
    assert result.base.prompt_token_ids == result.post.prompt_token_ids
    assert result.base.token_ids == result.post.token_ids
    assert result.base.logprobs == result.post.logprobs


def test_each_side_is_sent_its_own_history_only(lease):
    history = Conversation(system="Be brief.", turns=(Turn(prompt="One?", base="BASE REPLY", post="POST REPLY"),))
    result = compare(lease, comparison("Two?", conversation=history, max_new_tokens=1))
    assert "BASE REPLY" in result.base.prompt_text and "POST REPLY" not in result.base.prompt_text
    assert "POST REPLY" in result.post.prompt_text and "BASE REPLY" not in result.post.prompt_text
    for side in SIDES:
        assert all(text in result.side(side).prompt_text for text in ("Be brief.", "One?", "Two?"))


def test_snapshots_grow_and_the_last_is_whole(lease):
    run = Run(lease, comparison(temperature=1.0))
    seen: list[Snapshot] = list(run.snapshots(lambda: 0.0))
    assert (seen[0].base.phase, seen[-1].base.phase, seen[-1].post.phase) == ("queued", "done", "done")
    for side in SIDES:
        ids = [snapshot.reply(side).token_ids for snapshot in seen]
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(ids))
        assert ids[-1] == run.result().side(side).token_ids
        assert seen[-1].reply(side).text == run.result().side(side).text
        assert (seen[-1].reply(side).seconds_to_first_token or 0) > 0


def test_speed_is_told_from_the_first_token_on_and_reading_from_the_start(lease):
    run = Run(lease, comparison(max_new_tokens=1))
    for _ in run.snapshots():
        pass
    writer = run._writers["base"]
    assert writer.reply().ahead == 0 and writer.reply().tokens_per_second is None, "one token has no speed"
    writer.started_at, writer.first_at, writer.last_at = 10.0, 12.0, 16.0
    writer.ids = [1] * 9
    assert (writer.reply().seconds_to_first_token, writer.reply().tokens_per_second) == (2.0, 2.0)


def test_whoever_looks_seldom_is_told_the_end_at_once_and_the_speed_as_it_was():
    pool = ScriptedPool("word " * 20, "word " * 20, pause=0.01)
    first, last = Run(pool.lease, comparison()).snapshots(lambda: 1e6)
    assert first.base.phase == "queued" and last.base.phase == last.post.phase == "done"
    assert 1 < (last.base.tokens_per_second or 0) < 200, "not by when they were looked at"


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 5e-324])
def test_a_receipt_of_a_reply_that_took_no_time_has_no_speed(seconds):
    shown = record("What?")
    usage = shown.base.usage.model_copy(update={"seconds_decoding": seconds, "output_tokens": 9})
    kept = shown.model_copy(update={"base": shown.base.model_copy(update={"usage": usage})})
    assert finished_reply(kept, "base").tokens_per_second is None


def test_a_replay_asks_with_the_settings_that_were_sent(lease):
    """The context of another machine may have left less room, or more."""
    result = compare(lease, comparison(max_new_tokens=8))
    sent = comparison(max_new_tokens=5).sampling
    recorded = {side: side_receipt(result.side(side)).model_copy(update={"sampling": sent}) for side in SIDES}
    run = Run(lease, result.comparison, recorded=recorded)
    for _ in run.snapshots():
        pass
    assert run.sampling("base") == run.sampling("post") == sent
    assert [len(run.result().side(side).token_ids) for side in SIDES] == [5, 5]


def test_what_is_longer_than_is_read_here_is_refused_before_any_tokenizer_sees_it(monkeypatch):
    lease = replace(ScriptedPool().lease, most=10)
    monkeypatch.setattr(prompts, "build", lambda *given: pytest.fail("it was built"))
    asked = comparison(
        conversation=Conversation(system="12", turns=(Turn(prompt="3", base="4", post="5"),)), prompt="6" * 6
    )
    with pytest.raises(
        TooLong, match="has 11 characters with its prompt, and at most 10 are read here; start a new chat"
    ):
        Run(lease, asked)


def test_nothing_runs_for_whoever_leaves_while_a_prompt_is_built(monkeypatch):
    pool, within, left = ScriptedPool(), threading.Event(), threading.Event()
    for engine in pool.engines.values():
        monkeypatch.setattr(engine, "submit", lambda *given: pytest.fail("it runs"))

    def build(comparison, side, own, templates, check):
        within.set()
        left.wait(30)
        try:
            check()
        finally:
            ended.set()

    ended = threading.Event()
    monkeypatch.setattr(prompts, "build", build)
    beginning = Run.begin(pool.lease, comparison())
    next(beginning)
    assert within.wait(30)
    beginning.close()
    left.set()
    assert ended.wait(30)


def test_text_streams_in_whole_characters():
    text = "caf\u00e9 \U0001f600\U0001f3fd and \u65e5\u672c\u8a9e, \u0928\u092e\u0938\u094d\u0924\u0947"
    lease = ScriptedPool(base=text, post=text, pause=0.001).lease
    run = Run(lease, comparison())
    for snapshot in run.snapshots(lambda: 0.0):
        for side in SIDES:
            assert text.startswith(snapshot.reply(side).text)
    assert run.result().base.text == text


def test_a_slow_side_does_not_hold_up_the_other():
    pool = ScriptedPool(base="one two three four five six", post="done")
    pool.engines["base"].pause = 0.1
    snapshots = list(Run(pool.lease, comparison()).snapshots(lambda: 0.0))
    waiting = [snapshot for snapshot in snapshots if snapshot.post.phase == "done" and snapshot.base.phase != "done"]
    assert waiting and waiting[0].base.text != snapshots[-1].base.text


def test_whoever_says_nothing_of_a_period_sees_every_reply_grow():
    lease = ScriptedPool(base="one two three four five six", post="done", pause=0.1).lease
    growing = {snapshot.base.text for snapshot in Run(lease, comparison()).snapshots()}
    assert len(growing) > 3


def test_closing_the_stream_stops_both_sides_and_frees_their_slots(lease):
    finished = threading.Semaphore(0)
    run = Run(lease, comparison(max_new_tokens=200, temperature=1.0))
    events = run.snapshots(lambda: 0.0)
    next(events)
    events.close()
    crowd = [Run(lease, comparison(max_new_tokens=4)) for _ in range(6)]
    for each in crowd:
        threading.Thread(target=lambda each=each: (list(each.snapshots()), finished.release())).start()
    assert all(finished.acquire(timeout=60) for _ in crowd), "six more runs fit through three slots"
    list(run.snapshots())
    assert all(run.snapshot().reply(side).finish_reason == "stopped" for side in SIDES)


def test_a_reply_that_has_less_room_than_asked_is_shortened_in_sight(lease):
    result = compare(lease, comparison("word " * 30, max_new_tokens=1000, temperature=1.5))
    for side in SIDES:
        answered = result.side(side)
        assert answered.sampling.max_new_tokens == 256 - len(answered.prompt_token_ids)
        assert result.comparison.sampling.max_new_tokens == 1000


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers_and_starts_nothing(lease):
    with pytest.raises(UserError, match=r"is [\d,]+ tokens for tiny-base, and its context holds 256; start a new chat"):
        compare(lease, comparison("word " * 400))
    assert compare(lease, comparison(max_new_tokens=1)).base.finish_reason == "length", "and nothing is broken"


class NotANumber(torch.nn.Module):
    """An output layer that gives no number."""

    def __init__(self, lm_head: torch.nn.Module):
        super().__init__()
        self.lm_head = lm_head
        self.weight = lm_head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm_head(hidden) * torch.nan


def test_a_side_that_fails_is_named_and_the_other_finishes(lease):
    healthy = lease.loaded["base"].model.lm_head
    lease.loaded["base"].model.lm_head = NotANumber(healthy)
    try:
        run = Run(lease, comparison())
        *_, last = run.snapshots()
    finally:
        lease.loaded["base"].model.lm_head = healthy
    assert last.base.phase == "failed" and last.post.phase == "done"
    with pytest.raises(UserError, match=r"The base side failed: .*not a number"):
        run.result()
    assert run.side_result("post").text == last.post.text


def test_both_sides_end_at_either_siblings_end(lease, monkeypatch):
    """The base, too, stops where its sibling's turn would end, so that it can write the costume's end and be seen to."""
    stopped = []
    for side in SIDES:
        engine = lease.loaded[side].engine
        submit = engine.submit
        monkeypatch.setattr(engine, "submit", lambda request, emit, submit=submit: (stopped.append(request.stop_ids), submit(request, emit))[1])  # fmt: skip
    compare(lease, comparison(max_new_tokens=1))
    assert stopped == [lease.base.stop_ids | lease.post.stop_ids] * 2, "of siblings"
