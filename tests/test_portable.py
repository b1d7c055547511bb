"""The portable level: one reply is the same bits however it is computed, and what cannot promise that is refused by name."""

import random

import pytest
import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from benchmarks import families as families_table
from core.engine import exact, operations, portable
from core.engine.lane import Lane, lengths_in_use
from core.engine.operations import Mode
from core.engine.portable import Portable
from core.engine.step import DecodeStep
from core.errors import UserError
from tests.arithmetics import Numpy, Shuffled
from tests.engines import VOCABULARY, families, random_model

PROMPT = [(5 * i) % 150 + 1 for i in range(21)]
FORCED = [7, 130, 42, 8]


@pytest.fixture(autouse=True)
def no_gradients():
    """Not inference mode, in which the modes that stand for other machines would see composite operations."""
    with torch.no_grad():
        yield


def lane_of(model, *, slots=1, length=64, chunk=16) -> Lane:
    return Lane(model, slots=slots, length=length, chunk=chunk, vocabulary=VOCABULARY, attention=portable.NAME)


def figures(lane: Lane, *, slot=0, read: int | None = None, company: int | None = None) -> torch.Tensor:
    """Logits [1 + forced, vocabulary] behind the prompt, whose tokens from `read` on are written one by one, among random neighbours."""
    draw, read = random.Random(company), len(PROMPT) if read is None else read
    lane.begin()
    for start in range(0, read, lane.chunk):
        logits = lane.read(PROMPT[:read], start)
    lane.adopt(slot)
    found = [logits[0].clone()] if read == len(PROMPT) else []
    for place, token in enumerate([*PROMPT[read:], *FORCED], read):
        tokens, positions = [0] * lane.slots, [0] * lane.slots
        if company is not None:
            tokens = [draw.randrange(VOCABULARY) for _ in tokens]
            positions = [draw.randrange(lane.length) for _ in tokens]
        tokens[slot], positions[slot] = token, place
        found.append(lane.write(tokens, positions)[slot].clone())
    return torch.stack(found[-1 - len(FORCED) :])


@pytest.fixture(scope="module")
def llama() -> Portable:
    with torch.no_grad():
        return Portable(random_model())


@pytest.fixture(scope="module")
def wanted(llama) -> torch.Tensor:
    with torch.no_grad():
        return figures(lane_of(llama))


WAYS = {
    "the last of three slots": lambda model: figures(lane_of(model, slots=3), slot=2),
    "random neighbours": lambda model: figures(lane_of(model, slots=4), slot=1, company=3),
    "a longer lane": lambda model: figures(lane_of(model, length=512)),
    "chunks of 8": lambda model: figures(lane_of(model, chunk=8)),
    "chunks of 64": lambda model: figures(lane_of(model, chunk=64)),
    "most of the prompt written, not read": lambda model: figures(lane_of(model), read=3),
    "written among random neighbours": lambda model: figures(lane_of(model, slots=3), slot=1, read=1, company=5),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_reply_is_the_same_bits_in_every_slot_lane_and_chunk_read_or_written(way, llama, wanted):
    assert torch.equal(WAYS[way](llama), wanted)


def test_what_an_earlier_occupant_left_does_not_matter(llama, wanted):
    lane = lane_of(llama, slots=2)
    for tensor in (tensor for cache in lane._writing for tensor in cache.tensors()):
        tensor.normal_(std=1e6)
    assert torch.equal(figures(lane), wanted)


def test_passes_look_no_farther_than_the_longest_row_in_use(llama, wanted, monkeypatch):
    assert lengths_in_use(1024, 64) == [128, 192, 256, 384, 576, 832, 1024]
    assert lengths_in_use(64, 16) == [64], "a lane that is no longer than the shortest"
    monkeypatch.setattr("core.engine.lane.SHORTEST", 16)
    seen = []
    own = AttentionInterface._global_mapping[portable.NAME]

    def attention(module, query, key, *others, **options):
        seen.append((query.shape[2], key.shape[2]))
        return own(module, query, key, *others, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, portable.NAME, attention)
    lane = lane_of(llama, chunk=8)
    seen.clear()
    assert torch.equal(figures(lane, read=15), wanted), "which border of a length is crossed does not matter"
    assert set(seen) == {(8, 8), (8, 16), (1, 16), (1, 24), (1, 32)}
    assert lane.step(17) is not lane.step(16)


def test_lanes_share_their_steps_and_a_longer_one_serves_until_the_shorter_is_recorded(llama, wanted, monkeypatch):
    monkeypatch.setattr("core.engine.lane.SHORTEST", 32)
    steps: dict[int, DecodeStep] = {}
    lane, longer = (
        Lane(llama, slots=1, length=length, chunk=16, vocabulary=VOCABULARY, attention=portable.NAME, steps=steps)
        for length in (64, 128)
    )
    assert list(steps) == [32, 48, 64, 96, 128] and lane.step(40) is longer.step(40)
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        lane.step(64).record_beside(lambda: False)
        ran = []
        for step in steps.values():
            monkeypatch.setattr(
                step, "_run", lambda *given, step=step, run=step._run: (ran.append(step), run(*given))[1]
            )
        assert torch.equal(figures(longer), wanted)
    assert set(ran) == {steps[64]}


def test_a_recorded_step_is_the_step(llama, wanted):
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        lane = lane_of(llama, slots=2)
        lane.step(1).record_beside(lambda: False)
        assert lane.step(1).recorded
        assert torch.equal(figures(lane, company=2), wanted)


def test_a_recording_that_may_fuse_is_thrown_away(llama, caplog):
    """As torch.jit does by default: a product and a sum in one rounding."""
    lane = lane_of(llama)
    lane.step(1).record_beside(lambda: False)
    assert not lane.step(1).recorded
    assert "a recorded step differs from the model" in caplog.text


@pytest.mark.parametrize("machine", [Shuffled, pytest.param(Numpy, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "family", ["Llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("GPT-2", "Gemma 3"))]
)
def test_other_orders_and_other_kernels_give_the_same_bits(machine, family):
    model = Portable(random_model(family))
    here = figures(lane_of(model))
    with machine() as other:
        there = figures(lane_of(model))
    assert torch.equal(here, there)
    assert other.calls > 100


@pytest.mark.parametrize("family", families())
def test_a_family_is_near_its_own_float64_and_has_no_narrow_bits(family):
    model, plain = Portable(random_model(family)), random_model(family, dtype=torch.float64)
    found = figures(lane_of(model))
    own = plain(torch.tensor([[*PROMPT, *FORCED]]), use_cache=False).logits[0, len(PROMPT) - 1 :]
    assert found.dtype == torch.float64
    assert float((found - own).abs().max()) < 3e-4
    assert torch.equal(found, figures(lane_of(model, slots=3, length=128, chunk=8), slot=1, read=2, company=1))


def test_positions_that_scale_a_query_are_computed_portably():
    """Ministral 3 takes the floor of a position, which no machine computes otherwise."""
    scaled = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8}
    changes = {"head_dim": 8, "rope_parameters": {**scaled, "llama_4_scaling_beta": 0.1}}
    model, plain = (
        random_model("Ministral3", changes=changes, dtype=dtype) for dtype in (torch.float32, torch.float64)
    )
    found = figures(lane_of(Portable(model)))
    own = plain(torch.tensor([[*PROMPT, *FORCED]]), use_cache=False).logits[0, len(PROMPT) - 1 :]
    assert float((found - own).abs().max()) < 3e-4


def test_layers_that_keep_a_state_are_refused_by_name():
    with pytest.raises(UserError, match="no form for layers that keep a state"):
        lane_of(Portable(families_table.random_model(families_table.tiny("lfm2"), torch.float32, "eager")))


EXPERTS = {
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 24},
    "DeepseekV3": {
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16},
        **{
            "num_key_value_heads": 4,
            "q_lora_rank": 12,
            "kv_lora_rank": 10,
            "v_head_dim": 12,
            "first_k_dense_replace": 1,
        },
        **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4},
    },
}


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_sinks_and_latents_have_no_bits_of_their_neighbours(family):
    """Tokens are grouped by the experts that they choose, whoever else chose them; a sink is a score without a value; of latents, keys and values are made at every step."""
    model = random_model(family, changes=EXPERTS[family])
    plain = random_model(family, changes=EXPERTS[family], dtype=torch.float64)
    plain.set_experts_implementation("eager")
    found = figures(lane_of(Portable(model)))
    own = plain(torch.tensor([[*PROMPT, *FORCED]]), use_cache=False).logits[0, len(PROMPT) - 1 :]
    assert float((found - own).abs().max()) < 3e-4
    assert torch.equal(
        found, figures(lane_of(Portable(model), slots=3, length=128, chunk=8), slot=1, read=2, company=1)
    )


def test_rows_that_are_named_twice_in_one_addition_are_refused():
    x, twice = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([1, 1])
    with Mode(), pytest.raises(UserError, match="rows that are named twice"):
        x.index_add_(0, twice, torch.ones(2, 2, dtype=torch.float64))


def test_weights_stay_in_their_own_dtype_and_the_bits_do_not_depend_on_it():
    narrow = random_model(dtype=torch.bfloat16)
    wide = random_model(dtype=torch.bfloat16).double()
    found = figures(lane_of(Portable(narrow)))
    assert {weight.dtype for weight in narrow.parameters()} == {torch.bfloat16}
    assert torch.equal(found, figures(lane_of(Portable(wide))))


def test_outside_the_mode_the_model_is_what_it_was():
    ids = torch.tensor([PROMPT])
    for family in ("Llama", "Gemma 2", "GPT-2"):
        model, untouched = random_model(family), random_model(family)
        Portable(model)
        for mine, its in zip(
            [*untouched.parameters(), *untouched.buffers()], [*model.parameters(), *model.buffers()], strict=True
        ):
            mine.copy_(its)
        assert torch.equal(model(ids, use_cache=False).logits, untouched(ids, use_cache=False).logits)


def test_rotary_frequencies_do_not_come_from_libm():
    model, untouched = Portable(random_model()), random_model()
    renewed, own = model.model.model.rotary_emb.inv_freq, untouched.model.rotary_emb.inv_freq
    torch.testing.assert_close(renewed, own, rtol=1e-6, atol=0)
    with Numpy(), Mode():
        again = type(untouched.model.rotary_emb)(untouched.config).inv_freq
    assert torch.equal(again, renewed)


FAULTS = {
    "products without a grid": ("grid", lambda x, bits, dim=-1: x),
    "sixteen bits too many": ("room", lambda terms: 70),
    "shares without a common unit": ("snap", lambda x, size, bits: x),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_depends_on_the_order_of_sums(name, monkeypatch):
    function, fault = FAULTS[name]
    for module in (operations, portable):
        monkeypatch.setattr(module, function, fault, raising=False)
    query, key, value = (exact.samples(2, 4, 9, 16, scale=scale) for scale in (1.0, 2.0, 5.0))

    def computed():
        with Mode():
            keys, values = portable.keys_and_values(key, value)
            mixed = portable.attention(torch.nn.Module(), query, keys, values, torch.zeros(1, 1, 9, 9).double())[0]
            return torch.cat([mixed.flatten(), (query[0, 0] @ key[0, 0].t()).flatten()])

    plain = computed()
    with Shuffled():
        assert not torch.equal(computed(), plain)


def test_a_function_of_torchs_own_is_refused_in_a_recording(monkeypatch):
    """Its bits differ only on another machine, so nothing but its name can tell."""
    monkeypatch.setitem(operations.REPLACED, operations.aten.silu, lambda mode, x: F.silu(x))
    with pytest.raises(UserError, match=r"has no form for aten.silu.default; use --arithmetic fast\."):
        lane_of(Portable(random_model())).step(1).record_beside(lambda: False)


x = exact.samples(3, 4)
REFUSED = {
    "aten.lgamma": lambda: torch.lgamma(x),
    "add.Tensor with alpha": lambda: torch.add(x, x, alpha=2),
    "aten.addcmul": lambda: torch.addcmul(x, x, x),
    "addmm with alpha or beta": lambda: torch.addmm(x, x[:, :3], x, alpha=2.0),
    "powers of 2.5": lambda: x**2.5,
    "arange of floats": lambda: torch.arange(0.0, 1.0, 0.1),
    "with a rounding mode": lambda: torch.div(x, 3.0, rounding_mode="floor"),
    "aten._safe_softmax": lambda: F.scaled_dot_product_attention(x[None], x[None], x[None]),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("inference", [True, False])
def test_what_has_no_portable_form_is_refused_by_name(name, inference):
    with torch.inference_mode(inference), Mode(), pytest.raises(UserError) as refused:
        REFUSED[name]()
    assert name in str(refused.value)
    assert "use --arithmetic fast" in str(refused.value)


def test_attention_that_is_computed_in_another_way_is_refused():
    with pytest.raises(UserError, match="attention of its own"):
        Portable(random_model("GPTJ", changes={"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8}))


def test_every_operation_is_on_one_list():
    assert operations.PASSED.isdisjoint(operations.REPLACED)
    assert operations.EXACT.issubset(operations.REPLACED), "what is only exact on a grid is not passed to models"


COMPOSITES = {
    "layer_norm": lambda x: F.layer_norm(x, (32,)),
    "softmax": lambda x: torch.softmax(x, -1),
    "matmul": lambda x: x @ x.t(),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "argsort": lambda x: x.argsort(-1).double(),
    "gelu": F.gelu,
    "linear": lambda x: F.linear(x[None], x, x[:, 0]),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("inference", [True, False])
def test_composite_operations_are_taken_apart_until_they_are_known(name, inference):
    """Under inference mode torch hands them to a mode whole."""
    rows, compute = exact.samples(6, 32), COMPOSITES[name]
    with torch.inference_mode(inference), Mode():
        found = compute(rows)
    torch.testing.assert_close(found, compute(rows), rtol=1e-6, atol=1e-6)


def _outside(compute):
    """Computed on another thread, where no mode is."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as other:
        return other.submit(compute).result()


def test_a_mode_is_of_its_thread_and_can_be_entered_twice():
    mode = Mode()
    with mode, mode:
        assert operations.current() is mode
        assert _outside(operations.current) is None
    assert operations.current() is None


def test_a_factor_that_was_changed_in_place_is_rounded_anew():
    a, b = exact.samples(4, 8), exact.samples(8, 4)
    with Mode():
        a @ b
        a.mul_(3.0)
        changed = a @ b
    with Mode():
        assert torch.equal(a.clone() @ b, changed)


def test_equal_numbers_are_sorted_in_the_order_of_their_places():
    ties = torch.zeros(1, 999)
    with Mode():
        assert ties.topk(5).indices[0].tolist() == [0, 1, 2, 3, 4]
        assert ties.argsort(descending=True)[0, -1] == 998


def test_the_digest_is_of_everything_that_a_pass_reads():
    whole = portable.digest(random_model())
    assert portable.digest(random_model()) == whole
    others = []
    for change in (
        lambda model: model.lm_head.weight[3].add_(1e-3),
        lambda model: model.model.rotary_emb.inv_freq[1].mul_(1.0001),
        lambda model: setattr(model.model.layers[1].self_attn, "scaling", 0.3535533905932739),
        lambda model: model.to(torch.bfloat16),
    ):
        model = random_model()
        change(model)
        others.append(portable.digest(model))
    assert len({whole, *others}) == 5


def test_keys_and_values_lose_nothing_in_the_dtype_that_they_are_kept_in():
    for size in (8, 16, 64, 256):
        for scale in (1.0, 1e20, 1e-20, 1e-30, 1e-36):
            key, value = exact.samples(2, 3, 5, size, scale=scale), exact.samples(2, 3, 5, size, scale=scale).flip(0)
            value[0, 0, 0] = 0.0
            with Mode():
                kept, monkey = portable.keys_and_values(key, value), pytest.MonkeyPatch()
                with monkey.context() as patch:
                    patch.setattr(portable, "CACHE", torch.float64)
                    wanted = portable.keys_and_values(key, value)
            for narrow, wide in zip(kept, wanted, strict=True):
                assert narrow.dtype == torch.float32 and torch.equal(narrow.double(), wide)
            assert bool(kept[1][..., -1].gt(2.0**-126).all()), "a size that no machine flushes to zero"
