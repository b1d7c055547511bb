"""Mixtures of experts: certified in one pass, bounded like other models, and no neighbour's choice of experts shows."""

import pytest
import torch

from core.engine import experts, reference
from core.engine.lane import Lane
from core.types import Deviation
from tests.engines import VOCABULARY, answer, bits, naive_reply, random_model, request, running, tokens

CHANGES = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}


def mixture(dtype: torch.dtype = torch.float32):
    attention = "eager" if dtype == torch.float32 else "sdpa"
    return random_model("Qwen3Moe", dtype=dtype, attention=attention, changes=CHANGES)


def with_ties(dtype: torch.dtype = torch.bfloat16):
    """Every second expert's router is the one before it but for a step of bfloat16 here and there, so that rounding decides between the two."""
    model = mixture(dtype)
    step_up = 1 + 2**-7 * torch.randint(-1, 2, (2, 32), generator=torch.Generator().manual_seed(0))
    for layer in model.model.layers:
        router = layer.mlp.gate.weight
        router[1::2] = router[0::2] * step_up.to(dtype)
    return model


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_a_mixture_is_certified_with_all_slots_in_one_pass_and_writes_what_a_naive_decoder_writes():
    model = mixture()
    asked = [request(prompt(length, length), max_new_tokens=6) for length in (3, 17, 40)]
    with running(model, sizes=(64,)) as engine:
        assert engine.certified and engine.level.together
        assert engine.level.experts in (None, experts.ROW_BY_ROW)
        crowd = answer(engine, *asked)
        assert [bits(events) for events in crowd] == [bits(answer(engine, each)[0]) for each in asked]
    for each, events in zip(asked, crowd, strict=True):
        assert tokens(events) == [draw.token for draw in naive_reply(model, each)]


def test_decode_passes_alone_compute_experts_row_by_row(monkeypatch):
    """A prompt is read alone, so there nothing needs it."""
    seen: set[tuple[int, str]] = set()
    model = mixture()
    first = experts.modules_of(model)[0]
    first.register_forward_pre_hook(
        lambda module, given: seen.add((len(given[0]), module.config._experts_implementation))
    )
    monkeypatch.setattr("core.engine.certify.neighbours_do_not_matter", lambda lane, **given: lane.experts is not None)
    usual = model.config._experts_implementation
    with running(model, sizes=(64,)) as engine:
        assert engine.info().certification == "eager attention, 1 thread, all slots in one pass, experts by row_by_row"
        answer(engine, request(prompt(20)))
    assert {by for rows, by in seen if rows == 4} >= {experts.ROW_BY_ROW}
    assert experts.ROW_BY_ROW not in {by for rows, by in seen if rows > 4}
    assert model.config._experts_implementation == usual


def moved(model, *, sent: bool) -> float:
    with torch.inference_mode():
        return reference._expected(model, prompt(64), set(range(64)), VOCABULARY, sent=sent)[1]


def test_what_a_narrow_dtype_moves_a_mixture_by_is_its_choice_of_experts_at_ties():
    """Were the experts computed wrongly, the same choice would not bring them back to what rounding explains."""
    model = with_ties()
    assert moved(model, sent=True) < 0.15
    assert moved(model, sent=False) > 5 * moved(model, sent=True)


def deviation(model) -> Deviation:
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        lane = Lane(model, slots=2, length=32, chunk=16, vocabulary=VOCABULARY, attention="sdpa")
        return reference.deviation(model, [lane], lambda length: lane)


def test_a_mixture_is_bounded_in_a_narrow_dtype_too_and_within_it_where_all_is_right():
    model = with_ties()
    assert reference.is_bounded(model)
    found = deviation(model)
    assert found.within and found.bound < 0.5


def test_a_mixture_that_is_computed_wrongly_is_beyond_its_bound_in_a_narrow_dtype_too(monkeypatch):
    model = mixture(torch.bfloat16)
    kind = type(experts.modules_of(model)[0])
    right = kind.forward
    swapped = {2: lambda weights: weights.flip(-1)}  # in decode passes
    monkeypatch.setattr(
        kind, "forward", lambda self, x, chosen, w: right(self, x, chosen, swapped.get(len(x), lambda w: w)(w))
    )
    assert not deviation(model).within


def test_a_token_is_sent_where_its_position_says():
    model = mixture()
    ids = torch.tensor([prompt(12)])
    with torch.no_grad(), experts.taken_down(model) as routes:
        expected = model(input_ids=ids).logits
    elsewhere = [experts.Route(3 - route.experts, route.weights) for route in routes]
    with torch.no_grad():
        with experts.sent_along(model, routes, start=5):
            behind = model(input_ids=ids[:, :3], position_ids=torch.arange(5, 8)[None]).logits
        with experts.sent_along(model, routes):
            assert torch.equal(model(input_ids=ids).logits, expected)
        with experts.sent_along(model, elsewhere):
            assert not torch.equal(model(input_ids=ids).logits, expected)
        with experts.sent_along(model, []):
            assert torch.equal(model(input_ids=ids).logits, expected)
        assert torch.equal(model(input_ids=ids).logits, expected), "nothing is left of it"
    assert behind.shape == (1, 3, VOCABULARY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_on_its_own_is_what_the_library_gives_for_it_alone(dtype):
    module = experts.modules_of(mixture(dtype))[0]
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 32, generator=draw).to(dtype)
    route = torch.randn(5, 4, generator=draw).softmax(-1).topk(2)
    given = [hidden, route.indices, route.values.to(dtype)]
    with torch.inference_mode():
        rows = experts._row_by_row(module, *given)
        for row in range(5):
            assert torch.equal(rows[row : row + 1], module(*(each[row : row + 1] for each in given)))
            alike = [each[row : row + 1].expand(5, -1) for each in given]
            assert torch.equal(experts._row_by_row(module, *alike)[2], rows[row]), "whoever goes to the same experts"


def test_a_gpu_computes_them_in_one_product_and_a_processor_row_by_row(monkeypatch):
    model = mixture()
    assert experts.without_neighbours(model) == "row_by_row"
    assert experts.without_neighbours(random_model()) is None
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))
    assert experts.without_neighbours(model) == "batched_mm"


def test_a_model_without_experts_is_computed_as_it_is():
    model = random_model()
    assert experts.modules_of(model) == []
    with experts.computed_by(model, experts.ROW_BY_ROW), experts.taken_down(model) as routes:
        model(torch.tensor([[1, 2]]))
    assert routes == []
