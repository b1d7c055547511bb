"""Packed weights: the same values for whoever reads them, out of the memory that is computed in."""

import copy
import ctypes

import pytest
import torch
from torch.nn.functional import linear

from core.checkpoints.fingerprint import weights_sha256
from core.engine import certify, packed, reference
from core.engine.dial import mixed_model
from core.engine.lane import Lane, rows_in_use
from core.engine.packed import PackedWeight, can_pack, pack, unpack, unpacked
from core.engine.step import DecodeStep, replaying
from tests.engines import VOCABULARY, answer, bits, request, running
from tests.engines import random_model as random_float32_model

CPU = torch.device("cpu")
EXACTLY = can_pack(CPU, torch.bfloat16)  # there packed products have the bits of plain ones
DTYPE = torch.bfloat16 if EXACTLY else torch.float32  # kernels for the latter are everywhere


def random_model(seed: int = 0, tied: bool = False):
    return random_float32_model(
        dtype=DTYPE, attention="sdpa", seed=seed, changes={"tie_word_embeddings": tied}
    ).requires_grad_(False)


@pytest.fixture
def packing(monkeypatch) -> None:
    """Engines pack, whatever this machine's processor is."""
    monkeypatch.setattr(packed, "can_pack", lambda device, dtype: dtype == DTYPE)


def test_linear_layers_are_packed_and_read_as_before():
    model = random_model(tied=True)
    plain, before = copy.deepcopy(model), model.num_parameters()
    pack(model)
    names = [name for name, weight in model.named_parameters() if isinstance(weight, PackedWeight)]
    assert len(names) == 15 and names[-1] == "lm_head.weight" and len(packed.memory_of(model)) == 15
    weights = dict(model.named_parameters())
    for name, was in plain.named_parameters():
        assert weights[name].shape == was.shape and weights[name].dtype == was.dtype
        assert not weights[name].requires_grad and weights[name].grad is None
        assert torch.equal(unpacked(weights[name]), was) and torch.equal(weights[name].double(), was.double())
    pack(model)
    unpack(model)
    assert model.num_parameters() == before and model.lm_head.weight is model.get_input_embeddings().weight
    assert not any(isinstance(weight, PackedWeight) for weight in model.parameters())


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 16, 64])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_with_packed_weights_is_the_product(rows, biased):
    layer = torch.nn.Linear(96, 80, bias=biased).to(DTYPE).requires_grad_(False)
    x = torch.randn(2, rows, 96).to(DTYPE)
    expected = layer(x)
    pack(holding(layer))
    assert isinstance(layer.weight, PackedWeight)
    assert torch.equal(layer(x), expected) if EXACTLY else torch.allclose(layer(x), expected, atol=1e-5)


def holding(*layers):
    return torch.nn.Sequential(*layers)


def test_one_weight_of_two_layers_stays_one():
    first, second = (torch.nn.Linear(8, 8).requires_grad_(False) for _ in range(2))
    second.weight = first.weight
    both = holding(first, second)
    pack(both)
    assert first.weight is second.weight and len(packed.memory_of(both)) == 1
    unpack(both)
    assert first.weight is second.weight and type(first.weight) is torch.nn.Parameter


def test_what_would_write_into_packed_weights_or_look_into_them_is_refused():
    """A write into what was unpacked would be lost without a word."""
    layer = torch.nn.Linear(8, 8).requires_grad_(False)
    pack(holding(layer))
    for touch in (
        lambda: layer.weight.fill_(1),
        lambda: layer.weight[3],
        lambda: layer.weight.data[5, 5].add_(1),
        lambda: layer.weight.view(-1),
    ):
        with pytest.raises(TypeError, match="unpack it first"):
            touch()


def change_one_packed_value(weight: PackedWeight) -> None:
    address = torch.ops.mkldnn.data_ptr(weight.packed)
    ctypes.c_uint8.from_address(address).value ^= 1


@pytest.mark.parametrize("tied", [False, True])
def test_the_fingerprint_is_of_the_packed_values_themselves(tied):
    model = random_model(tied=tied)
    loaded = weights_sha256(model)
    pack(model)
    assert weights_sha256(model) == loaded
    for layer in (model.model.layers[1].mlp.down_proj, model.lm_head):
        before = weights_sha256(model)
        change_one_packed_value(layer.weight)
        assert weights_sha256(model) != before
        change_one_packed_value(layer.weight)
        assert weights_sha256(model) == before == loaded
    with torch.no_grad():
        model.get_input_embeddings().weight[3].add_(1)
    assert weights_sha256(model) != loaded, "where it is looked up it is plain"


@pytest.mark.parametrize("which", ["both", "the second"])
def test_models_are_copied_and_mixed_as_if_they_were_plain(which):
    ours, theirs = (random_model(tied=True, seed=seed) for seed in (1, 2))
    expected = mixed_model(ours, theirs, 0.3)
    if which == "both":
        pack(ours)
    pack(theirs)
    mixed = mixed_model(ours, theirs, 0.3)
    assert weights_sha256(mixed) == weights_sha256(expected)
    assert mixed.lm_head.weight is mixed.get_input_embeddings().weight and not packed.memory_of(mixed)


def test_an_engine_packs_where_bits_do_not_notice_and_writes_what_it_wrote_before(packing, monkeypatch):
    model = random_model(seed=3)
    digest, asked = weights_sha256(model), [request(range(5 + n), seed=n, max_new_tokens=12) for n in range(3)]
    with running(model) as engine:
        assert engine.certified and engine.level.packed and "packed weights" in engine.info().certification
        assert packed.memory_of(model) and weights_sha256(model) == digest
        written = [bits(events) for events in answer(engine, *asked)]
    monkeypatch.setattr(packed, "can_pack", lambda device, dtype: False)
    with running(model) as engine:
        assert not engine.level.packed and not packed.memory_of(model)
        if EXACTLY:
            assert [bits(events) for events in answer(engine, *asked)] == written


@pytest.mark.parametrize("fails", ["bits", "a layer that looks into its weight"])
def test_where_packing_fails_weights_are_plain_again(packing, monkeypatch, fails):
    model = random_model()
    digest = weights_sha256(model)
    if fails == "bits":
        tried = certify.neighbours_do_not_matter
        monkeypatch.setattr(
            certify,
            "neighbours_do_not_matter",
            lambda lane, **given: not packed.memory_of(model) and tried(lane, **given),
        )
    else:
        projection = model.model.layers[0].mlp.up_proj
        projection.forward = lambda x: linear(x, projection.weight[:])
    with running(model) as engine:
        assert engine.certified and not engine.level.packed
        assert not packed.memory_of(model) and weights_sha256(model) == digest


def test_the_model_that_an_engine_is_held_against_computes_with_plain_weights(monkeypatch):
    model = random_model()
    expected, _ = reference.expected(model, at_once=())
    pack(model)
    monkeypatch.setattr(packed, "_script", lambda: pytest.fail("a packed product"))
    again, _ = reference.expected(model, at_once=())
    assert torch.equal(again.logprobs, expected.logprobs)
    assert len(packed.memory_of(model)) == 15, "as it was"


def test_one_recording_is_replayed_for_any_rows_and_positions():
    model = random_model()
    pack(model)
    with torch.inference_mode(), replaying(CPU):
        lane = Lane(model, slots=4, length=256, chunk=64, vocabulary=VOCABULARY, attention="sdpa", near=True)
        assert lane.lengths == [128, 192, 256] and lane.row_counts == [2, 4]
        steps: list[DecodeStep] = [lane.step(end) for end in lane.lengths]
        assert all(step.recorded for step in steps) and len({step._run for step in steps}) == 1
        cache = lane._writing[0]
        for step in steps:
            for rows in (1, 2, 3, 4):
                ids, positions = torch.randint(0, VOCABULARY, (rows, 1)), torch.randint(0, step.length, (rows, 1))
                plain = step(ids, positions, cache, plain=True)
                assert plain.shape == (rows, 1, VOCABULARY)
                assert torch.equal(step(ids, positions, cache), plain)


@pytest.mark.parametrize(("slots", "counts"), [(1, [1]), (2, [2]), (3, [2, 3]), (4, [2, 4]), (16, [2, 4, 8, 16])])
def test_rows_in_use_double_and_are_never_one_among_several(slots, counts):
    assert rows_in_use(slots) == counts


def test_rows_that_nobody_uses_are_not_computed():
    model = random_model()
    with torch.inference_mode(), replaying(CPU):
        lane = Lane(model, slots=4, length=256, chunk=64, vocabulary=VOCABULARY, attention="sdpa", near=True)
        assert [len(lane.write([5] * 4, positions)) for positions in ([9, 0, 0, 0], [9, 9, 0, 0], [0, 0, 9, 0])] == [
            2,
            2,
            4,
        ]
