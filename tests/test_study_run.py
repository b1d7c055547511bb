"""A study runs every cell once: kept as it comes, resumed after any end, never written twice, and only by one engine."""

import sqlite3
import threading
import time
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest

from core import receipts
from core.errors import UserError
from core.lease import Lease
from core.prompts import digest
from core.run import compare, write
from core.steps import Stop, Stopped, finish, watch
from core.study import store
from core.study.plan import StudyPlan
from core.study.run import Desk, run
from core.types import DEFAULT_SAMPLING, Comparison, Side, SideResult, in_common
from tests import values
from tests.scripted import ScriptedPool
from tests.test_study_plan import plan


def reply(
    comparison: Comparison, side: Side, text: str, *, weights: str = "", finish_reason: str = "eos"
) -> SideResult:
    """What a model would have given, by hand."""
    ids = tuple(map(ord, text))
    side_receipt = values.side_receipt(*ids, weights=weights or {"base": "a", "post": "b"}[side])
    return SideResult(
        **{
            **in_common(side_receipt, SideResult),
            "sampling": comparison.sampling,
            "prompt_text": comparison.prompt,
            "prompt_token_ids": (1, 2, 3),
            "prompt_sha256": digest((1, 2, 3)),
            "text": text,
            "logprobs": (-1.0,) * len(ids),
            "finish_reason": finish_reason,
        }
    )


ANY = Comparison(pair="a", prompt="x", sampling=DEFAULT_SAMPLING, today="2026-01-02")


class Typist:
    """Writes what `say` gives for a comparison and a side, and counts."""

    def __init__(
        self,
        say=lambda comparison, side: f"{side} {comparison.sampling.seed % 3}",
        slots: int = 2,
        one_base: bool = False,
        **options,
    ):
        self.one_base = one_base
        self.say, self.slots, self.options = say, slots, options
        self.asked: list[tuple[str, Side, str, int]] = []
        self.shared: list[tuple[int, ...]] = []
        self.were_read: list[tuple] = []
        self.at_once = self.most_at_once = 0
        self.pairs: list[str] = []
        self._lock = threading.Lock()

    def sit_down(self, pair: str):
        yield f"Loading {pair}"
        self.pairs.append(pair)
        return nullcontext(Desk(self.slots, self.write, self.read, self.identity, self.writer))

    def identity(self, comparison: Comparison, side: Side) -> str:
        """Every base is one checkpoint where that is said."""
        whose = "the base" if self.one_base and side == "base" else f"{comparison.pair} {side}"
        return f"{whose} {comparison.framing(side)} {comparison.prompt}"

    def writer(self, side: Side) -> store.Fingerprint:
        return store.Fingerprint.of(reply(ANY, side, "x", **self.options))

    def read(self, comparison: Comparison, side: Side, reply, stop: Stop) -> tuple[float, ...]:
        self.were_read.append((comparison.prompt, side, reply.token_ids))
        return tuple(1 / (1 + step) for step in range(len(reply.token_ids)))

    def write(self, comparison: Comparison, side: Side, stop: Stop, shared: tuple[int, ...]) -> SideResult:
        stop.check()
        self.shared.append(shared)
        with self._lock:
            self.asked.append((comparison.prompt, side, comparison.framing(side), comparison.sampling.seed))
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return reply(comparison, side, self.say(comparison, side), **self.options)
        finally:
            with self._lock:
                self.at_once -= 1


def perform(asked: StudyPlan, kept: store.Store, typist: Typist) -> list:
    steps: list = []
    finish(run(asked, kept, typist.sit_down), steps.append)
    return steps


def test_every_cell_is_written_once_and_kept_in_the_order_of_the_plan(tmp_path):
    asked, typist = plan("One?", "Two?", seeds=3), Typist()
    with store.opened(str(tmp_path / "study.sqlite")) as kept:
        steps = perform(asked, kept, typist)
        assert list(kept.written(asked)) == list(asked.cells()) and kept.plan == asked
    assert len(typist.asked) == len(set(typist.asked)) == asked.total == 24
    assert steps[0].loading == "Loading embedded" and not any(step.loading for step in steps[1:])
    assert (steps[-1].done, steps[-1].total, steps[-1].seconds_left) == (24, 24, 0)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert any(step.seconds_left for step in steps[:-1])


def test_all_slots_are_busy_and_each_model_has_its_own():
    """Every slot of both models waits for all others: with fewer at once this would never end."""
    everyone = threading.Barrier(4)

    def say(comparison, side):
        everyone.wait(30)
        return "x"

    typist = Typist(say, slots=1)
    with store.opened(None) as kept:
        perform(plan(seeds=8, crossed=False), kept, typist)
    assert typist.most_at_once == 4


def test_a_study_that_was_ended_goes_on_and_finished_cells_are_never_written_again(tmp_path):
    file, asked = str(tmp_path / "study.sqlite"), plan(seeds=8)
    first, second = Typist(), Typist()
    with store.opened(file) as kept, closing(run(asked, kept, first.sit_down)) as steps:
        for step in steps:
            if step.done == 5:
                break
    with store.opened(file) as kept:
        there = kept.written(asked)
        assert len(there) == 5
        perform(asked, kept, second)
        assert len(kept.written(asked)) == 32 and {**kept.written(asked), **there} == kept.written(asked)
    assert len(second.asked) == 32 - 5
    with store.opened(file) as kept:
        third = Typist()
        perform(asked.model_copy(update={"seeds": 9}), kept, third)
        assert len(third.asked) == 4 and third.pairs == ["embedded"], "more seeds add to those that are there"
        perform(asked, kept, nobody := Typist())
        assert not nobody.pairs, "no model is loaded for nothing"


def test_where_the_branching_is_asked_every_reply_is_read_once_and_those_that_are_there_are_only_read(tmp_path):
    file, asked = str(tmp_path / "study.sqlite"), plan(seeds=8, crossed=False)
    branching = asked.model_copy(update={"branching": True, "seeds": 9})
    with store.opened(file) as kept:
        perform(asked, kept, first := Typist())
        assert not first.were_read and not kept.unread(asked)
        assert len(kept.unread(branching)) == 16
    with store.opened(file) as kept:
        perform(branching, kept, second := Typist())
        assert len(second.asked) == 2 and len(second.were_read) == 18 and not kept.unread(branching)
        perform(branching, kept, third := Typist())
        assert not third.pairs
        for reply in kept.written(branching).values():
            assert reply.entropies == tuple(1 / (1 + step) for step in range(len(reply.token_ids)))
        assert {cell: reply.digest for cell, reply in kept.written(asked).items()}.items() <= {
            cell: reply.digest for cell, reply in kept.written(branching).items()
        }.items(), "no digest depends on it"


def test_a_cell_that_fails_ends_the_study_in_its_sentence_and_the_others_stay():
    def say(comparison, side):
        if side == "post":
            raise UserError("The post-trained side failed: no.")
        return "x"

    asked = plan(seeds=8)
    with store.opened(None) as kept:
        with pytest.raises(UserError, match="side failed: no"):
            perform(asked, kept, Typist(say))
        assert all(cell.arm.side == "base" for cell in kept.written(asked))


def test_a_stop_ends_what_is_being_written():
    started, stop = threading.Event(), Stop()

    def write(comparison, side, stop, shared):
        started.set()
        while not stop.pressed:
            time.sleep(0.01)
        stop.check()

    def sit_down(pair):
        yield f"Loading {pair}"
        return nullcontext(Desk(1, write, lambda *asked: (), lambda *asked: "x", Typist().writer))

    def show(step):
        if started.is_set():
            stop.press()

    with store.opened(None) as kept, pytest.raises(Stopped):
        finish(watch(run(plan(), kept, sit_down), show, stop))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("study")]


def test_a_pair_that_somebody_needs_the_memory_of_is_left_and_asked_for_again():
    asked, typist = plan(seeds=8), Typist(slots=1)
    wanted = iter([False, False, False, True, *9 * [False], True, *100 * [False]])

    def sit_down(pair):
        seat = yield from typist.sit_down(pair)
        return nullcontext(replace(seat.enter_result, wanted=wanted.__next__))

    with store.opened(None) as kept:
        steps: list = []
        finish(run(asked, kept, sit_down), steps.append)
        assert len(kept.written(asked)) == 32 and typist.pairs == 3 * ["embedded"]
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_pairs_are_in_memory_one_after_the_other():
    with store.opened(None) as kept:
        perform(plan(seeds=8, pairs=("a", "b"), crossed=False), kept, typist := Typist())
    assert typist.pairs == ["a", "b"]


@pytest.mark.parametrize("branching", [False, True])
def test_a_checkpoint_of_several_pairs_is_asked_once(branching):
    asked = plan(seeds=8, pairs=("a", "b", "c"), branching=branching)
    with store.opened(None) as kept:
        steps = perform(asked, kept, typist := Typist(one_base=True))
        written = kept.written(asked)
        assert not kept.unread(asked)
    assert len(typist.asked) == 8 * (2 + 3 * 2) and len(written) == asked.total == 8 * 12
    assert len(typist.were_read) == (len(typist.asked) if branching else 0)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    for cell in asked.cells():
        if cell.arm.side == "base":
            first = cell._replace(arm=cell.arm.model_copy(update={"pair": "a"}))
            assert written[cell] == written[first]
    with store.opened(None) as kept:
        for _ in zip(range(18), run(asked, kept, Typist(one_base=True).sit_down), strict=False):
            pass
        assert "c" not in {cell.arm.pair for cell in kept.written(asked)}
        perform(asked, kept, again := Typist(one_base=True))
        assert kept.written(asked) == written and len(again.asked) < 8 * 8, (
            "also by a run that goes on with another's file"
        )


def test_replies_of_other_weights_do_not_come_into_the_same_file():
    with store.opened(None) as kept:
        perform(plan(seeds=8), kept, Typist())
        with pytest.raises(UserError, match="written by other weights or another engine"):
            perform(plan(seeds=9), kept, Typist(weights="c"))


def test_a_cell_opens_as_the_receipt_of_a_comparison():
    asked = plan(seeds=8)
    with store.opened(None) as kept:
        perform(asked, kept, Typist())
        written = kept.written(asked)
        sides = {}
        for cell in list(asked.cells())[:2]:
            sides[cell.arm.side] = written[cell].side_receipt(asked, cell, kept.fingerprint(cell.arm))
        assert kept.fingerprint(asked.arms()[0]).weights_sha256 == "a" * 64
    comparison = asked.comparison(cell).model_copy(update={"framing_base": "document"})
    receipt = receipts.make(comparison, **sides)
    assert receipts.read(receipts.write(receipt).encode()) == receipt


@pytest.mark.parametrize("content", [b"x" * 3000, None])
def test_a_file_that_is_no_study_is_left_alone(tmp_path, content):
    file = tmp_path / "other"
    if content is None:
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("CREATE TABLE mine (x)")
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(UserError, match="cannot be used as the file of a study"), store.opened(str(file)):
        pass
    assert file.read_bytes() == before
    with pytest.raises(UserError, match="cannot be opened"), store.opened(str(tmp_path / "nowhere" / "x")):
        pass


def test_a_file_has_one_study_at_a_time(tmp_path):
    file = str(tmp_path / "study.sqlite")
    with store.opened(file), pytest.raises(UserError, match="locked"), store.opened(file):
        pass


def test_one_side_is_written_as_a_comparison_writes_it():
    lease: Lease = ScriptedPool("Paris, of course", "It is Paris.").lease
    asked = Comparison(pair="scripted", prompt="Where?", sampling=DEFAULT_SAMPLING, today="2026-01-02")
    whole = compare(lease, asked)
    for side in ("base", "post"):
        alone = write(lease, asked, side, Stop())
        assert alone.model_copy(update={"usage": whole.side(side).usage}) == whole.side(side)
    pressed = Stop()
    pressed.press()
    with pytest.raises(Stopped):
        write(lease, asked, "base", pressed)


def test_a_reply_whose_engine_was_closed_is_not_taken_for_a_whole_one(monkeypatch):
    pool = ScriptedPool("Paris, of course", "It is Paris.", pause=0.01)
    engine = pool.engines["base"]
    submit = engine.submit

    def closing_down(request, emit):
        ticket = submit(request, emit)
        ticket.cancel()
        return ticket

    monkeypatch.setattr(engine, "submit", closing_down)
    asked = Comparison(pair="scripted", prompt="Where?", sampling=DEFAULT_SAMPLING, today="2026-01-02")
    with pytest.raises(Stopped):
        write(pool.lease, asked, "base", Stop())
