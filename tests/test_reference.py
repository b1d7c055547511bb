"""What is served is what the model computes: every family is held against its own plain forward pass, and faults are noticed."""

from contextlib import contextmanager
from copy import copy

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from core.engine import lane as lane_module
from core.engine import reference, slots, step
from core.engine.lane import Lane
from core.engine.store import PrefillStore
from core.errors import UserError
from core.types import Deviation
from tests.engines import FAMILIES, VOCABULARY, random_model, running

QUICK = {("Llama", torch.float32), ("Llama", torch.bfloat16), ("Gemma 3", torch.float32)}
EVERY_FAMILY_AND_DTYPE = pytest.mark.parametrize(
    "family, dtype",
    [
        pytest.param(family, dtype, id=f"{family}-{dtype}", marks=() if (family, dtype) in QUICK else pytest.mark.slow)
        for family in FAMILIES
        for dtype in (torch.float32, torch.bfloat16)
    ],
)


def found(model: PreTrainedModel, lengths: tuple[int, ...] = (64, 128)) -> Deviation:
    def new_lane(length: int) -> Lane:
        sizes = {"slots": 3, "chunk": 16, "vocabulary": VOCABULARY, "store": PrefillStore(2**20)}
        return Lane(model, length=length, attention=model.config._attn_implementation, **sizes)

    with torch.inference_mode():
        return reference.deviation(model, [new_lane(length) for length in lengths], new_lane)


# --- faults, each put where the engine computes ------------------------------------------------------------

masked = slots.Masks._mask


def sees_the_next_token(self, positions, length, kind):
    return masked(self, positions + 1, length, kind)


def forgets_the_window(self, positions, length, kind):
    return masked(self, positions, length, "full_attention")


def a_wider_window(self, positions, length, kind):
    wider = copy(self)
    wider.window = self.window and self.window + 1
    return masked(wider, positions, length, kind)


def a_position_too_far(self, ids, positions, *tensors):
    cache, mask = self.pattern.over(tensors, positions), self.masks.at(positions, self.pattern.length)
    given = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
    return self.model(input_ids=ids, position_ids=positions + 1, **given).logits


def rotary(model: PreTrainedModel) -> list[torch.Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]


@contextmanager
def turned_too_fast(model: PreTrainedModel):
    for frequencies in rotary(model):
        frequencies.mul_(1.2)
    try:
        yield
    finally:
        for frequencies in rotary(model):
            frequencies.div_(1.2)


def wrong_rotary_scale(monkeypatch):
    for name in ("read", "write"):
        right = getattr(Lane, name)

        def wrong(self, *given, right=right):
            with turned_too_fast(self.model):
                return right(self, *given)

        monkeypatch.setattr(Lane, name, wrong)


FAULTS = {
    "the mask is shifted by one": lambda patch: patch.setattr(slots.Masks, "_mask", sees_the_next_token),
    "the window is ignored": lambda patch: patch.setattr(slots.Masks, "_mask", forgets_the_window),
    "the window is one too wide": lambda patch: patch.setattr(slots.Masks, "_mask", a_wider_window),
    "positions are off by one": lambda patch: patch.setattr(step.Forward, "forward", a_position_too_far),
    "another prompt's chunk is found": lambda patch: patch.setattr(lane_module, "prefix_key", lambda ids, end: end),
    "the rotary scale is wrong": wrong_rotary_scale,
}


def can_have(fault: str, model: PreTrainedModel) -> bool:
    if "window" in fault:
        return "sliding_attention" in slots.layer_kinds(model.config)
    return bool(rotary(model)) or "rotary" not in fault


@EVERY_FAMILY_AND_DTYPE
def test_a_family_is_right_and_each_planted_fault_is_noticed(family, dtype, monkeypatch):
    model = random_model(family, dtype=dtype)
    assert found(model).within
    monkeypatch.setattr(step, "record", lambda forward, *given: forward)  # recording takes longest
    for fault, plant in FAULTS.items():
        with monkeypatch.context() as patch:
            plant(patch)
            assert found(model).within != can_have(fault, model), fault
    assert found(model).within, "and nothing of a fault is left"


@pytest.mark.parametrize("family", ["Mistral", pytest.param("Gemma 3", marks=pytest.mark.slow)])
def test_a_window_longer_than_the_check_is_shortened_for_both(family, monkeypatch):
    model = random_model(family, changes={"sliding_window": 200})
    assert found(model).within
    assert model.config.sliding_window == 200
    FAULTS["the window is ignored"](monkeypatch)
    assert not found(model).within
    assert model.config.sliding_window == 200


def beyond(position, fault):
    """A fault that shows from a position on only."""

    def planted(self, positions, length, kind):
        return (fault if int(positions.max()) >= position else masked)(self, positions, length, kind)

    return planted


def a_position_lost(self, ids, positions, *tensors):
    cache, mask = self.pattern.over(tensors, positions), self.masks.at(positions, self.pattern.length)
    given = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
    return self.model(input_ids=ids, position_ids=positions - (positions >= 256).long(), **given).logits


FAR_FAULTS = {
    "what comes next is seen": lambda patch: patch.setattr(slots.Masks, "_mask", beyond(256, sees_the_next_token)),
    "the window is ignored": lambda patch: patch.setattr(slots.Masks, "_mask", beyond(256, forgets_the_window)),
    "a position is lost": lambda patch: patch.setattr(step.Forward, "forward", a_position_lost),
}


@EVERY_FAMILY_AND_DTYPE
def test_the_end_of_a_lane_that_is_longer_than_the_check_is_checked_too(family, dtype, monkeypatch):
    monkeypatch.setattr(reference, "CHECKED", 128)
    monkeypatch.setattr(step, "record", lambda forward, *given: forward)
    model = random_model(family, dtype=dtype, changes={"max_position_embeddings": 512, "n_positions": 512})
    assert found(model, (64, 512)).within
    for fault, plant in FAR_FAULTS.items():
        with monkeypatch.context() as patch:
            plant(patch)
            told = found(model, (64, 512))
        if dtype == torch.float32 or "next" not in fault:  # one key among 500 can be less than bfloat16 itself moves
            assert told.within != can_have(fault, model), fault


@pytest.mark.parametrize(
    "changes", [{}, pytest.param({"alibi": True, "num_kv_heads": 4, "new_decoder_architecture": False}, id="Falcon")]
)
def test_a_model_that_makes_biases_of_its_masks_gets_them_and_is_right_to_the_end_of_a_lane(changes, monkeypatch):
    monkeypatch.setattr(reference, "CHECKED", 128)
    monkeypatch.setattr(step, "record", lambda forward, *given: forward)
    model = random_model("Falcon" if changes else "Bloom", changes=changes)
    assert found(model, (64, 256)).within
    monkeypatch.setattr(slots.SlotCache, "get_query_offset", lambda self, layer_idx=0: self.length - 1)
    assert not found(model, (64, 256)).within, "a chunk that sees what comes next"


def test_the_weights_are_as_before_when_a_pass_fails():
    model = random_model(dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyError), reference._in_wider_arithmetic(model):
        assert model(torch.tensor([[1, 2]]), use_cache=False).logits.dtype == torch.float32
        raise KeyError
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- what an engine does with it ---------------------------------------------------------------------------


def test_an_engine_tells_how_far_it_is_from_the_model():
    with running(random_model()) as engine:
        deviation = engine.info().deviation
    assert deviation.within
    assert 0 < deviation.nats < deviation.bound


def gpt_neo() -> PreTrainedModel:
    """Its layers attend locally by a buffer of their own, and no mask says so."""
    config = transformers.GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        intermediate_size=48,
        window_size=8,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def test_a_model_that_the_engine_gets_wrong_is_refused_with_the_figure():
    sentence = r"off by \d\S* nats at token \d+ of the check.* choose another model"
    with pytest.raises(UserError, match=sentence), running(gpt_neo()):
        pass


def test_a_model_whose_output_is_no_number_is_refused():
    model = random_model()
    model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not a number; choose another model"), running(model):
        pass


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
def test_experts_that_cannot_be_given_are_known_by_every_name_that_configurations_have_for_them(name):
    model = random_model(dtype=torch.bfloat16)
    assert reference.is_bounded(model)
    setattr(model.config, name, 4)
    assert not reference.is_bounded(model)
