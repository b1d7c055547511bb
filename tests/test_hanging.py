"""A pass that hangs: whoever waits gets a sentence, the model goes on with a new engine over the same weights, and a second one ends the server.

What hangs here waits for an event, which is set at the end of a test, and the thread that was abandoned then ends.
"""

import os
import queue
import threading
import time
from types import SimpleNamespace

import pytest

import app
from core.cli import serve
from core.engine import Engine, Patience, WeightsDial
from core.engine.engine import HUNG
from core.engine.lane import Lane
from core.engine.watch import Abandoned, Watch
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.pool import Pool
from core.settings import Settings
from core.types import DEFAULT_SAMPLING, Failure, Finish, WrittenBy
from core.ui import page
from core.ui.compare import session
from core.ui.sidebar import Choices
from tests import tiny
from tests.engines import VOCABULARY, answer, bits, random_model, request, shape

SOON = 1.0  # seconds that a pass may take here


class Hang:
    """While it is on, passes of this kind wait in a lane until the end of the test."""

    def __init__(self, monkeypatch):
        self.model: object = None  # the only one that hangs, where it is named
        self._monkeypatch = monkeypatch
        self._released = threading.Event()
        self.threads: list[threading.Thread] = []
        self.on = False

    def of(self, part: str) -> None:
        real = getattr(Lane, part)

        def hangs(lane, *given):
            if self.on and self.model in (None, lane.model):
                self.threads.append(threading.current_thread())
                assert self._released.wait(60)
            return real(lane, *given)

        self._monkeypatch.setattr(Lane, part, hangs)

    def release(self) -> None:
        self._released.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def hang(monkeypatch):
    hang = Hang(monkeypatch)
    yield hang
    hang.release()


@pytest.mark.parametrize("part", ["read", "write"])
def test_whoever_waits_is_told_and_the_same_weights_go_on_in_a_new_engine_with_the_same_bits(hang, part):
    told: list[int] = []
    engine = Engine(
        random_model(), VOCABULARY, shape(slots=1), "eager", patience=Patience(SOON, lambda: told.append(1))
    )
    asked = request([1, 2], seed=3)
    expected = bits(answer(engine, asked)[0])
    hang.of(part)
    hang.on = True
    late: list = []
    replies = answer(engine, asked, request([4]))
    hang.on = False
    assert [events[-1] for events in replies] == [Failure(message=HUNG)] * 2
    assert engine.closed and engine.hung and told == [1]
    with pytest.raises(UserError, match="started again"):
        engine.submit(asked, late.append)
    new = engine.again()
    try:
        assert new.model is engine.model and bits(answer(new, asked)[0]) == expected
        seen = [list(events) for events in replies]
        hang.release()
        assert replies == seen, "what the abandoned thread still computed reached nobody"
        assert bits(answer(new, asked)[0]) == expected
    finally:
        new.close()
    engine.close()


def test_what_is_scored_when_a_pass_hangs_fails_too_and_who_closes_the_engine_waits_no_longer_than_for_that(hang):
    hang.of("score")
    engine = Engine(random_model(), VOCABULARY, shape(), "eager", patience=Patience(SOON))
    hang.on = True
    heard: list = []
    engine.score(range(20), 1, heard.append)
    while not hang.threads:
        time.sleep(0.01)
    engine.close()
    assert heard[-1] == Failure(message=HUNG) and hang.threads[0].is_alive()


def test_the_first_start_takes_as_long_as_it_takes_and_one_that_hangs_when_it_is_made_again_has_hung(hang):
    told: list[int] = []
    begin = threading.Timer(3 * 0.2, hang._released.set)
    hang.of("begin")
    hang.on = True
    begin.start()
    engine = Engine(random_model(), VOCABULARY, shape(), "eager", patience=Patience(0.2, lambda: told.append(1)))
    assert not engine.hung and told == []
    engine.close()
    hang._released.clear()
    engine._seconds_to_start = 0
    with pytest.raises(UserError, match="started again"):
        engine.again()
    assert told == [1]


@pytest.mark.parametrize("part, starting", [("write", False), ("begin", True)])
def test_a_mix_of_two_models_that_hangs_is_one_sentence_and_makes_way_for_the_next(hang, part, starting):
    told: list[int] = []
    patience = Patience(SOON, lambda: told.append(1))
    engines = [Engine(random_model(seed=n), VOCABULARY, shape(), "eager", patience=patience) for n in (1, 2)]
    for engine in engines:
        engine._seconds_to_start = 0
    dial = WeightsDial(engines[0], engines[1], 0.5, threading.Lock(), lambda: None)
    hang.of(part)
    hang.on = starting
    heard: queue.Queue = queue.Queue()

    def listen(event) -> None:
        hang.on = hang.on or isinstance(event, WrittenBy)
        heard.put(event)

    dial.submit(request([1, 2]), listen)
    events: list = []
    while not events or not isinstance(events[-1], Failure | Finish):
        events.append(heard.get(timeout=60))
    assert events[-1] == Failure(message=HUNG) and told == [1]
    assert dial.one_at_a_time.acquire(timeout=60)
    for engine in engines:
        engine.close()


def test_many_passes_that_end_are_no_hang_nor_is_a_time_in_which_nobody_looked(monkeypatch):
    """As where the machine slept: the clock went on, and the process did not."""
    given_up: list[int] = []
    each = Watch(lambda: given_up.append(1))
    looks = iter([False] * 5 + [True])
    monkeypatch.setattr(each, "_over", SimpleNamespace(wait=lambda seconds: next(looks)))
    each.run(each._look)
    assert not given_up
    looks = iter([False] * 100 + [True])
    other = lambda seconds: setattr(each, "_under_way", object()) or next(looks)  # noqa: E731 - another pass at each look
    monkeypatch.setattr(each, "_over", SimpleNamespace(wait=other))
    each._look()
    assert not given_up


def test_a_pass_that_ends_as_it_is_given_up_ends_in_one_way_alone():
    ended: list[int] = []
    each = Watch(lambda: ended.append(1))
    assert each.run(lambda: 5) == 5
    each._under_way = seen = object()
    assert each._given_up(seen)
    for work in (lambda: 5, lambda: 1 // 0):
        with pytest.raises(Abandoned):
            each.run(work)
    assert not Watch(lambda: None)._given_up(object()), "it has ended before"


@pytest.fixture
def pool(tmp_path):
    base, post = tiny.save_pair(tmp_path)
    settings = Settings(base=str(base), post=str(post), device="cpu", slots=1, hang_seconds=SOON, hang_again=600)
    pool = Pool(settings, HuggingFaceHub())
    yield pool
    pool.close()


@pytest.mark.slow
def test_the_pool_keeps_the_weights_and_the_page_the_prompt_and_a_second_hang_is_one_too_many(pool, hang):
    sampling = DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 5})
    choices = Choices(pair=pool.default.id, system="", sampling=sampling, framing_base="document", framing_post="chat")

    def ask(prompt: str) -> session.View:
        *_, view = session.compare(pool, (), prompt, choices)
        return view

    def ids(view: session.View, side) -> tuple[int, ...]:
        receipt = view.chat[0].receipt(side)
        assert receipt is not None
        return receipt.token_ids

    first = ask("One")
    with pool.wait(pool.default.id) as lease:
        before = lease
    hang.of("write")
    hang.model, hang.on = before.loaded["post"].model, True
    failed = ask("One")
    hang.on = False
    assert failed.notice == f"The post-trained side failed: {HUNG}" and failed.chat[0].turn.prompt == "One"
    assert ids(failed, "base") == ids(first, "base"), "the other model went on"
    assert pool.peek(pool.default.id) is None and not pool.stuck
    again = ask("One")
    assert again.notice == "" and ids(again, "post") == ids(first, "post")
    with pool.wait(pool.default.id) as lease:
        now, then = lease.loaded["post"], before.loaded["post"]
        assert now.model is then.model and now.engine is not then.engine
        assert lease.loaded["base"] is before.loaded["base"]
    hang.model, hang.on = None, True
    lost = ask("Two")
    hang.on = False
    assert (lost.chat, lost.box, lost.tone) == ((), "Two", "error") and lost.notice.count(HUNG) == 2
    assert pool.stuck


def test_two_hangs_far_from_each_other_are_none_too_many(pool):
    pool._hangs[:] = [0, 700, 1301]
    assert not pool.stuck
    pool._hangs.append(1900)
    assert pool.stuck


def test_a_server_whose_models_hang_twice_ends_with_a_status_that_asks_to_be_started_again(monkeypatch, capsys):
    did: list = []
    monkeypatch.setattr(Pool, "start_loading", lambda pool, id: None)
    monkeypatch.setattr(page, "build", lambda pool, *lesson: "page")
    monkeypatch.setattr(page, "launch", lambda demo, settings, **options: None)
    monkeypatch.setattr(page, "end", lambda demo, pool, grace: did.append(grace))
    monkeypatch.setattr(serve, "sleep", lambda seconds: pool_of.append(1))
    monkeypatch.setattr(serve, "_leave_at_latest", did.append)

    def exit(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", exit)
    pool_of: list[int] = []
    monkeypatch.setattr(Pool, "stuck", property(lambda pool: len(pool_of) == 3))
    with pytest.raises(SystemExit) as ended:
        app.main(["serve"])
    assert ended.value.code == 75 and did == [serve.GRACE + 10, serve.GRACE], "replies may end, but not for ever"
    assert "did not end" in capsys.readouterr().err
