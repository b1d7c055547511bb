"""A study at a server: in memory alone, with an end, and behind everybody else who waits for a slot."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import UserError
from core.hub import HuggingFaceHub
from core.pool import Pool
from core.run import compare
from core.settings import Settings
from core.steps import Stop, finish, seldom
from core.study import served, store
from core.study.checks import read_check
from core.study.plan import StudyPlan
from core.types import DEFAULT_SAMPLING, SIDES, Comparison
from tests import tiny
from tests.scripted import PAIR, ScriptedPool
from tests.test_study_plan import plan


def asked(*prompts: str, **changes) -> StudyPlan:
    return plan(*prompts, **{"pairs": (PAIR.id,), "seeds": 8, "crossed": False, **changes})


def perform(pool, study: StudyPlan, image: bytes | None = None, stop: Stop | None = None) -> served.Study:
    return finish(served.perform(pool, study, stop or Stop(), image))


# --- what it holds ----------------------------------------------------------------------------------------


def test_what_is_held_has_every_reply_and_no_more_than_those():
    pool = ScriptedPool("The capital is Lyon.", "It is Paris.")
    first = perform(pool, asked("Where?"))
    assert len(first.written()) == first.report.results.done == 16 and not first.ended
    assert {reply.text for reply in first.written().values()} == {"The capital is Lyon.", "It is Paris."}
    second = perform(pool, asked("And now?"), first.image)
    with store.opened(None, second.image) as kept:
        assert len(kept.missing(first.plan)) == 16, "what belongs to another study is dropped"
        assert not kept.missing(second.plan)


def test_what_is_there_is_not_written_again_for_another_test_or_more_seeds():
    pool = ScriptedPool("The capital is Lyon.", "It is Paris.")
    first = perform(pool, asked("Where?"))
    pool.say("Other words", "Other words")
    tested = perform(pool, asked("Where?", checks=(read_check("contains:Paris"),)), first.image)
    assert tested.written() == first.written()
    assert [count.rates["contains:Paris"].passed for count in tested.report.results.whole.arms] == [0, 8]
    more = perform(pool, asked("Where?", seeds=9), first.image)
    assert [reply.text for reply in more.written().values()].count("Other words") == 2


def test_stopped_it_ends_with_what_is_there_and_says_so():
    pool, stop = ScriptedPool("one two three", "one two three", pause=0.01), Stop()
    steps = served.perform(pool, asked("Count"), stop)
    for step in steps:
        if step.done >= 2:
            stop.press()
            break
    study = finish(steps)
    assert study.ended == "Stopped." and 2 <= study.report.results.done < 16
    stop = Stop()
    stop.press()
    with pytest.raises(UserError, match="Stopped before anything had come back"):
        perform(pool, asked("Count"), stop=stop)


def test_what_goes_wrong_is_told_with_what_there_is(monkeypatch):
    pool = ScriptedPool("It is Paris.", "It is Paris.")
    submit, count = pool.engines["post"].submit, iter(range(100))

    def failing(request, emit):
        if next(count) >= 3:
            raise UserError("This machine ran out of memory.")
        return submit(request, emit)

    monkeypatch.setattr(pool.engines["post"], "submit", failing)
    study = perform(pool, asked("Where?"))
    assert "out of memory" in study.ended and 0 < study.report.results.done < 16


def test_what_cannot_be_asked_is_refused_before_anything_is_run(monkeypatch):
    pool = ScriptedPool()
    monkeypatch.setattr(pool, "open", lambda *given: pytest.fail("nothing was to be loaded"))
    long = DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 32_768})
    with pytest.raises(UserError, match="at most 1,000,000 tokens here; take fewer seeds"):
        perform(pool, asked("Where?", seeds=64, sampling=long))
    with pytest.raises(UserError, match="no regular expression"):
        perform(pool, asked("Where?", checks=(read_check("regex:("),)))


def test_steps_that_come_too_soon_are_left_out_and_the_result_is_not():
    def work():
        yield from range(1_000)
        return "end"

    shown: list[int] = []
    assert finish(seldom(work(), 3600), shown.append) == "end"
    assert shown == [0]


# --- giving way ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    base, post = tiny.save_pair(tmp_path_factory.mktemp("pair"), context=512)
    settings = Settings(base=str(base), post=str(post), device="cpu", threads=1, slots=2)
    with Pool(settings, HuggingFaceHub()) as pool:
        yield pool


def test_a_visitor_beside_a_study_is_served_and_the_study_has_the_same_replies(pool, monkeypatch):
    pair = pool.default.id
    sampling = DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 300})
    study = asked("Tell me all of it", pairs=(pair,), sampling=sampling)
    visitor = Comparison(pair=pair, prompt="Me first", sampling=sampling, today="2026-01-02")
    again: list[int] = []

    with pool.wait(pair) as lease:
        alone, expected = perform(pool, study), compare(lease, visitor)
        for side in SIDES:
            put_back = lease.loaded[side].engine._scheduler._put_back
            lease.loaded[side].engine._scheduler._put_back = lambda job, put_back=put_back: (
                again.append(len(job.written)),
                put_back(job),
            )
        monkeypatch.setattr(pool, "_somebody_is_short", iter([*5 * [False], True, *10_000 * [False]]).__next__)
        left = perform(pool, study)
        assert {cell: reply.digest for cell, reply in left.written().items()} == {
            cell: reply.digest for cell, reply in alone.written().items()
        }, "what was broken off for somebody's memory comes again as it was"
        monkeypatch.undo()
        with ThreadPoolExecutor(1) as thread:
            beside = thread.submit(perform, pool, study)
            engines = [lease.loaded[side].engine for side in SIDES]
            while not all(len(engine._scheduler.writing[engine.shape.sizes[-1]]) == 2 for engine in engines):
                assert not beside.done(), "it has both slots of both models while it is alone"
            assert compare(lease, visitor).base.token_ids == expected.base.token_ids
            assert not beside.done() and again, "somebody gave way"
            done = beside.result()
    assert {cell: reply.digest for cell, reply in done.written().items()} == {
        cell: reply.digest for cell, reply in alone.written().items()
    }
    assert all(reply.margins == alone.written()[cell].margins for cell, reply in done.written().items())
