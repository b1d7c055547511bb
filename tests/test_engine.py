"""The engine: what a request receives depends on the request alone."""

import platform
import queue
import random
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
import transformers

from core import __version__
from core.engine import Engine, Scored, certify, reference, sampling
from core.engine.lane import Lane
from core.engine.scheduler import Job, Scheduler, Score
from core.engine.slots import usable_context
from core.engine.step import Forward
from core.errors import UserError
from core.turns import Who
from core.types import Deviation, Failure, Finish, Queued, Started, Token
from tests.engines import (
    VOCABULARY,
    answer,
    bits,
    families,
    naive_reply,
    random_model,
    request,
    running,
    shape,
    tokens,
)


def varied_requests(count: int, seed: int, longest: int = 60) -> list:
    draw = random.Random(seed)
    return [
        request(
            [draw.randrange(VOCABULARY) for _ in range(draw.randrange(1, longest))],
            seed=draw.randrange(10_000),
            temperature=draw.choice([0, 0.7, 1.0, 1.5]),
            top_k=draw.choice([0, 20]),
            top_p=draw.choice([1.0, 0.9]),
            repetition_penalty=draw.choice([1.0, 1.2]),
            max_new_tokens=draw.randrange(1, 25),
        )
        for _ in range(count)
    ]


# --- equal to the definition, for every family ----------------------------------------------------


@pytest.mark.parametrize("attention", [pytest.param("eager", marks=pytest.mark.slow), "sdpa"])
@pytest.mark.parametrize("family", families())
def test_replies_equal_a_naive_decoder(family, attention):
    """Slots, chunked prefill, masks and positions change nothing: tokens equal a full forward per token without a cache.

    Prompts are longer than the sliding windows, and several requests share the slots.
    """
    if family == "Gemma 2" and attention == "sdpa":
        attention = "eager"  # caps its attention scores, which sdpa cannot do; the loader chooses eager for it too
    model = random_model(family, attention=attention)
    asked = [
        request(
            [(7 * i + 3 * n) % VOCABULARY for i in range(length)], seed=n, temperature=temperature, max_new_tokens=10
        )
        for n, (length, temperature) in enumerate([(1, 0.8), (16, 0), (17, 1.0), (45, 0.8), (70, 1.2), (33, 0)])
    ]
    with running(model, attention) as engine:
        replies = answer(engine, *asked)
        assert engine.level.together, (
            "tiny float32 models on one thread certify at the first level or at eager attention"
        )
    for each, events in zip(asked, replies, strict=True):
        expected = naive_reply(model, each)
        assert tokens(events) == [draw.token for draw in expected]
        got = [event.logprob for event in events if isinstance(event, Token)]
        assert got == pytest.approx([draw.logprob for draw in expected], abs=2e-4)


def test_bfloat16_replies_stay_close_to_the_definition():
    """In bfloat16 the shape of a pass changes rounding, so log-probabilities are compared, teacher-forced."""
    model = random_model(dtype=torch.bfloat16, attention="sdpa")
    asked = request(range(40), max_new_tokens=20, temperature=0.7)
    with running(model, "sdpa") as engine:
        events = answer(engine, asked)[0]
    ids = [*asked.token_ids, *tokens(events)]
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    expected = torch.log_softmax(logits, -1)[len(asked.token_ids) - 1 : -1].gather(
        1, torch.tensor(tokens(events))[:, None]
    )[:, 0]
    got = torch.tensor([event.logprob for event in events if isinstance(event, Token)], dtype=torch.float64)
    assert (got - expected).abs().max() < 0.1


# --- nothing depends on the neighbours ------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "attention"), [(torch.float32, "eager"), (torch.bfloat16, "sdpa")], ids=["float32", "bfloat16"]
)
def test_a_reply_does_not_depend_on_neighbours_order_slot_or_cancels(dtype, attention):
    model = random_model(dtype=dtype, attention=attention)
    asked = varied_requests(14, seed=5)
    with running(model, attention) as engine:
        assert engine.certified
        alone = [bits(answer(engine, each)[0]) for each in asked]
        for trial in range(3):
            order = list(range(len(asked)))
            random.Random(trial).shuffle(order)
            crowd = varied_requests(6, seed=100 + trial)
            cancelled = [engine.submit(each, lambda event: None) for each in crowd]
            for ticket in cancelled[::2]:
                ticket.cancel()
            together = answer(engine, *(asked[i] for i in order))
            for i, events in zip(order, together, strict=True):
                assert bits(events) == alone[i]


def reply_with_a_neighbour() -> list[tuple]:
    with running(random_model(dtype=torch.bfloat16, attention="sdpa"), "sdpa") as engine:
        asked = request(range(30), seed=77, temperature=1.0, max_new_tokens=30)
        return bits(answer(engine, asked, request([5], seed=1))[0])


@pytest.mark.slow
def test_a_reply_is_the_same_in_another_process():
    script = "from tests.test_engine import *; print(reply_with_a_neighbour())"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    here = reply_with_a_neighbour()
    assert len(here) == 30
    assert repr(here) == other.strip()


def test_reused_prefill_changes_no_bit():
    model = random_model()
    history, turn = list(range(70)), [3, 1, 4]
    with running(model) as engine:
        cold = answer(engine, request(history + turn, reuse=False))[0]
        answer(engine, request([*history, 9, 9]))
        warm = answer(engine, request(history + turn))[0]
    assert bits(warm) == bits(cold)
    assert warm[-1].usage.reused_tokens == 64, "four complete chunks of 16 of the shared history"
    assert cold[-1].usage.reused_tokens == 0
    assert warm[-1].usage.prefill_passes < cold[-1].usage.prefill_passes


def test_a_request_that_reuses_nothing_leaves_nothing_to_reuse():
    history = list(range(40))
    with running(random_model()) as engine:
        answer(engine, request(history, reuse=False))
        after = answer(engine, request([*history, 9]))[0]
        again = answer(engine, request([*history, 8]))[0]
    assert after[-1].usage.reused_tokens == 0
    assert again[-1].usage.reused_tokens == 32, "what an ordinary request read is kept"


def test_temperature_zero_ignores_the_seed():
    with running(random_model()) as engine:
        replies = answer(engine, *(request(range(9), temperature=0, seed=seed) for seed in range(5)))
    assert len({tuple(tokens(events)) for events in replies}) == 1


def test_another_seed_gives_another_reply():
    with running(random_model()) as engine:
        replies = answer(engine, *(request(range(9), temperature=1.2, seed=seed) for seed in range(5)))
    assert len({tuple(tokens(events)) for events in replies}) == 5


def test_starting_an_engine_does_not_change_the_bits_of_another():
    """Each worker sets its own thread count before it serves; nobody else's is touched."""
    with running(random_model()) as engine:
        asked = request(range(20), max_new_tokens=20)
        before = bits(answer(engine, asked)[0])
        threads = torch.get_num_threads()
        with running(random_model(seed=1), threads=2, slots=1, sizes=(32,)):
            assert bits(answer(engine, asked)[0]) == before
        assert torch.get_num_threads() == threads


def test_generation_touches_no_global_generator():
    state = torch.random.get_rng_state()
    with running(random_model()) as engine:
        answer(engine, request(range(5)))
    assert torch.equal(state, torch.random.get_rng_state())


# --- events, ends and costs ------------------------------------------------------------------------


def test_events_come_in_order_and_count_one_pass_for_each_token():
    with running(random_model()) as engine:
        events = answer(engine, request(range(20), max_new_tokens=8))[0]
    assert isinstance(events[0], Started)
    assert [event.step for event in events if isinstance(event, Token)] == list(range(8))
    usage = events[-1].usage
    assert (usage.prompt_tokens, usage.output_tokens) == (20, 8)
    assert usage.prefill_passes == 2, "two chunks of 16"
    assert usage.decode_passes == 7, "the first token comes from reading the prompt, every other from one pass"


def test_every_way_a_reply_can_end():
    model = random_model()
    with running(model) as engine:
        free = tokens(answer(engine, request(range(5), seed=3))[0])
        eos = answer(engine, request(range(5), seed=3, stop_ids=[free[4]]))[0]
        length = answer(engine, request(range(5), seed=3, max_new_tokens=4))[0]
        context = answer(engine, request(range(120), max_new_tokens=8))[0]
    assert eos[-1].reason == "eos"
    assert tokens(eos)[-1] == free[4]
    assert tokens(eos) == free[: free.index(free[4]) + 1]
    assert length[-1].reason == "length"
    assert context[-1].reason == "context", "prompt and reply together fill the context of 128"


def test_a_request_that_does_not_fit_is_refused_with_the_numbers():
    with (
        running(random_model()) as engine,
        pytest.raises(UserError, match=r"120 tokens .* 9, but the context holds 128"),
    ):
        engine.submit(request(range(120), max_new_tokens=9), lambda event: None)


def test_cancelling_keeps_what_was_written_and_frees_the_slot():
    with running(random_model(), slots=1) as engine:
        events, enough, done = [], threading.Event(), threading.Event()

        def listen(event) -> None:
            events.append(event)
            if isinstance(event, Token) and event.step == 3:
                enough.set()
            if isinstance(event, Finish):
                done.set()

        ticket = engine.submit(request(range(9), max_new_tokens=100), listen)
        assert enough.wait(30)
        ticket.cancel()
        ticket.cancel()
        assert done.wait(30)
        assert events[-1].reason == "stopped"
        assert 4 <= len(tokens(events)) < 100
        assert answer(engine, request(range(9)))[0][-1].reason == "length", "the only slot is free again"


def test_cancelling_in_the_queue_ends_the_wait():
    with running(random_model(), slots=1) as engine:
        first_done, second = threading.Event(), []
        engine.submit(
            request(range(9), max_new_tokens=100), lambda event: first_done.set() if isinstance(event, Finish) else None
        )
        ended = threading.Event()
        ticket = engine.submit(
            request(range(9)), lambda event: (second.append(event), ended.set() if isinstance(event, Finish) else None)
        )
        ticket.cancel()
        assert ended.wait(30)
        assert second[-1].reason == "stopped"
        assert tokens(second) == []
        assert first_done.wait(30)


def test_cancelling_behind_a_reply_that_waits_for_its_token_wakes_the_engine():
    with running(random_model(), slots=1) as engine:
        held: queue.Queue = queue.Queue()
        heard: queue.Queue = queue.Queue()
        steering = engine.steer(request([1, 2]), held.put)
        while not isinstance(held.get(timeout=60), torch.Tensor):
            pass
        ticket = engine.submit(request([3]), heard.put)
        assert heard.get(timeout=60) == Queued(ahead=0)
        time.sleep(0.1)  # now it sleeps
        ticket.cancel()
        assert heard.get(timeout=60).reason == "stopped"
        steering.cancel()
        assert held.get(timeout=60).reason == "stopped"


def test_those_who_wait_are_told_how_many_are_ahead():
    with running(random_model(), slots=1) as engine:
        replies = answer(engine, *(request([i], max_new_tokens=3) for i in range(4)))
    positions = [[event.ahead for event in events if isinstance(event, Queued)] for events in replies]
    assert positions[3] == [2, 1, 0]


def test_one_failing_listener_does_not_disturb_the_others():
    with running(random_model()) as engine:
        expected = bits(answer(engine, request(range(8)))[0])

        def broken(event) -> None:
            raise RuntimeError("this listener is broken")

        engine.submit(request(range(30), max_new_tokens=50), broken)
        assert bits(answer(engine, request(range(8)))[0]) == expected


class NotANumberSometimes(torch.nn.Module):
    """Turns a row's logits into NaN where its most likely token is one of some."""

    def __init__(self, lm_head: torch.nn.Module):
        super().__init__()
        self.lm_head = lm_head
        self.weight = lm_head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(hidden)
        return torch.where(logits.argmax(-1, keepdim=True) % 16 == 7, torch.nan, logits)


def test_a_row_that_is_not_a_number_fails_alone(monkeypatch):
    model = random_model()
    greedy = [request([i, 2], temperature=0, max_new_tokens=20) for i in range(20)]
    healthy = {i: naive_reply(model, each) for i, each in enumerate(greedy)}
    model.lm_head = NotANumberSometimes(model.lm_head)
    fine = Deviation(nats=0, bound=1, token=1)  # a model that always did so would be refused
    monkeypatch.setattr(reference, "deviation", lambda *given: fine)
    with running(model) as engine:
        replies = answer(engine, *greedy)
    poisoned = [i for i, draws in healthy.items() if any(draw.token % 16 == 7 for draw in draws)]
    assert 0 < len(poisoned) < len(greedy), "the test needs both kinds"
    for i, events in enumerate(replies):
        if i in poisoned:
            assert isinstance(events[-1], Failure)
            assert "not a number" in events[-1].message
        else:
            assert tokens(events) == [draw.token for draw in healthy[i]]


def test_closing_stops_what_is_written_with_what_it_has_and_fails_the_rest_in_one_sentence():
    engine = Engine(random_model(), VOCABULARY, shape(slots=1), "eager")
    events: list = []
    waiting: list = []

    def listen(event) -> None:
        events.append(event)
        if isinstance(event, Token) and event.step == 2:
            engine.close()

    engine.submit(request(range(9), max_new_tokens=110), listen)
    engine.submit(request(range(9), max_new_tokens=110), waiting.append)
    engine._worker.join(30)
    assert [type(event) for event in events[-2:]] == [Token, Finish]
    assert events[-1].reason == "stopped" and events[-1].usage.output_tokens == 3
    assert isinstance(waiting[-1], Failure) and "ask again in a minute" in waiting[-1].message
    with pytest.raises(UserError, match="unloaded"):
        engine.submit(request([1]), events.append)


def test_a_draw_that_fails_ends_its_own_reply_and_the_engine_goes_on(monkeypatch):
    real = sampling.draw

    def fails_for_seed_13(logits, seen, rows, steps):
        if any(row.seed == 13 for row in rows) and steps[0] > 2:
            raise RuntimeError("out of luck")
        return real(logits, seen, rows, steps)

    monkeypatch.setattr(sampling, "draw", fails_for_seed_13)
    with running(random_model()) as engine:
        unlucky, lucky = answer(engine, request([1, 2], seed=13), request([1, 2], seed=14))
        assert isinstance(unlucky[-1], Failure) and "out of luck" in unlucky[-1].message
        assert isinstance(lucky[-1], Finish)
        assert isinstance(answer(engine, request([3], seed=1))[0][-1], Finish)


def failing(monkeypatch, part: str, when) -> None:
    """This part of a lane fails whenever `when(lane, *arguments)` says so."""
    real = getattr(Lane, part)

    def fails(lane, *arguments):
        if when(lane, *arguments):
            raise RuntimeError("this pass is broken")
        return real(lane, *arguments)

    monkeypatch.setattr(Lane, part, fails)


def test_a_prompt_that_cannot_be_read_fails_alone_and_frees_its_slot(monkeypatch):
    failing(monkeypatch, "read", lambda lane, token_ids, start: tuple(token_ids[:3]) == (150, 0, 1) and start == 16)
    with running(random_model(), slots=1) as engine:
        broken, whole = answer(engine, request([150, *range(20)]), request(range(20)))
    assert [type(event) for event in broken if not isinstance(event, Queued)] == [Started, Failure]
    assert "this pass is broken" in broken[-1].message
    assert whole[-1].reason == "length"


def test_a_pass_that_fails_ends_the_replies_of_its_lane_and_no_others(monkeypatch):
    broken = threading.Event()
    broken.set()
    certified = threading.Event()
    failing(monkeypatch, "write", lambda lane, *_: certified.is_set() and broken.is_set() and lane.length == 64)
    with running(random_model()) as engine:
        certified.set()
        one, another, longer = answer(engine, request([1]), request([2]), request(range(60), max_new_tokens=40))
        assert all("this pass is broken" in events[-1].message for events in (one, another))
        assert longer[-1].reason == "length"
        broken.clear()
        assert [events[-1].reason for events in answer(engine, *[request([1])] * 5)] == ["length"] * 5


def test_a_score_that_fails_is_one_sentence_and_makes_way(monkeypatch):
    failing(monkeypatch, "score", lambda lane, cache, token_ids, start, first: 150 in token_ids and start == 16)
    news: queue.Queue = queue.Queue()
    with running(random_model()) as engine:
        engine.score([150, *range(40)], 1, news.put)
        got = [news.get(timeout=60) for _ in range(3)]
        assert [type(each) for each in got] == [Started, Scored, Failure] and "this pass is broken" in got[-1].message
        engine.score(range(10), 1, news.put)
        assert [type(news.get(timeout=60)) for _ in range(2)] == [Started, Scored]


def test_a_model_that_cannot_run_at_all_says_so_where_its_engine_is_made(monkeypatch):
    failing(monkeypatch, "begin", lambda lane: True)
    with pytest.raises(UserError, match=r"\(RuntimeError: this pass is broken\); choose another model"):
        Engine(random_model(), VOCABULARY, shape(), "eager")


def test_one_draw_for_all_slots_gives_the_bits_of_a_draw_for_each():
    """A GPU draws for all slots at once, a processor for one after the other."""
    asked = varied_requests(6, seed=4)
    with running(random_model(), slots=3) as engine:
        one_by_one = [bits(events) for events in answer(engine, *asked)]
        engine._draw_all_slots = True
        assert [bits(events) for events in answer(engine, *asked)] == one_by_one


def test_a_request_that_comes_while_the_worker_ends_fails_too(monkeypatch):
    engine = Engine(random_model(), VOCABULARY, shape(slots=1), "eager")
    monkeypatch.setattr(engine, "_check", lambda token_ids: engine.close())  # closes between the check and the queue
    events: list = []
    engine.submit(request([1]), events.append)
    assert isinstance(events[-1], Failure)


def test_negative_ids_are_refused():
    with running(random_model()) as engine, pytest.raises(UserError, match="Token -1 is not"):
        engine.submit(request([1, -1]), lambda event: None)


# --- certification -----------------------------------------------------------------------------------


class Sociable(torch.nn.Module):
    """An output layer whose rows see each other, as a kernel that reduces over the batch would."""

    def __init__(self, lm_head: torch.nn.Module):
        super().__init__()
        self.lm_head = lm_head
        self.weight = lm_head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(hidden)
        return logits + 1e-6 * logits.mean(dim=0, keepdim=True)


def test_certification_catches_a_model_whose_rows_depend_on_each_other_and_steps_down():
    model = random_model()
    model.lm_head = Sociable(model.lm_head)
    with running(model) as engine:
        assert engine.certified
        assert not engine.level.together, "only one row at a time is left"
        assert "one pass for each slot" in engine.info().certification
        asked = varied_requests(5, seed=2)
        alone = [bits(answer(engine, each)[0]) for each in asked]
        assert [bits(events) for events in answer(engine, *asked)] == alone


def test_a_start_tells_how_far_its_checks_are_and_forgets_whom():
    shares = list[float]()
    tell = shares.append
    engine = Engine(random_model(), VOCABULARY, shape(), "eager", progress=tell)
    try:
        assert shares == [each / 6 for each in range(1, 7)], "two lanes, each made, tried, and held against the model"
        assert not any(value is tell for value in vars(engine).values())
    finally:
        engine.close()


def test_a_model_that_cannot_be_certified_says_so(monkeypatch):
    monkeypatch.setattr(certify, "neighbours_do_not_matter", lambda lane, **given: False)
    with running(random_model()) as engine:
        assert not engine.certified
        assert not engine.info().certified
        assert "not certified" in engine.info().certification
        assert answer(engine, request([1]))[0][-1].reason == "length", "it still answers"


def test_the_caches_of_a_level_that_failed_are_gone_before_those_of_the_next_are_made(monkeypatch):
    """On a GPU that a pair fills there is no room for both."""
    monkeypatch.setattr(certify, "neighbours_do_not_matter", lambda lane, **given: False)
    made: list[tuple[certify.Level, weakref.ref]] = []
    new_lane = Engine._new_lane

    def counted(engine, size, *shared):
        left = [level for level, lane in made if lane() is not None and level != engine.level]
        assert left == [], "lanes of an earlier level are still there"
        lane = new_lane(engine, size, *shared)
        made.append((engine.level, weakref.ref(lane)))
        return lane

    monkeypatch.setattr(Engine, "_new_lane", counted)
    with running(random_model()):
        assert {level.together for level, _ in made} == {True, False}


def test_levels_step_down_to_eager_then_one_thread_then_one_row():
    assert [(level.attention, level.threads, level.together) for level in certify.levels("sdpa", 4)] == [
        ("sdpa", 4, True),
        ("eager", 4, True),
        ("eager", 1, True),
        ("eager", 1, False),
    ]


# --- recorded steps ----------------------------------------------------------------------------------


def test_a_recorded_step_gives_the_bits_of_the_model():
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        model = random_model()
        lane = Lane(model, slots=3, length=64, chunk=16, vocabulary=VOCABULARY, attention="eager")
        assert lane.step(1).recorded, "a Llama can be recorded"
        plain = Forward(model, lane.masks, lane._writing[0])
        for step in range(5):
            ids, positions = torch.tensor([[step], [9], [40]]), torch.tensor([[step], [step + 3], [60]])
            tensors = lane._writing[0].tensors()
            assert torch.equal(plain(ids, positions, *tensors), lane.step(1)(ids, positions, lane._writing[0]))


class Moody(torch.nn.Module):
    """An output layer that decides in Python what to compute, which no recording can follow."""

    def __init__(self, lm_head: torch.nn.Module):
        super().__init__()
        self.lm_head = lm_head
        self.weight = lm_head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(hidden)
        return logits if float(logits[0, -1, 0]) > 0 else logits + 1


def test_a_step_that_a_recording_cannot_follow_is_called_from_python():
    model = random_model()
    model.lm_head = Moody(model.lm_head)
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        lane = Lane(model, slots=2, length=64, chunk=16, vocabulary=VOCABULARY, attention="eager")
        assert lane.step(1).asked and not lane.step(1).recorded, "nobody tries it again"


# --- the scheduler -----------------------------------------------------------------------------------


def job(size: int = 64) -> Job:
    return Job(request([1, 2, 3]), size, 128, lambda event: None)


def test_requests_are_read_in_the_order_they_came_and_one_at_a_time():
    scheduler = Scheduler((64,), slots=2)
    jobs = [job() for _ in range(3)]
    for each in jobs:
        scheduler.add(each)
    assert scheduler.next_to_read() is jobs[0]
    assert scheduler.next_to_read() is jobs[0], "until its prompt is read"
    scheduler.start_writing(jobs[0])
    assert scheduler.next_to_read() is jobs[1]
    scheduler.start_writing(jobs[1])
    assert scheduler.next_to_read() is None, "both slots are taken"
    scheduler.release(jobs[0])
    assert scheduler.next_to_read() is jobs[2]
    assert jobs[2].slot == 0


def test_a_full_lane_does_not_hold_up_another():
    scheduler = Scheduler((64, 128), slots=1)
    long_one, short_one, other = job(128), job(128), job(64)
    for each in (long_one, short_one, other):
        scheduler.add(each)
    scheduler.start_writing(scheduler.next_to_read())
    assert scheduler.next_to_read() is other


def test_a_lane_is_chosen_from_the_request_alone():
    scheduler = Scheduler((64, 128), slots=1)
    assert [scheduler.size_for(tokens) for tokens in (1, 64, 65, 128, 129)] == [64, 64, 128, 128, None]


def score() -> Score:
    return Score((1, 2, 3), 1, 64, lambda news: None)


def test_scores_take_turns_and_one_that_waits_for_its_taker_lets_nobody_pass():
    scheduler = Scheduler((64,), slots=1)
    first, second = score(), score()
    scheduler.scores += [first, second]
    assert scheduler.next_to_score() is first and not scheduler.idle
    first.started, first.allowed = True, 0
    assert scheduler.next_to_score() is None and scheduler.idle, "both of its chunks wait to be taken"
    first.allowed += 1
    assert scheduler.next_to_score() is first and not scheduler.idle
    first.cancelled = True
    second.allowed = 0
    assert scheduler.next_to_score() is second, "its start is not counted"
    second.cancelled = True
    assert scheduler.next_to_score() is None and scheduler.idle and not scheduler.scores


def test_scores_are_read_for_one_visitor_after_the_other_however_many_each_has():
    greedy, pupil, other = Who("a", "greedy"), Who("a", "pupil"), Who("b", "other")
    scheduler = Scheduler((64,), slots=1)
    order = []
    for who in [greedy] * 4 + [pupil, other, other]:
        scheduler.scores.append(score())
        scheduler.scores[-1].who = who
    scheduler.scores[1].cancelled = True
    while (under_way := scheduler.next_chunk()) is not None:
        order.append(under_way.who)
        under_way.started = True
        assert scheduler.next_chunk() is under_way, "one that has begun goes on"
        under_way.cancelled = True
        if len(order) == 3:
            scheduler.scores.append(score())
            scheduler.scores[-1].who = Who("late", "late")
    assert order == [greedy, other, pupil, Who("late", "late"), other, greedy, greedy]
    assert scheduler._scored == [] and scheduler.idle


def test_a_score_gets_every_fourth_chunk_however_many_prompts_there_are():
    scheduler, asked = Scheduler((64,), slots=1), score()
    scheduler.add(job())
    assert {type(scheduler.next_chunk()) for _ in range(9)} == {Job}, "nobody asks for a score"
    scheduler.scores.append(asked)
    chunks = [type(scheduler.next_chunk()) for _ in range(12)]
    assert chunks == 3 * [Job, Job, Job, Score]
    asked.started, asked.allowed = True, 0
    assert scheduler.next_chunk() is scheduler.reading, "its chunks wait to be taken"


def test_releasing_leaves_no_trace():
    scheduler = Scheduler((64,), slots=1)
    waiting, reading = job(), job()
    scheduler.add(reading)
    scheduler.next_to_read()
    scheduler.add(waiting)
    scheduler.release(waiting)
    scheduler.release(reading)
    assert scheduler.idle


def test_an_idle_engine_does_not_use_the_processor():
    with running(random_model()) as engine:
        answer(engine, request([1]))
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.2


def test_the_fingerprint_says_with_what_the_engine_runs():
    with running(random_model(dtype=torch.bfloat16), attention="sdpa", slots=3, threads=1) as engine:
        info = engine.info()
    assert (info.sampler, info.dtype, info.slots, info.lane_sizes, info.chunk) == ("v1", "bfloat16", 3, (64, 128), 16)
    assert (info.attention, info.threads) == (engine.level.attention, engine.level.threads)
    assert info.device.split() == ["cpu", platform.machine(), torch.backends.cpu.get_cpu_capability()]
    assert info.versions == {
        "same-seed": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    assert info.certified == (info.certification == engine.level.description)


# --- what a model's configuration says -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_rotary_embedding_that_looks_at_the_longest_row_ends_the_context_where_it_begins_to(kind):
    """Both are found: in the parameters of the embedding, as newer configurations have it, or beside them."""

    def config(**changes) -> SimpleNamespace:
        return SimpleNamespace(**{"max_position_embeddings": 4096, "rope_parameters": {"rope_type": kind}, **changes})

    inside = {"rope_type": kind, "original_max_position_embeddings": 512}
    assert usable_context(config(rope_parameters=inside)) == 512
    assert usable_context(config(original_max_position_embeddings=1024)) == 1024
    assert usable_context(config(rope_parameters={**inside, "original_max_position_embeddings": 8192})) == 4096
    assert usable_context(config()) == 4096
    for other in ({"rope_type": "linear", "original_max_position_embeddings": 512}, None):
        assert usable_context(config(rope_parameters=other)) == 4096


def test_a_configuration_without_a_limit_has_that_of_its_family_or_the_general_one():
    assert usable_context(transformers.MptConfig(max_seq_len=512)) == 512
    assert usable_context(transformers.OPTConfig(max_position_embeddings=2048)) == 2048
    assert usable_context(transformers.BloomConfig()) == usable_context(transformers.MambaConfig()) == 2**20
    assert usable_context(transformers.Llama4TextConfig()) == 8191, "from there on it goes by the length of the cache"
