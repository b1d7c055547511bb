"""The parts of the engine by themselves: whose turn it is, what is kept, and who sees what."""

import pytest
import torch
from transformers import LlamaConfig

from core.engine.engine import lane_sizes, sentence
from core.engine.lane import Lane
from core.engine.scheduler import NO_SLOT, Job, Scheduler
from core.engine.slots import Holds, Masks, SlotCache, layer_kinds, what_layers_hold
from core.engine.store import Chunk, PrefillStore, prefix_key
from core.errors import UserError
from core.types import Queued
from tests.engines import VOCABULARY, random_model, request


def job(prompt=(1, 2, 3), size: int = 64, context: int = 128, **settings) -> Job:
    return Job(request(prompt, **settings), size, context, lambda event: None)


# --- one request ------------------------------------------------------------------------------------------


def test_a_reply_counts_its_given_beginning_among_its_steps_and_not_twice_among_its_positions():
    asked = request([1, 2, 3, 40, 41]).model_copy(update={"prefilled": 2, "expected": (7, 8)})
    each = Job(asked, 64, 128, lambda event: None)
    assert (each.step, each.expected) == (2, 7)
    each.write(7)
    assert (each.step, each.expected, each.next_position) == (3, 8, 5)
    each.write(9)
    assert (each.step, each.expected, each.next_position) == (4, None, 6)
    assert each.written == [7, 9]


@pytest.mark.parametrize(
    ("written", "cancelled", "reason"),
    [
        ([], False, None),
        ([], True, "stopped"),
        ([5], False, None),
        ([9], False, "eos"),
        ([9, 5], False, None),
        ([5, 9], True, "stopped"),
        ([5] * 4, False, "length"),
        ([5] * 3 + [9], False, "eos"),
    ],
)
def test_a_reply_ends_for_the_first_reason_that_holds(written, cancelled, reason):
    each = job(max_new_tokens=4, stop_ids=[9])
    for token in written:
        each.write(token)
    each.cancelled = cancelled
    assert each.finish_reason() == reason


def test_a_reply_ends_where_prompt_and_reply_fill_the_context():
    each = job(range(60), context=62, max_new_tokens=50)
    each.write(5)
    assert each.finish_reason() is None
    each.write(5)
    assert each.finish_reason() == "context"


def test_usage_tells_the_waiting_from_the_reading_and_the_writing():
    each = job()
    each.submitted, each.started, each.first_token, each.last_token = 10.0, 12.0, 15.0, 19.0
    each.written, each.reused, each.prefill_passes, each.decode_passes = [5, 6], 2, 3, 4
    told = each.usage()
    assert (told.seconds_queued, told.seconds_to_first_token, told.seconds_decoding) == (2.0, 3.0, 4.0)
    assert (told.prompt_tokens, told.reused_tokens, told.output_tokens) == (3, 2, 2)
    assert (told.prefill_passes, told.decode_passes) == (3, 4)
    waiting = job().usage()
    assert waiting.seconds_queued >= 0 == waiting.seconds_to_first_token == waiting.seconds_decoding


def test_the_first_token_is_timed_once_and_the_last_anew():
    each = job()
    each.write(1)
    first = each.first_token
    assert first is not None and each.last_token == first >= each.submitted
    each.write(2)
    assert each.first_token == first and each.last_token is not None and each.last_token >= first


# --- who runs next ------------------------------------------------------------------------------------------


def test_the_lowest_free_slot_is_taken_whatever_the_order_in_which_they_were_freed():
    scheduler = Scheduler((64,), slots=3)
    jobs = [job() for _ in range(4)]
    for each in jobs[:3]:
        scheduler.add(each)
        scheduler.next_to_read()
        scheduler.start_writing(each)
    assert [each.slot for each in jobs[:3]] == [0, 1, 2]
    for each in (jobs[2], jobs[0]):
        scheduler.release(each)
        assert each.slot == NO_SLOT
    scheduler.release(jobs[0])
    scheduler.add(jobs[3])
    assert scheduler.next_to_read() is jobs[3] and jobs[3].slot == 0
    assert scheduler.writing[64] == [jobs[1]]


def test_everybody_who_is_there_is_active_and_is_forgotten_wherever_they_are():
    scheduler = Scheduler((64, 128), slots=1)
    writing, reading, waiting = job(size=128), job(), job()
    for each in (writing, reading, waiting):
        scheduler.add(each)
    scheduler.next_to_read()
    scheduler.start_writing(writing)
    assert scheduler.next_to_read() is reading
    assert scheduler.active() == [waiting, reading, writing]
    for each in (reading, writing, waiting):
        scheduler.release(each)
        assert each not in scheduler.active()
    assert scheduler.reading is None and scheduler.idle


def test_a_scheduler_is_idle_while_nobody_can_go_on():
    scheduler = Scheduler((64,), slots=1)
    assert scheduler.idle
    first, second = job(), job()
    scheduler.add(first)
    assert not scheduler.idle, "a slot is free for it"
    scheduler.next_to_read()
    assert not scheduler.idle, "its prompt is being read"
    scheduler.start_writing(first)
    assert not scheduler.idle
    scheduler.add(second)
    first.held = True
    assert scheduler.idle, "one waits for its next token, the other for a slot"
    scheduler.release(first)
    assert not first.held and not scheduler.idle


def giving_way(size: int = 64) -> Job:
    each = job(size=size)
    each.request = each.request.model_copy(update={"gives_way": True})
    return each


def let_in(scheduler: Scheduler, *jobs: Job) -> None:
    for each in jobs:
        scheduler.add(each)
        assert scheduler.next_to_read() is each
        scheduler.start_writing(each)
        each.started = 1.0
        each.write(5)


def test_who_gives_way_has_every_slot_while_alone_and_one_less_for_each_who_waits():
    scheduler = Scheduler((64, 128), slots=2)
    first, second, elsewhere = giving_way(), giving_way(), giving_way(128)
    let_in(scheduler, first, second, elsewhere)
    first.write(6)
    third = giving_way()
    scheduler.add(third)
    scheduler.make_way()
    assert scheduler.writing == {64: [first, second], 128: [elsewhere]}, "for its like nobody gives way"
    visitor = job()
    scheduler.add(visitor)
    scheduler.make_way()
    assert scheduler.writing == {64: [first], 128: [elsewhere]}, "who has written the least"
    assert (second.written, second.started, second.read, second.slot) == ([], None, 0, NO_SLOT)
    assert scheduler.next_to_read() is visitor, "before those that give way, whoever came first"
    scheduler.make_way()
    assert scheduler.writing[64] == [first], "one slot was enough"
    scheduler.start_writing(visitor)
    scheduler.release(visitor)
    assert scheduler.next_to_read() is third


def test_a_prompt_that_is_read_gives_way_too():
    scheduler = Scheduler((64,), slots=2)
    reading, visitor = giving_way(), job()
    scheduler.add(reading)
    assert scheduler.next_to_read() is reading
    scheduler.add(visitor)
    scheduler.make_way()
    assert scheduler.next_to_read() is visitor and list(scheduler.waiting) == [reading]


def test_those_who_wait_are_told_their_place_when_it_changes():
    scheduler = Scheduler((64,), slots=1)
    jobs = [job() for _ in range(3)]
    for each in jobs:
        scheduler.add(each)
    assert scheduler.announce() == [(each, Queued(ahead=ahead)) for ahead, each in enumerate(jobs)]
    assert scheduler.announce() == []
    scheduler.next_to_read()
    assert scheduler.announce() == [(jobs[1], Queued(ahead=0)), (jobs[2], Queued(ahead=1))]


# --- what is kept of prompts --------------------------------------------------------------------------------


def chunk(value: int, states: int = 0) -> Chunk:
    """A hundred bytes of keys, as many of values, and so many numbers of states."""
    return Chunk(
        [torch.full((25,), value, dtype=torch.float32) for _ in range(2)], [torch.zeros(states)] if states else []
    )


def test_a_full_store_forgets_what_was_used_longest_ago():
    store = PrefillStore(max_bytes=600)
    for name in (b"a", b"b", b"c"):
        store.put(name, chunk(ord(name)))
    assert store.bytes == 600
    assert store.get(b"a") is not None, "used again"
    store.put(b"d", chunk(100))
    assert store.bytes == 600
    assert [name for name in (b"a", b"b", b"c", b"d") if store.get(name)] == [b"a", b"c", b"d"]
    found = store.get(b"d")
    assert found is not None and found.spans[0][0] == 100


def test_what_is_kept_already_is_neither_counted_nor_replaced():
    store = PrefillStore(max_bytes=600)
    store.put(b"a", chunk(1))
    store.put(b"a", chunk(2))
    found = store.get(b"a")
    assert store.bytes == 200 and found is not None and found.spans[0][0] == 1
    assert store.get(b"b") is None


def test_states_are_added_to_a_chunk_that_is_kept_without_them_and_never_taken_from_it():
    store = PrefillStore(max_bytes=1000)
    store.put(b"a", chunk(1))
    store.put(b"a", chunk(2, states=25))
    store.put(b"a", chunk(3))
    found = store.get(b"a")
    assert found is not None and len(found.states) == 1 and found.spans[0][0] == 2
    assert store.bytes == 300


def test_chunks_are_known_by_all_tokens_up_to_their_end():
    assert prefix_key([1, 2, 3, 4], 2) == prefix_key([1, 2, 9], 2)
    assert len({prefix_key([1, 2, 3], 2), prefix_key([1, 2, 3], 3), prefix_key([1, 3], 2), prefix_key([12], 1)}) == 4


def lane(**changes) -> Lane:
    settings = {"slots": 2, "length": 64, "chunk": 16, "vocabulary": VOCABULARY, "attention": "eager", **changes}
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        return Lane(random_model(), **settings)


def test_nothing_of_a_prompt_is_left_for_the_next_not_even_behind_a_mask():
    """A value that is no number would come through any mask."""
    made = lane()
    with torch.inference_mode():
        made.begin()
        fresh = made.read([1, 2, 3], 0).clone()
        for tensor in made._reading.tensors():
            tensor.fill_(torch.nan)
        made.begin()
        assert torch.equal(made.read([1, 2, 3], 0), fresh)


def test_a_lane_that_may_keep_nothing_keeps_nothing():
    with torch.inference_mode():
        for room, tokens in ((0, 0), (10**9, 16)):
            made = lane(store=PrefillStore(room))
            made.begin()
            made.read(range(16), 0)
            made.keep(range(16), 0)
            made.begin()
            assert made.reusable(range(20)) == tokens
            assert made.reusable(range(16)) == 0, "some of a prompt is always left to read"


@pytest.mark.parametrize("first", [1, 2, 15, 16, 17, 18, 30, 39])
def test_every_token_from_the_first_on_is_scored_once_whatever_the_chunk_it_lies_in(first):
    made, ids = lane(), [(7 * number) % VOCABULARY for number in range(40)]
    with torch.inference_mode():
        cache = made.scoring_cache()
        rows = torch.cat([made.score(cache, ids, start, first) for start in (0, 16, 32)])
        expected = made.model(torch.tensor([ids]), use_cache=False).logits[0, first - 1 : -1, :VOCABULARY]
    assert rows.dtype == torch.float32 and rows.shape == expected.shape
    assert torch.allclose(rows, expected, atol=1e-4)


def test_what_is_left_of_a_prompt_is_padded_to_the_next_grain_and_scored_by_grains(monkeypatch):
    monkeypatch.setattr("core.engine.lane.GRAIN", 8)
    made, ids = lane(chunk=32), [(7 * number) % VOCABULARY for number in range(43)]
    assert made.grain == 8
    shapes = []
    made.model.register_forward_pre_hook(
        lambda _, args, given: shapes.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    with torch.inference_mode():
        made.begin()
        read = [made.read(ids, start)[0] for start in (0, 32)]
        cache = made.scoring_cache()
        scored = torch.cat([made.score(cache, ids, start, 1) for start in range(0, 43, 8)])
    assert shapes[:8] == [32, 16, 8, 8, 8, 8, 8, 8]
    expected = made.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :, :VOCABULARY]
    assert torch.allclose(torch.stack(read), expected[[31, 42]], atol=1e-4)
    assert torch.allclose(scored, expected[:-1], atol=1e-4)


# --- caches and masks ------------------------------------------------------------------------------------------


def config(**changes) -> LlamaConfig:
    return LlamaConfig(**{"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, **changes})


def test_every_row_writes_at_its_own_position_and_nowhere_else():
    cache = SlotCache.empty(config(), 2, 6, 1, torch.device("cpu"))
    assert len(cache.slot_layers) == 2
    layer = cache.slot_layers[0]
    cache.positions.copy_(torch.tensor([[4], [1]]))
    keys, values = torch.ones(2, 3, 1, 8), 2 * torch.ones(2, 3, 1, 8)
    for got, value in zip(layer.update(keys, values), (1.0, 2.0), strict=True):
        assert got.shape == (2, 3, 6, 8)
        expected = torch.zeros_like(got)
        expected[0, :, 4], expected[1, :, 1] = value, value
        assert torch.equal(got, expected)
    cache.positions.copy_(torch.tensor([[5], [5]]))
    got, _ = layer.update(7 * keys, values)
    assert got[0, 0, :, 0].tolist() == [0, 0, 0, 0, 1, 7] and got[1, 0, :, 0].tolist() == [0, 1, 0, 0, 0, 7]
    cache.slot_layers[1].update(keys, values)
    cache.clear()
    assert not layer.keys.any() and not layer.values.any()


def test_a_cache_over_tensors_writes_into_them():
    tensors = [torch.zeros(1, 3, 6, 8) for _ in range(4)]
    positions = torch.tensor([[2]])
    cache = SlotCache.empty(config(), 1, 6, 1, torch.device("cpu")).over(tensors, positions)
    assert all(ours is theirs for ours, theirs in zip(cache.tensors(), tensors, strict=True))
    cache.slot_layers[1].update(torch.ones(1, 3, 1, 8), 2 * torch.ones(1, 3, 1, 8))
    assert [tensor[0, 0, 2, 0].item() for tensor in tensors] == [0, 0, 1, 2]
    assert cache.over(tensors, positions).slot_layers[0].max_cache_len == 6


POSITIONS = torch.tensor([[0], [3]])


@pytest.mark.parametrize(
    ("window", "rows"), [(None, [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]]), (2, [[1, 0, 0, 0, 0], [0, 0, 1, 1, 0]])]
)
def test_a_query_sees_what_is_before_it_and_within_its_window(window, rows):
    expected = torch.tensor(rows, dtype=torch.bool)
    seen = Masks(config(sliding_window=window), torch.float32, "sdpa").at(POSITIONS, 5)
    assert isinstance(seen, torch.Tensor) and torch.equal(seen[:, 0, 0], expected)
    added = Masks(config(sliding_window=window), torch.float16, "eager").at(POSITIONS, 5)
    assert isinstance(added, torch.Tensor) and added.dtype == torch.float16
    assert torch.equal(added[:, 0, 0] == 0, expected)
    assert (added[:, 0, 0][~expected] == torch.finfo(torch.float16).min).all()


def test_layers_of_two_kinds_get_a_mask_each():
    both = config(sliding_window=2, layer_types=["full_attention", "sliding_attention"])
    masks = Masks(both, torch.float32, "sdpa").at(POSITIONS, 5)
    assert isinstance(masks, dict)
    assert {kind: mask[1, 0, 0].tolist() for kind, mask in masks.items() if mask is not None} == {
        "full_attention": [True, True, True, True, False],
        "sliding_attention": [False, False, True, True, False],
    }


def test_a_kind_of_layer_that_a_slot_cannot_hold_is_refused_by_its_name():
    assert layer_kinds(config()) == ("full_attention",)
    assert layer_kinds(config(sliding_window=8)) == ("sliding_attention",)
    assert layer_kinds(config(layer_types=["full_attention"] * 2)) == ("full_attention",)
    odd = config()
    odd.layer_types = ["indexed_attention", "full_attention", "compressed_sparse_attention"]
    with pytest.raises(UserError, match="has compressed sparse attention and indexed attention layers"):
        layer_kinds(odd)


def test_a_layer_keeps_keys_or_states_or_both_or_nothing():
    kinds = ["full_attention", "linear_attention", "hybrid", "conv", "mlp"]
    both = config(num_hidden_layers=5)
    both.layer_types = kinds
    assert what_layers_hold(both) == [Holds(True, 0), Holds(False, 1), Holds(True, 1), Holds(False, 1), Holds(False, 0)]
    assert layer_kinds(both) == ("conv", "full_attention", "linear_attention")


def test_chunked_attention_sees_its_own_block_alone():
    masks = Masks(config(attention_chunk_size=3), torch.float32, "sdpa")
    seen = masks._mask(torch.tensor([[2, 3, 4]]), 6, "chunked_attention")[0, 0]
    assert seen.int().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0]]


# --- shapes and sentences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "sizes"),
    [(10, (16,)), (100, (96,)), (256, (256,)), (257, (256,)), (272, (256, 272)), (5000, (256, 1024, 4096, 4992))],
)
def test_the_longest_lane_is_the_context_in_whole_chunks_and_none_is_as_long(context, sizes):
    assert lane_sizes(context, 16) == sizes


def test_a_machine_without_memory_says_so_and_any_other_failure_says_what_it_was():
    assert "ran out of memory" in sentence(torch.OutOfMemoryError("CUDA out of memory"))
    assert sentence(ValueError("odd")) == "The model failed on this request: odd."
