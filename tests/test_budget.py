"""What a pair gets of a card's memory: computed from numbers, for cards that are not here."""

import re
from dataclasses import replace

import pytest
import torch

from benchmarks import families, fits
from core.checkpoints import memory
from core.checkpoints.budget import LONG_ENOUGH, SPARE_BYTES, Footprint, Need, OneLayer, must_spread, plan
from core.engine.device import Placement
from core.engine.engine import STORE_BYTES, Shape
from core.engine.slots import CacheBytes
from core.errors import NotEnoughMemory
from core.settings import Settings
from tests.engines import random_model

CPU, GPU, OTHER = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
GB = 2**30
DEFAULTS = Settings(threads=1)


def need(
    weights: float = 1.0, position: int = 1000, device: torch.device = GPU, context: int = 40960, words: int = 1000
) -> Need:
    return Need(
        Footprint(int(weights * GB), CacheBytes(position, 10)), context, words, Placement(device, torch.bfloat16)
    )


def granted(*models: Need, gb: float, settings: Settings = DEFAULTS, like: Shape | None = None):
    return plan(models, dict.fromkeys((CPU, GPU, OTHER), int(gb * GB)), settings, like)


def test_everything_that_a_model_takes_is_counted_once():
    """Slots and the prompt that is read in each lane, a reply that is scored, three times 64 tokens' logits for the lens and the pass's own."""
    model = Need(Footprint(5, CacheBytes(64, 1000), copied=11), 8192, 152_000, Placement(CPU, torch.bfloat16))
    shape = Shape(slots=4, chunk=256, sizes=(256, 1024), threads=1)
    caches = 64 * (5 * 1280 + 1024) + 1000 * (5 * 2 + 1)
    assert model.bytes(shape) == 5 + caches + STORE_BYTES + 152_000 * 64 * (3 * 4 + 2) + 4 * 11
    assert model.bytes_of_a_mix(shape) == 5 + 64 * 1024 * 6 + 1000 * 6
    assert need(words=152_000).graphs(shape) == 4 * 152_000 * 8 * 8 and model.graphs(shape) == 0
    settings = Settings(slots=4, context=1024, threads=1)
    just = model.bytes(shape) + SPARE_BYTES
    assert plan([model], {CPU: just}, settings) == (shape, False)
    assert plan([model], {CPU: just + model.bytes_of_a_mix(shape)}, settings) == (shape, True)
    with pytest.raises(NotEnoughMemory, match=r"These weights need about 0\.\d GB with their caches"):
        plan([model], {CPU: just - 1}, settings)


def test_a_tight_memory_shortens_the_context_then_takes_slots_then_goes_on_and_then_refuses():
    pair = need(1, 200_000), need(1, 200_000)
    found = []
    for gb in (250, 200, 60, 42, 30, 18, 12, 8, 6):
        shape, mix = granted(*pair, gb=gb)
        found.append((shape.sizes[-1], shape.slots, mix))
    assert found == [
        (16384, 16, True),
        (8192, 16, True),
        (4096, 16, True),
        (4096, 16, False),
        (4096, 8, False),
        (4096, 4, False),
        (2048, 4, False),
        (1024, 8, False),
        (1024, 4, False),
    ]
    with pytest.raises(NotEnoughMemory, match=r"The weights of this pair need about \d\.\d GB .*choose a smaller pair"):
        granted(*pair, gb=3.5)


def test_a_pair_that_fits_is_not_refused_because_its_first_model_took_all():
    """Both are planned before either is loaded; the second then finds what it was promised."""
    pair = need(16), need(16)
    shape, _ = granted(*pair, gb=44)
    left = 44 - pair[0].bytes(shape) / GB
    assert granted(pair[1], gb=left, like=shape).shape == shape
    alone, _ = granted(need(16, 10**5), gb=78)
    with pytest.raises(NotEnoughMemory):
        granted(need(40, 10**5), gb=78 - need(16, 10**5).bytes(alone) / GB)


def test_siblings_have_the_same_lanes_and_the_shorter_context():
    assert granted(need(context=8192), need(context=2048), gb=100).shape.sizes == (256, 1024, 2048)
    first = Shape(8, 256, (256, 1024, 4096), 1)
    assert granted(need(), gb=100, like=first).shape == first, "though there is room for more"
    assert granted(need(16, 150_000), gb=22, like=first).shape.sizes == (256, 1024, 2048), "rather than refused"


@pytest.mark.parametrize(
    "context, portable, chunk", [(4096, False, 256), (1000, False, 64), (640, False, 128), (4096, True, 64)]
)
def test_a_processor_reads_long_chunks_where_no_context_is_lost_and_nothing_that_was_written_is_kept(
    context, portable, chunk
):
    placed = replace(need(device=CPU), placement=Placement(CPU, torch.bfloat16, portable))
    shape = granted(placed, gb=100, settings=Settings(context=context, threads=1)).shape
    assert shape.chunk == chunk and shape.sizes[-1] == context // 64 * 64
    assert granted(placed, gb=100, like=shape).shape == shape, "a sibling has the same"


def test_each_gpu_has_a_budget_of_its_own():
    pair = need(10, device=GPU), need(10, device=OTHER)
    assert granted(*pair, gb=16).shape.sizes[-1] == 16384
    with pytest.raises(NotEnoughMemory):
        granted(need(10), need(10), gb=16)
    with pytest.raises(NotEnoughMemory, match=r"1\.0 GB is free"):
        plan(pair, {GPU: 16 * GB, OTHER: GB}, Settings())


def over_both(weights: float, layers: int = 32, position: int = 2**17, device: torch.device = GPU) -> Need:
    """A model of so many GB, a tenth of them in no layer, that may be spread."""
    each = OneLayer("", int(weights * GB * 0.9) // layers, CacheBytes(position // layers, 0))
    apart = tuple(each._replace(name=f"layers.{number}") for number in range(layers))
    footprint = Footprint(int(weights * GB), CacheBytes(position, 0), 0, apart, ("head",))
    return Need(footprint, 40960, 1000, Placement(device, torch.bfloat16, cards=(GPU, OTHER)))


def test_models_that_do_not_fit_on_a_card_each_are_spread_over_all():
    """A pair of 16 GB each on two cards of 24 GB fits as one model each; one of 30 GB each on none, but on two of 40."""
    fits, large = (over_both(16), over_both(16, device=OTHER)), (over_both(30), over_both(30, device=OTHER))
    for pair, gb, expected in (
        (fits, 23, False),
        (large, 38, False),
        (large, 30, True),
        ((fits[0], large[1]), 30, True),
    ):
        assert must_spread(pair, dict.fromkeys((GPU, OTHER), gb * GB), DEFAULTS) == expected
    assert not must_spread([need(30)], {GPU: GB}, DEFAULTS), "where there is one card"


def spread(*models: Need, gb: dict[torch.device, float], like: Shape | None = None):
    return plan(models, {card: int(free * GB) for card, free in gb.items()}, DEFAULTS, like, spread=True)


def test_each_card_has_its_share_of_the_layers_with_their_caches_and_the_first_all_else():
    model = over_both(20)
    shape, _ = spread(model, gb={GPU: 12, OTHER: 24})
    where, taken = model.laid_out(shape, {GPU: 12 * GB - SPARE_BYTES, OTHER: 24 * GB - SPARE_BYTES})
    order = list(where.values())
    assert where["head"] == GPU and order == sorted(order, key=str), "in their order"
    assert all(taken[card] + SPARE_BYTES <= size * GB for card, size in ((GPU, 12), (OTHER, 24)))
    kept = STORE_BYTES
    assert sum(taken.values()) == model.bytes(shape) + kept, "which each may have some of"
    one = model.footprint.layers[0]
    assert order.count(OTHER) > order.count(GPU) > 1
    assert taken[OTHER] - kept >= order.count(OTHER) * one.weights


def test_both_models_of_a_spread_pair_have_room_and_the_same_lanes():
    pair, free = (over_both(20), over_both(20, device=OTHER)), {GPU: 32.0, OTHER: 32.0}
    shape, _ = spread(*pair, gb=free)
    assert shape.spread and shape.sizes[-1] >= LONG_ENOUGH
    _, taken = pair[0].laid_out(shape, {card: int(size * GB) - SPARE_BYTES for card, size in free.items()})
    left = {card: size - taken[card] / GB for card, size in free.items()}
    assert spread(pair[1], gb=left, like=shape).shape == shape
    with pytest.raises(NotEnoughMemory, match=r"need about 4\d\.\d GB with their caches, and 40\.0 GB is free"):
        spread(*pair, gb={GPU: 20, OTHER: 20})


def test_the_layers_of_a_model_are_named_with_what_is_in_none():
    config = random_model("Llama").config
    found = memory.footprint(config, Placement(GPU, torch.float32))
    assert [layer.name for layer in found.layers] == ["model.layers.0", "model.layers.1"]
    assert set(found.rest) == {"model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"}
    assert sum(layer.cache.position for layer in found.layers) == found.cache.position
    assert sum(layer.weights for layer in found.layers) < found.weights
    shared = memory.footprint(families.tiny("zamba"), Placement(GPU, torch.float32))
    assert shared.layers == () and shared.weights, "whose layers have weights in common"


def test_room_for_a_mix_of_the_weights_takes_no_context_below_4096_and_no_slots():
    pair = need(8, 20_000), need(8, 20_000)
    with_mix = granted(*pair, gb=36)
    assert with_mix.mix and with_mix.shape.slots == 16 and with_mix.shape.sizes[-1] >= LONG_ENOUGH
    assert with_mix.shape.sizes[-1] < granted(*pair, gb=60).shape.sizes[-1]
    without = granted(*pair, gb=24)
    assert not without.mix and without.shape.slots == 16


def test_what_was_asked_for_is_not_made_less():
    settings = Settings(slots=16, context=4096, threads=1)
    with pytest.raises(NotEnoughMemory):
        granted(need(1, 10**6), gb=20, settings=settings)
    assert granted(need(1, 10**6), gb=20).shape.slots == 4


def test_a_mixture_copies_the_experts_of_a_token_for_each_slot():
    from tests.test_experts import mixture

    model = mixture()
    experts = [module for module in model.modules() if hasattr(module, "has_gate")]
    of_one = sum(each.nbytes for each in experts[0].parameters()) // 4
    assert memory.footprint(model.config, Placement(GPU, torch.float32)).copied == 2 * of_one
    assert memory.footprint(model.config, Placement(CPU, torch.float32)).copied == 0, "there none is copied"


def test_the_page_has_what_the_function_grants():
    page = fits.PAGE.read_text("utf-8")
    rows = [row for row in fits.rows(("Qwen3-0.6B",)) if row["pair"] == "Qwen3-0.6B"]
    assert len(rows) == len(fits.CARDS)
    for row in rows:
        cells = r" *\| *".join(re.escape(str(value)) for value in row.values())
        assert re.search(rf"^\| *{cells} *\|$", page, re.MULTILINE), row
