"""Layers that keep states, share each other's cache or attend in chunks: nothing of a neighbour, a hold or a kept chunk shows."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import families
from core.checkpoints import loading, memory
from core.checkpoints.sources import Source
from core.engine import reference, slots
from core.engine.certify import neighbours_do_not_matter
from core.engine.device import Placement
from core.engine.lane import Lane
from core.errors import UserError
from core.hub import HuggingFaceHub
from tests.engines import LAYERED, VOCABULARY, answer, bits, naive_reply, random_model, request, running, tokens

QUICK = ("Qwen3.5", "Gemma 4", "Mamba 2")  # the other families are tried too, but not before every commit
CLAMPED = ("Nemotron-H", "Zamba 2")  # the library clamps their time step when it reads, and not when it writes
FAMILIES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYERED]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield


def model_of(name: str, *, clamped: bool = False):
    config = families.tiny(LAYERED[name])
    model = families.random_model(config, torch.float32, "eager")
    for module in model.modules():
        if name in CLAMPED and not clamped and hasattr(module, "time_step_limit"):
            setattr(module, "time_step_limit", (0.0, math.inf))  # noqa: B010
    return model


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.filterwarnings("ignore")  # what the library says of kernels that are not installed
@pytest.mark.parametrize("name", FAMILIES)
def test_replies_are_those_of_a_naive_decoder_alone_or_in_a_crowd_cold_or_reused(name):
    """Prompts end before, at and behind the end of a chunk; the windows are shorter than they are."""
    model = model_of(name)
    asked = [request(prompt(length, length), max_new_tokens=6, temperature=0.0) for length in (1, 16, 17, 37, 48)]
    with running(model, sizes=(64,)) as engine:
        assert engine.certified and engine.deviation.within
        assert engine.cache_bytes == memory.footprint(model.config, Placement(torch.device("cpu"), torch.float32)).cache
        crowd = answer(engine, *asked)
        for each, events in zip(asked, crowd, strict=True):
            expected = naive_reply(model, each)
            assert tokens(events) == [draw.token for draw in expected]
            assert [event[1] for event in bits(events)] == pytest.approx([draw.logprob for draw in expected], abs=2e-3)
        longest = asked[-1]
        cold = longest.model_copy(update={"reuse": False})
        assert bits(answer(engine, cold)[0]) == bits(answer(engine, longest)[0]) == bits(crowd[-1])
        next_turn = request([*longest.token_ids, *tokens(crowd[-1]), 5], max_new_tokens=4, temperature=0.0)
        went_on = answer(engine, next_turn)[0]
        assert went_on[-1].usage.reused_tokens == 48
        assert bits(went_on) == bits(answer(engine, next_turn.model_copy(update={"reuse": False}))[0])


# A delta rule, a convolution alone, states and keys in one layer, states alone.
STATES = ("Qwen3.5", "LFM2", "Falcon-H1", "Mamba 2")


def lane_of(name: str) -> Lane:
    return Lane(model_of(name), slots=3, length=64, chunk=16, vocabulary=VOCABULARY, attention="eager")


def written(lane: Lane, *, held: bool = False, beside: float | None = None) -> torch.Tensor:
    """Logits of three steps behind a prompt in slot 1; `beside` is in all that slot 0 has."""
    ids = prompt(21)
    lane.begin()
    for start in (0, 16):
        lane.read(ids, start)
    for slot in range(3):
        lane.adopt(slot)
    if beside is not None:
        for tensor in lane._writing[0].tensors():
            tensor[0] = beside
    found = []
    for step in range(3):
        if held:
            lane.write([3, 0, 4], [21 + step] * 3, [1])
        found.append(lane.write([5, 6, 7], [21 + step] * 3)[1].clone())
    return torch.stack(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STATES)
def test_a_state_is_its_rows_own_and_waits_while_its_row_is_held(name):
    lane = lane_of(name)
    assert lane.step(1).recorded, "it is recorded, states and all"
    plain = written(lane)
    assert torch.equal(written(lane, held=True), plain)
    assert torch.equal(written(lane, beside=math.nan), plain)


@pytest.mark.filterwarnings("ignore")
def test_a_recorded_step_is_the_same_while_another_thread_loads_a_model():
    """transformers sets torch's default dtype meanwhile, for the whole process; what was computed of a shape had that."""
    lane = lane_of("Qwen3.5")
    plain = written(lane)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(written(lane), plain)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore")
def test_one_model_is_made_at_a_time(monkeypatch):
    """Two that set the default dtype for a while would leave it as the other had it."""
    make = AutoModelForCausalLM.from_config
    held = []
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_config",
        lambda *given, **named: held.append(memory.making.locked()) or make(*given, **named),
    )
    memory.footprint(families.tiny("lfm2"), Placement(torch.device("cpu"), torch.bfloat16))
    assert held == [True]


@pytest.mark.filterwarnings("ignore")
def test_a_held_row_whose_state_went_on_is_found_by_certification(monkeypatch):
    lane, write = lane_of("LFM2"), Lane.write
    assert neighbours_do_not_matter(lane)
    monkeypatch.setattr(Lane, "write", lambda self, tokens, positions, held=(): write(self, tokens, positions))
    assert not neighbours_do_not_matter(lane)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LFM2", "Mamba"])
def test_what_is_scored_for_the_lens_is_what_one_pass_over_everything_gives(name):
    lane, ids = lane_of(name), prompt(40, seed=3)
    cache = lane.scoring_cache()
    found = torch.cat([lane.score(cache, ids, start, 1) for start in (0, 16, 32)])
    whole = lane.model(torch.tensor([ids]), use_cache=False).logits[0, :-1, :VOCABULARY]
    assert torch.allclose(found, whole, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_model_whose_layers_ask_each_other_for_their_dtype_is_checked_in_a_wider_one_too():
    config = families.tiny("mamba2")
    with running(families.random_model(config, torch.bfloat16, "eager"), sizes=(64,)) as engine:
        assert engine.certified and engine.deviation.within


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("minimax", "MiniMaxDecoderLayer"),
        ("recurrent_gemma", "RecurrentGemmaDecoderLayer"),
        ("rwkv", "RwkvBlock"),
        ("xlstm", "xLSTMBlock"),
    ],
)
def test_states_in_a_place_of_their_own_are_refused_by_name_before_any_weights_are_there(family, layers, tmp_path):
    families.tiny(family).save_pretrained(tmp_path)
    source = Source(family, family, None, tmp_path, None)
    with pytest.raises(UserError, match=f"has {layers} layers, which keep what they have read in a place of their own"):
        loading.check_kind(source, HuggingFaceHub(), Placement(torch.device("cpu"), torch.float32))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLAMPED)
def test_a_model_that_writes_otherwise_than_it_reads_is_given_as_much_and_no_more(name):
    ids = prompt(31, seed=1)
    own = reference._writing_from_reading(model_of(name, clamped=True), ids, VOCABULARY)
    without = reference._writing_from_reading(model_of(name), ids, VOCABULARY)
    assert without < 1e-4 < own < 5e-3


def test_settings_that_are_one_for_all_layers_are_those_of_each(monkeypatch):
    """As transformers 5.17 gives them, with which `make gpu` runs too."""
    config = random_model().config
    expected = slots.what_layers_hold(config)
    kinds = ["full_attention"] * config.num_hidden_layers
    monkeypatch.setattr(slots, "get_layer_types_and_kwargs", lambda config: (kinds, {}))
    assert slots.what_layers_hold(config) == expected
