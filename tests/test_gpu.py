"""The product on a GPU that is not there: every reply is the processor's, nobody waits where nobody must, and memory comes back."""

import itertools
import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import dispatch_model

from benchmarks import families
from core import what_if
from core.checkpoints import budget, loading, memory
from core.engine import certify, device, reference, sampling
from core.engine.ahead import EVERY, PLAIN, Ahead
from core.engine.device import Placement
from core.engine.engine import Engine, Scored, Shape
from core.engine.lane import Lane
from core.engine.step import Forward, Graph, Graphs, record
from core.engine.warpers import Numbers
from core.errors import NotEnoughMemory, UserError
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.local import LocalLease
from core.new_process import NewProcesses
from core.pool import Pool
from core.run import compare
from core.settings import Settings
from core.types import DEFAULT_SAMPLING, Deviation, Dial, DrawDivergence, Event, Finish, Queued, Request, Token
from tests import pairs, tiny
from tests.engines import LAYERED, VOCABULARY, answer, bits, random_model, request, running
from tests.pairs import comparison, tiny_lease, whole
from tests.pretend_gpu import (
    Gpu,
    MemoryKept,
    MixedDevices,
    NotCapturable,
    NotRepeatable,
    OnGpu,
    Raced,
    Waited,
    pretend_gpu,
)

ASKED = (
    request([5, 6, 7, 8], seed=1),
    request(range(3, 40), seed=2, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2),
    request([9], temperature=0),
    request(range(50, 70), seed=3, top_p=0.5),
)
WARPERS = {"top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}


@contextmanager
def gpu_for_engines(size: int = 2**28, cards: int = 1) -> Iterator[Gpu]:
    """Passes must not wait, of whichever engine, but where one is recorded."""
    with pretend_gpu(size, cards) as gpu:

        def without_waits(method: Callable[..., Any], none: bool = True) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                with gpu.no_waits(none):
                    return method(*arguments)

            return run

        passes: dict[str, Any] = {
            name: without_waits(getattr(Lane, name)) for name in ("read", "write", "score", "adopt")
        }
        with ExitStack() as patched:
            patched.enter_context(mock.patch.multiple(Lane, **passes))
            patched.enter_context(mock.patch.object(Ahead, "begin", without_waits(Ahead.begin)))
            patched.enter_context(mock.patch.object(Graphs, "_record", without_waits(Graphs._record, none=False)))
            yield gpu


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """Left when the test's own variables are gone: what is still on the GPU then is kept by the product."""
    with gpu_for_engines() as gpu:
        yield gpu


@contextmanager
def engine_on(gpu: Gpu, seed: int = 0, sizes: tuple[int, ...] = (64,), slots: int = 4) -> Iterator[Engine]:
    model = gpu.move(random_model("Qwen3", seed=seed))
    with running(model, sizes=sizes, slots=slots) as engine:
        yield engine


@contextmanager
def lease_on(gpu: Gpu):
    made = pairs.Engine
    with mock.patch.object(pairs, "Engine", lambda model, *rest: made(gpu.move(model), *rest)), tiny_lease() as lease:
        yield lease


# --- the engine ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_replies_are_those_of_the_processor_and_the_engine_is_certified(gpu):
    with running(random_model("Qwen3"), sizes=(64, 128)) as engine:
        expected = [bits(events) for events in answer(engine, *ASKED)]
    with engine_on(gpu, sizes=(64, 128)) as engine:
        assert engine.device.type == "cuda" and engine._draw_all_slots
        assert engine.certified and engine.deviation.within
        assert engine.info().device == "a GPU that is not there, compute capability 9.0"
        assert [bits(events) for events in answer(engine, *ASKED)] == expected


def test_a_step_waits_once_for_what_was_drawn_and_for_nothing_else(gpu):
    """It was two waits for a pass and four to twelve for a draw."""
    with engine_on(gpu) as engine:
        for settings in ({}, {"temperature": 0}, WARPERS):
            gpu.clear()
            [events] = answer(engine, request([5, 6, 7], max_new_tokens=9, reuse=False, **settings))
            assert len(bits(events)) == gpu.total("wait") == 9, dict(gpu.counts)


def writing_moves(gpu: Gpu, lane: Lane) -> int:
    """Bytes that one step moves to write its keys and values."""
    torch.cuda.synchronize()  # what the engine did, on its own stream
    gpu.clear()
    with torch.inference_mode():
        lane.write([1] * lane.slots, [lane.length - 1] * lane.slots)  # so that it looks at all of it
    torch.cuda.synchronize()
    return gpu.moved("kernel:index_put") + gpu.moved("kernel:copy for index_put")


@pytest.mark.slow
def test_a_cache_is_not_copied_to_be_written(gpu):
    """Under torch's flag for determinism every write would copy all of it there and back."""
    with engine_on(gpu, sizes=(256,)) as engine:
        lane = engine._lanes[256]
        cache = sum(tensor.nbytes for tensor in lane._writing[0].tensors())
        device.deterministic_cuda()
        assert writing_moves(gpu, lane) < cache / 100
        torch.use_deterministic_algorithms(True)
        assert writing_moves(gpu, lane) > 4 * cache


@pytest.mark.slow
def test_engines_compute_on_streams_of_their_own(gpu):
    streams, draw = [], sampling.draw

    def noted(*given):
        streams.append(gpu.stream)
        return draw(*given)

    with engine_on(gpu) as one, engine_on(gpu, seed=2) as two, mock.patch.object(sampling, "draw", noted):
        for engine in (one, two):
            answer(engine, ASKED[0])
    assert len(set(streams)) == 2 and gpu.default not in streams


def scored(engine: Engine) -> None:
    """Logits read on the default stream, while the engine goes on on its own."""
    ids, rows, news = list(range(40)), 0, queue.SimpleQueue[Any]()
    scoring = engine.score(ids, 1, news.put)
    while rows < len(ids) - 1:
        if isinstance(heard := news.get(timeout=60), Scored):
            rows += len(heard.logits)
            assert torch.log_softmax(heard.logits.double(), -1).sum(1).isfinite().all()
            scoring.more()
    scoring.cancel()


@pytest.mark.slow
def test_logits_that_are_handed_over_can_be_used_on_another_stream(gpu):
    with engine_on(gpu) as engine:
        scored(engine)


# --- steps that draw on the device --------------------------------------------------------------------


def kernels(gpu: Gpu, engine: Engine, tokens: int, **settings) -> int:
    """How many are started one by one for a reply of so many tokens."""
    gpu.clear()
    [events] = answer(engine, request([5, 6, 7], max_new_tokens=tokens, reuse=False, **settings))
    assert len(bits(events)) == tokens == gpu.counts["graph"], (
        "the prompt is read by one, and its first token drawn from that"
    )
    return gpu.total("kernel")


def test_a_step_with_its_draw_is_one_graph(gpu):
    with engine_on(gpu) as engine:
        assert engine.info().certification.endswith(", a graph for each step")
        for settings in ({}, {"temperature": 0}, WARPERS):
            four_steps = kernels(gpu, engine, 9, **settings) - kernels(gpu, engine, 5, **settings)
            assert four_steps == 4 * 2, "what is given goes in, and the logits are kept"


def on_both(gpu: Gpu, *asked: Request, slots: int = 2) -> tuple[list[list[Event]], list[list[Event]]]:
    """What is heard on the processor and on the GPU."""
    with running(random_model("Qwen3"), sizes=(64,), slots=slots) as engine:
        here = heard(engine, *asked)
    with engine_on(gpu, slots=slots) as engine:
        return here, heard(engine, *asked)


def heard(engine: Engine, *asked: Request) -> list[list[Event]]:
    """Of each request every event, without what time says."""
    seconds = dict.fromkeys(("seconds_queued", "seconds_to_first_token", "seconds_decoding"), 0.0)
    found: list[list[Event]] = []
    for events in answer(engine, *asked):
        found.append([])
        for event in events:
            if isinstance(event, Finish):
                found[-1].append(event.model_copy(update={"usage": event.usage.model_copy(update=seconds)}))
            elif not isinstance(event, Queued):
                found[-1].append(event)
    return found


ENDING = [request([5 + i, 6], seed=i, stop_ids=range(0, 80 * i, 7), max_new_tokens=9 + i) for i in range(6)]


@pytest.mark.slow
def test_what_follows_the_end_of_a_reply_is_for_nobody(gpu):
    """Its slot goes to the next at once, and passes are those of the replies alone."""
    here, there = on_both(gpu, *ENDING)
    assert there == here and {events[-1].reason for events in there} == {"eos", "length"}


@pytest.mark.slow
def test_what_the_device_foresees_is_only_a_guess(gpu, monkeypatch):
    asked = [request([5, 6, 7], seed=1, **WARPERS), request(range(20), seed=2, **WARPERS)]
    here, _ = on_both(gpu, *asked)
    foreseen = sampling.foreseen
    monkeypatch.setattr(sampling, "foreseen", lambda *given: (foreseen(*given) + 1) % VOCABULARY)
    gpu.clear()
    with engine_on(gpu, slots=2) as engine:
        assert heard(engine, *asked) == here
    assert gpu.counts["graph"] > 20, "each step twice, once with the wrong token"


@pytest.mark.slow
def test_where_more_must_be_looked_at_it_is(gpu, monkeypatch):
    monkeypatch.setattr(sampling, "drawn", lambda *given: None)
    here, there = on_both(gpu, request([5, 6, 7], seed=1), request([9, 8], seed=2, top_k=2000))
    assert there == here


@pytest.mark.slow
def test_a_token_that_was_not_expected_is_told_as_on_the_processor(gpu):
    asked = ASKED[1].model_copy(update={"expected": (1, 2, 3, 4, 5, 6)})
    here, there = on_both(gpu, asked)
    assert there == here and sum(isinstance(event, DrawDivergence) for event in here[0]) > 3


def interrupting(engine: Engine, first: Request, second: Request) -> tuple[list[Event], list[Event]]:
    """What is heard of two requests, of which the second comes when the first has four tokens."""
    told: tuple[list[Event], list[Event]] = ([], [])
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def listener(mine: int) -> Callable[[Event], None]:
        def take(event: Event) -> None:
            told[mine].append(event)
            if mine == 0 and isinstance(event, Token) and len(bits(told[0])) == 4:
                engine.submit(second, listener(1))
            if isinstance(event, Finish):
                done.put(None)

        return take

    engine.submit(first, listener(0))
    for _ in told:
        done.get(timeout=120)
    return told


@pytest.mark.slow
def test_a_step_that_is_under_way_for_who_gives_way_is_for_nobody(gpu):
    gives_way = request([5, 6, 7], seed=1, max_new_tokens=30).model_copy(update={"gives_way": True})
    other = request([9, 8], seed=2, max_new_tokens=3)
    with running(random_model("Qwen3"), sizes=(64,), slots=1) as engine:
        expected = [bits(*answer(engine, each)) for each in (gives_way, other)]
    with engine_on(gpu, slots=1) as engine:
        first, second = interrupting(engine, gives_way, other)
    assert bits(second) == expected[1] and bits(first)[-30:] == expected[0] and len(bits(first)) > 30


@pytest.mark.slow
def test_a_steered_reply_and_another_share_a_lane(gpu):
    other = request([5, 6, 7], seed=1, max_new_tokens=40)
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with running(random_model("Qwen3"), sizes=(64,)) as engine:
        [alone] = answer(engine, other)
    with engine_on(gpu) as engine:
        steering = engine.steer(request([9, 8], max_new_tokens=5), news.put)
        done: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        given, events = 0, list[Event]()
        engine.submit(other, lambda event: (events.append(event), isinstance(event, Finish) and done.put(events)))
        while not isinstance(new := news.get(timeout=120), Finish):
            if isinstance(new, torch.Tensor):
                given += 1
                steering.give(7)
        assert given == 5 and bits(done.get(timeout=120)) == bits(alone)
        assert gpu.counts["graph"], "when the steered one has ended"


@pytest.mark.slow
def test_a_model_with_states_draws_on_the_device_and_looks_before_it_goes_on(gpu):
    asked = [request([5, 6, 7], seed=1, max_new_tokens=6), request(range(20), seed=2, max_new_tokens=6)]
    config = families.tiny(LAYERED["LFM2"])
    with running(families.random_model(config, torch.float32, "eager"), sizes=(64,), slots=2) as engine:
        expected = [bits(events) for events in answer(engine, *asked)]
    there = gpu.move(families.random_model(config, torch.float32, "eager"))
    with running(there, sizes=(64,), slots=2) as engine:
        assert engine.info().certification.endswith(", a graph for each step")
        assert [bits(events) for events in answer(engine, *asked)] == expected


# --- over what is used --------------------------------------------------------------------------------


def attended(gpu: Gpu) -> int:
    """Bytes that attention has moved in graphs since they were counted from nothing, with copies of keys and values where it makes some."""
    return sum(
        count
        for what, count in gpu.bytes.items()
        if what.startswith(("replayed:scaled_dot", "replayed:reshape", "replayed:clone"))
    )


def last_step_moves(gpu: Gpu, engine: Engine, used: int) -> int:
    """What attention moves in the step after which a reply has so many positions: by what a longer reply moves more."""
    moved = []
    for tokens in (2, 3, 2, 3):  # the first two make the graphs
        gpu.clear()
        answer(engine, request([i % VOCABULARY for i in range(used - 2)], max_new_tokens=tokens))
        moved.append(attended(gpu))
    return moved[3] - moved[2]


@pytest.mark.slow
def test_a_step_reads_at_most_half_as_much_again_as_its_longest_row_has(gpu):
    """It was the whole lane, four times as much as the longest row of the next shorter lane has."""
    model = gpu.move(random_model("Qwen3", attention="sdpa"))
    with running(model, "sdpa", sizes=(256,), slots=2) as engine:
        assert engine.level.near and engine.info().certification.startswith(
            "sdpa attention, 1 thread, all slots in one pass over what is used"
        )
        lane = engine._lanes[256]
        assert lane.lengths == [128, 192, 256]
        for used in (129, 191, 193, 250):
            moved = last_step_moves(gpu, engine, used)
            needed = lane.slots * used * lane.cache_bytes.position
            assert needed < moved < 1.5 * needed + 10_000


@pytest.mark.slow
def test_replies_of_every_length_are_those_of_the_processor(gpu):
    """Graphs are made while others are served: what they are tried with leaves nothing behind."""
    asked = [
        request([3 * i % VOCABULARY for i in range(length)], seed=length, **settings)
        for length, settings in ((122, {}), (5, WARPERS), (170, WARPERS))
    ]
    with running(random_model("Qwen3"), sizes=(256,)) as engine:
        expected = [bits(events) for events in answer(engine, *asked)]
    with engine_on(gpu, sizes=(256,)) as engine:
        assert engine.level.near
        assert [bits(events) for events in answer(engine, *asked)] == expected
        assert {key[0] for key in engine._lanes[256]._graphs._steps if isinstance(key, tuple)} == {128, 192, 256}


@pytest.mark.slow
def test_where_a_bit_depends_on_how_far_is_looked_steps_look_at_the_whole_lane(gpu, monkeypatch):
    forward = Forward.forward

    def by_length(step, ids, positions, *tensors):
        return forward(step, ids, positions, *tensors) + 1e-5 * tensors[0].shape[2]

    monkeypatch.setattr(Forward, "forward", by_length)
    with engine_on(gpu, sizes=(256,), slots=2) as engine:
        assert engine.certified and not engine.level.near and engine._lanes[256].lengths == [256]


@pytest.mark.slow
def test_a_chunk_of_a_prompt_is_one_graph_and_what_is_kept_of_it_is_on_the_gpu(gpu):
    with engine_on(gpu) as engine:
        asked = request(range(40), max_new_tokens=1, reuse=False)
        answer(engine, asked)
        gpu.clear()
        answer(engine, asked)
        assert gpu.counts["graph"] == 3, "of 16 tokens each, the last one padded"
        store = engine._lanes[64].store
        kept = asked.model_copy(update={"reuse": True})
        first, second = (answer(engine, kept)[0] for _ in range(2))
        assert bits(first) == bits(second) and second[-1].usage.reused_tokens == 32
        assert store.bytes == 32 * engine.cache_bytes.position
        assert all(isinstance(each, OnGpu) for chunk in store._chunks.values() for each in chunk.spans)


# --- certification of the draw ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_log_probability_that_depends_on_the_row_is_not_certified(gpu):
    draw = sampling.draw

    def by_row(*given):
        return [each._replace(logprob=each.logprob - 1e-12 * row) for row, each in enumerate(draw(*given))]

    with mock.patch.object(sampling, "draw", by_row), engine_on(gpu, slots=2) as engine:
        assert not engine.certified and engine.level == certify.levels("eager", 1)[-1]


def test_log_probabilities_do_not_depend_on_the_row_in_a_vocabulary_of_any_size(gpu):
    """A sum of floats would: each of these rows is aligned in its own way."""
    row = torch.randn(151_669, generator=torch.Generator().manual_seed(0)) * 3
    logits = row.expand(4, -1).contiguous().to("cuda")
    settings = DEFAULT_SAMPLING.model_copy(update={"temperature": 1.0, "top_p": 0.9})
    assert len(set(sampling.draw(logits, sampling.marked(logits, [[]] * 4), [settings] * 4, [3] * 4))) == 1
    plain = logits.double()
    assert len(set((plain - plain.amax(1, keepdim=True)).exp().sum(dim=[1]).tolist())) > 1


# --- the product --------------------------------------------------------------------------------------


def written(lease: Lease) -> list[Any]:
    """Both replies with each dial, a token lens and a prompt grid: all that they are made of."""
    found: list[Any] = []
    for dial in (None, Dial(amount=0.5), Dial(space="weights", amount=0.5)):
        asked = comparison(max_new_tokens=6, repetition_penalty=1.2, top_p=0.9, dial=dial)
        result = compare(lease, asked)
        found += [(side.token_ids, side.logprobs, side.margins) for side in (result.base, result.post)]
    found.append(whole(lease, asked.model_copy(update={"dial": None}), "post", found[1][0]))
    return found + [grid for grid in what_if.grids(lease, comparison(max_new_tokens=2)) if grid]


@pytest.mark.slow
def test_comparisons_dials_the_lens_and_a_grid_are_those_of_the_processor(gpu, monkeypatch):
    monkeypatch.setattr(certify, "neighbours_do_not_matter", lambda lane, **given: True)  # which is another test's
    monkeypatch.setattr(reference, "deviation", lambda *given: Deviation(nats=0, bound=1, token=1))
    with tiny_lease() as here:
        expected = written(here)
    gpu.size = 2**31  # half a GB is spared
    with lease_on(gpu) as there:
        assert there.loaded["post"].engine.device.type == "cuda"
        assert written(there) == expected


def own(folder) -> Settings:
    base, post = tiny.save_pair(folder)
    return Settings(base=str(base), post=str(post), device="cuda", slots=2, threads=1)


@pytest.mark.slow
def test_a_pair_is_loaded_within_its_budget_and_gives_all_memory_back(gpu, tmp_path):
    gpu.size = 2**31
    with Pool(own(tmp_path), HuggingFaceHub()) as pool, pool.wait(pool.default.id) as lease:
        assert isinstance(lease, LocalLease)
        sides = tuple(lease.loaded.values())
        assert [side.engine.device.type for side in sides] == ["cuda"] * 2 and lease.base.engine.certified
        assert compare(lease, comparison(pair=pool.default.id, max_new_tokens=4)).post.token_ids
        placement = pool._place(next(iter(pool._entries)))
        assert gpu.peak <= sum(memory.need(side.model.config, placement).bytes(side.engine.shape) for side in sides)
    del pool, lease, sides
    device.give_back()
    assert gpu.allocated == gpu.reserved == 0


def test_a_card_that_is_too_small_is_refused_before_anything_is_on_it(gpu, tmp_path):
    gpu.size = 2**20
    refused = pytest.raises(NotEnoughMemory, match=r"(These weights|The weights of this pair) need")
    with Pool(own(tmp_path), HuggingFaceHub()) as pool, refused:
        pool.wait(pool.default.id)
    assert gpu.peak == 0


# --- several ------------------------------------------------------------------------------------------

CARDS = torch.device("cuda", 0), torch.device("cuda", 1)


def spread_over(gpu: Gpu, model: Any) -> Any:
    """The model as from_pretrained spreads it where the budget says so."""
    need = memory.need(model.config, Placement(CARDS[0], model.dtype, cards=CARDS))
    where, taken = need.laid_out(Shape(2, 16, (64,), 1, spread=True), dict.fromkeys(CARDS, 2**30))
    assert set(where.values()) == set(taken) == set(CARDS)
    return dispatch_model(gpu.move(model, where), where, skip_keys=model._skip_keys_device_placement)


@pytest.mark.slow
def test_a_spread_pair_is_dialled_and_read_as_on_the_processor(monkeypatch):
    """Every layer is with its cache, and no tensor is where another one is needed: the cards would say so."""
    monkeypatch.setattr(certify, "neighbours_do_not_matter", lambda lane, **given: True)
    monkeypatch.setattr(reference, "deviation", lambda *given: Deviation(nats=0, bound=1, token=1))
    with tiny_lease() as here:
        expected = written(here)
    made = pairs.Engine

    def work(gpu: Gpu) -> None:
        monkeypatch.setattr(pairs, "Engine", lambda model, *rest: made(spread_over(gpu, model), *rest))
        with tiny_lease() as there:
            assert written(there) == expected

    with gpu_for_engines(2**31, cards=2) as gpu:
        work(gpu)
        assert gpu.counts["copy:to another card"] and not gpu.counts["graph"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lfm2", "mamba"])
def test_layers_that_keep_states_are_spread_too(family):
    asked = [request([5, 6, 7], seed=1, max_new_tokens=6), request(range(20), seed=2, max_new_tokens=6)]
    models = [families.random_model(families.tiny(family), torch.float32, "eager") for _ in range(2)]
    with running(models.pop(), sizes=(64,), slots=2) as engine:
        expected = [bits(events) for events in answer(engine, *asked)]

    def work(gpu: Gpu) -> None:
        with running(spread_over(gpu, models.pop()), sizes=(64,), slots=2) as engine:
            assert engine.certified and list(engine.cache_bytes_on) == list(CARDS)
            assert [bits(events) for events in answer(engine, *asked)] == expected

    with gpu_for_engines(cards=2) as gpu:
        work(gpu)


@pytest.mark.slow
def test_a_pair_too_large_for_a_card_each_is_loaded_over_both_and_gives_all_memory_back(tmp_path, monkeypatch):
    settings = own(tmp_path)
    monkeypatch.setattr(loading, "must_spread", lambda *given: True)  # which is a test of numbers

    def work(gpu: Gpu) -> None:
        with Pool(settings, HuggingFaceHub()) as pool, pool.wait(pool.default.id) as lease:
            assert isinstance(lease, LocalLease)
            sides = list(lease.loaded.values())
            assert compare(lease, comparison(pair=pool.default.id, max_new_tokens=4)).post.token_ids
            for side in sides:
                info = side.engine.info()
                assert info.certified and side.engine.shape.spread and "graph" not in info.certification
                assert info.device.startswith("spread over a GPU that is not there") and info.device.count(" and ") == 1
                in_use = memory.bytes_in_use(side.engine)
                whole = sum(each.nbytes for each in side.model.parameters())
                assert set(in_use) == set(CARDS) and sum(in_use.values()) > whole > max(in_use.values()) / 2
            assert all(0 < gpu.peak_on[card] < 2**21 for card in range(2))
            monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30 if device == CARDS[0] else 2**28)
            refused = pytest.raises(UserError, match=r"0\.2 GB is free")
            with refused:
                memory.check_room_for_another(lease.loaded["post"].engine)
            with refused:
                next(NewProcesses(settings).ask(comparison(pair=pool.default.id), lease))

    with gpu_for_engines(2**31, cards=2) as gpu:
        work(gpu)
        device.give_back()
        assert gpu.allocated == gpu.reserved == 0


# --- a test of the test -------------------------------------------------------------------------------


def found(kind: type[Exception], work: Callable[[Gpu], object], match: str | None = None, cards: int = 1) -> None:
    """The GPU finds it, whoever else does."""
    with pytest.raises(kind, match=match), gpu_for_engines(cards=cards) as gpu:
        work(gpu)


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


@pytest.mark.parametrize(
    "mix",
    [
        lambda gpu: ones(3) + torch.ones(3),
        lambda gpu: torch.where(ones(3) > 0, ones(3), torch.ones(3)),
        lambda gpu: ones(3).__setitem__(slice(2), torch.ones(2)),
        lambda gpu: torch.cat([ones(3), torch.ones(3)]),
        lambda gpu: ones(3) + ones(3).to("cuda:1"),
        lambda gpu: ones(3)[at(1).to("cuda:1")],
    ],
)
def test_tensors_of_two_devices_are_not_mixed(mix):
    found(MixedDevices, mix, cards=2)


def test_what_a_gpu_does_is_done(gpu):
    there = ones(3)
    assert there.device.type == "cuda" and isinstance(there[:, None], OnGpu)
    assert (there + torch.tensor(2.0)).tolist() == [3, 3, 3], "one number is one number"


def too_large() -> torch.Tensor:
    return torch.empty(2**30, dtype=torch.uint8, device="cuda")


def at(*places: int) -> torch.Tensor:
    return torch.tensor(places, device="cuda")


@pytest.mark.parametrize(
    "operation",
    [
        lambda gpu: ones(3).cumsum(0),
        lambda gpu: ones(3).kthvalue(1),
        lambda gpu: ones(3).index_add_(0, at(1, 1), ones(2)),
        lambda gpu: ones(3).scatter_(0, at(1, 1), ones(2)),
        lambda gpu: ones(3).__setitem__(at(1, 1), ones(2)),
    ],
)
def test_what_does_not_repeat_is_refused(operation):
    found(NotRepeatable, operation)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: ones(3).tolist(),
        lambda: bool(ones(3).any()),
        lambda: ones(1).item(),
        lambda: range(at(3)[0]),
        lambda: ones(3)[ones(3) > 0],
        lambda: ones(3).cpu(),
        lambda: at(1),
        lambda: ones(3).copy_(torch.ones(3)),
        lambda: torch.ones(3).to("cuda", non_blocking=True),
    ],
)
def test_waits_are_seen(wait):
    def work(gpu):
        with gpu.no_waits():
            wait()

    found(Waited, work)


def on_two_streams(waits: bool = False, recorded: bool = False) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there = ones(3) * 2
    if waits:
        torch.cuda.current_stream().wait_stream(stream)
    if recorded:
        there.record_stream(torch.cuda.current_stream())
    there + 1


def test_streams_that_do_not_wait_for_each_other_are_seen(gpu):
    found(Raced, lambda gpu: on_two_streams(), "does not wait")
    found(Raced, lambda gpu: on_two_streams(waits=True), "given back")
    on_two_streams(waits=True, recorded=True)


def test_more_memory_than_there_is_and_memory_that_is_kept_are_seen(gpu):
    kept: list[torch.Tensor] = []
    found(torch.OutOfMemoryError, lambda gpu: too_large())
    found(MemoryKept, lambda gpu: kept.append(ones(3)))
    for _ in range(2):
        ones(1000)
    assert gpu.peak == 4096 and gpu.allocated == 0


@contextmanager
def as_in_an_engine() -> Iterator[None]:
    with device.own_stream(torch.device("cuda")), torch.inference_mode():
        yield


def test_a_graph_is_a_function_of_what_it_is_given(gpu):
    def step(given: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        made = torch.zeros(3, device="cuda") + given * 2
        made[1:].add_(total[1:])
        total.add_(made)
        return made.softmax(0)

    with as_in_an_engine():
        totals = [torch.zeros(3, device="cuda") for _ in range(2)]
        graph = Graph(step, [ones(3)], totals[:1])
        assert not torch.equal(graph._result, graph._result), "nothing has run: what it will return is not a number"
        step(ones(3), totals[1])  # as it is run once before the capture
        assert torch.equal(*totals)
        for number in range(4):
            given = ones(3) * number
            assert torch.equal(graph(given), step(given, totals[1])) and torch.equal(*totals)


@pytest.mark.parametrize("warpers", [PLAIN, EVERY], ids=["plain", "warped"])
def test_what_a_draw_keeps_for_its_replays_is_what_the_budget_counts(gpu, warpers):
    rows, words = 4, 20_000
    with as_in_an_engine():
        seen = torch.zeros(rows, words, dtype=torch.bool, device="cuda")
        numbers = Numbers.of(
            device.on_device(sampling.rows_of_numbers([DEFAULT_SAMPLING] * rows, range(rows)), torch.device("cuda"))
        )

        def step(logits: torch.Tensor) -> torch.Tensor:
            return sampling.foreseen(sampling.finalists(logits, seen, numbers, warpers), numbers)

        graph = Graph(step, [ones(rows, words)], [])
        pool: Any = graph._graph.pool
        assert 4 < pool.peak / (rows * words * 8) < budget._DRAWN


def test_a_recording_with_a_number_of_pythons_in_it_is_thrown_away(gpu):
    count = itertools.count()

    def step(given: torch.Tensor) -> torch.Tensor:
        return given + next(count)

    with as_in_an_engine():
        assert record(step, Graph, lambda draw: [ones(3)], [], []) is step


IN_A_GRAPH: dict[str, tuple[type[Exception], Callable[[torch.Tensor], object]]] = {
    "a wait": (Waited, lambda logits: logits.max().item()),
    "a copy from the host": (NotCapturable, lambda logits: device.on_device([1.0, 2.0], logits.device)),
    "a copy to the host": (NotCapturable, lambda logits: logits.to("cpu", non_blocking=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_GRAPH)
def test_what_a_graph_cannot_hold_is_found(name, monkeypatch):
    kind, bug = IN_A_GRAPH[name]
    finalists = sampling.finalists

    def buggy(logits, *given):
        if torch.cuda.is_current_stream_capturing():  # as the engine would go on without a graph
            bug(logits)
        return finalists(logits, *given)

    def work(gpu):
        with engine_on(gpu, slots=2) as engine:
            answer(engine, request([5, 6, 7], max_new_tokens=2))

    monkeypatch.setattr(sampling, "finalists", buggy)
    found(kind, work)


def test_memory_that_a_graph_uses_is_not_given_back():
    def work(gpu):
        there = [ones(3)]
        with as_in_an_engine():
            graph = Graph(lambda given: given + there[0], [ones(3)], [])
            there.clear()
            graph(ones(3))

    found(NotCapturable, work, "given back")


def test_what_is_on_its_way_to_the_host_is_not_looked_at():
    def work(gpu):
        with as_in_an_engine():
            ones(3).to("cpu", non_blocking=True).tolist()

    found(Raced, work, "on its way")


PLANTED: dict[str, tuple[type[Exception], Callable[[torch.Tensor], torch.Tensor]]] = {
    "a tensor of the processor's": (MixedDevices, lambda logits: logits + torch.zeros(logits.shape)),
    "a sum of floats": (NotRepeatable, lambda logits: logits.cumsum(1)),
    "a wait": (Waited, lambda logits: logits * logits.max().item()),
    "too much memory": (torch.OutOfMemoryError, lambda logits: logits + too_large()[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_bug_in_a_pass_is_found_though_the_engine_goes_on(name):
    kind, bug = PLANTED[name]
    read, planted = Lane.read, list[bool]()

    def buggy(lane, *given):
        return bug(read(lane, *given)) if planted else read(lane, *given)

    def work(gpu):
        with engine_on(gpu) as engine:
            planted.append(True)
            answer(engine, request([5, 6, 7]))

    with mock.patch.object(Lane, "read", buggy):
        found(kind, work)


@pytest.mark.slow
def test_caches_that_an_engine_keeps_are_found():
    kept: list[Lane] = []

    def work(gpu):
        with engine_on(gpu) as engine:
            kept.append(engine._lanes[64])

    found(MemoryKept, work)


@pytest.mark.slow
def test_logits_that_are_handed_over_without_a_word_are_found(monkeypatch):
    monkeypatch.setattr(device, "handed_over", lambda tensor: tensor)

    def work(gpu):
        with engine_on(gpu) as engine:
            scored(engine)

    found(Raced, work)
