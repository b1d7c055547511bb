"""What fits into memory: of a model that is to be loaded from its configuration alone, of a loaded one as it is."""

import threading
from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..engine import Engine
from ..engine.device import Placement
from ..engine.engine import STORE_BYTES, Shape, lane_sizes
from ..engine.lane import GRAIN
from ..engine.slots import RECURRENT, CacheBytes, Masks, SlotCache, layer_kinds, usable_context
from ..engine.step import forward_pass
from ..errors import NotEnoughMemory, UserError
from ..settings import Settings, usable_cores
from .whole import weight_files

making = threading.Lock()  # transformers sets torch's default dtype while it makes a model, for the whole process
SPARE_BYTES = 2**29  # left free when deciding whether something fits


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the GPU, or of this process's share of the machine (a container's limit counts)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def total_bytes(device: torch.device) -> int:
    """All memory of the GPU, or of this process's share of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    total, limit = psutil.virtual_memory().total, Path("/sys/fs/cgroup/memory.max")
    given = limit.read_text().strip() if limit.exists() else "max"
    return total if given == "max" else min(total, int(given))


class Footprint(NamedTuple):
    """What a model takes: bytes of its weights and of the tables beside them, and of its caches."""

    weights: int
    cache: CacheBytes


def footprint(config: PreTrainedConfig, placement: Placement) -> Footprint:
    """What a model would take here, from its shapes alone.

    The caches are what a pass on the meta device leaves: layers differ in heads and in head sizes, and some have none.

    Raises:
        UserError: the model keeps what it has read in another place than the cache.
    """
    config = deepcopy(config)  # making a model writes into it
    with making, torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=placement.dtype, attn_implementation="eager").eval()
    weights = sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))  # tied ones count once
    return Footprint(weights, _cache_bytes(model, placement))


def _cache_bytes(model: PreTrainedModel, placement: Placement) -> CacheBytes:
    text, meta = model.config.get_text_config(), torch.device("meta")
    try:
        if model.config._experts_implementation is not None:
            model.set_experts_implementation("batched_mm")  # the others look at the numbers, and there are none
        cache = SlotCache.empty(text, 1, 1, 1, meta)
        with torch.inference_mode():
            forward_pass(model, Masks(text, model.dtype, "eager"), cache, torch.zeros_like(cache.positions))
        missed = not all(layer.in_use for layer in cache.slot_layers)
    except Exception as error:  # whatever a model does that needs numbers or a cache of its own
        if model._is_stateful or set(layer_kinds(text)) & set(RECURRENT):
            raise _keeps_elsewhere(model) from error
        return CacheBytes(_by_formula(text, placement.cache_dtype), 0)
    if missed:
        raise _keeps_elsewhere(model)
    position, row = cache.bytes()
    return CacheBytes(position * placement.cache_dtype.itemsize // placement.dtype.itemsize, row)


def _keeps_elsewhere(model: PreTrainedModel) -> UserError:
    count = model.config.get_text_config().num_hidden_layers
    lists = [list(part) for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == count]
    names = sorted({type(layer).__name__ for layer in (lists or [[model]])[0]})
    return UserError(
        f"This model has {' and '.join(names)} layers, which keep what they have read in a place of their own, where the engine cannot give each visitor a row; choose another model."
    )


def _by_formula(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one position of one row where all layers are alike."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head_size * dtype.itemsize


def check_size(files: Mapping[str, int], config: PreTrainedConfig, placement: Placement, name: str) -> None:
    """Raises UserError when the weights alone, by the sizes of their files, are more than this machine could ever hold."""
    written = sum(files[file] for file in weight_files(files))
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    check_bytes(written * placement.dtype.itemsize // dtype.itemsize, placement, name)


def check_bytes(needed: int, placement: Placement, name: str) -> None:
    """Raises UserError when weights of so many bytes are more than this machine could ever hold."""
    there = total_bytes(placement.device)
    if needed > there:
        raise UserError(
            f"The weights of {name} take {needed / 2**30:,.0f} GB and this machine has {there / 2**30:,.0f} GB of memory for them; choose a smaller model."
        )


def choose_shape(
    config: PreTrainedConfig, placement: Placement, settings: Settings, needs: Footprint, free: int
) -> Shape:
    """Slots, chunk and lane lengths: the longest context whose caches fit beside the weights.

    Raises:
        NotEnoughMemory: not even the shortest context fits; says how much is needed and how much is there.
    """
    text = config.get_text_config()
    gpu = placement.device.type != "cpu"
    slots = settings.slots or (16 if gpu else 4)
    wanted = min(usable_context(text), settings.context or (16384 if gpu else 4096))
    chunk = 256 if gpu else _chunk_of_a_processor(wanted, placement)
    context = wanted
    while True:
        sizes = lane_sizes(context, chunk)
        # The slots and the prompt that is read, of each lane; a reply that is scored.
        caches = needs.cache.of(sum(sizes) * (slots + 1) + sizes[-1], len(sizes) * (slots + 1) + 1)
        needed = needs.weights + caches + STORE_BYTES + SPARE_BYTES
        if needed <= free:
            return Shape(slots, chunk, sizes, settings.threads or max(1, usable_cores() // 2))
        if context <= 1024:
            raise NotEnoughMemory(
                f"These weights need about {needed / 2**30:.1f} GB with their caches, and {free / 2**30:.1f} GB is free; choose a smaller pair, fewer --slots or a shorter --context."
            )
        context //= 2


def _chunk_of_a_processor(context: int, placement: Placement) -> int:
    """A longer one is read faster, token by token; none may cost some of the context. What portable arithmetic writes is kept by chunks, too."""
    if placement.portable:
        return GRAIN
    return next(chunk for chunk in (4 * GRAIN, 2 * GRAIN, GRAIN) if chunk == GRAIN or context % chunk == 0)


def check_room_for_another(engine: Engine) -> None:
    """Raises NotEnoughMemory when a second model of this size, with a lane for itself, does not fit beside what is loaded."""
    rows = engine.shape.slots + 2
    needed = _weight_bytes(engine) + engine.cache_bytes.of(engine.context * rows, rows) + SPARE_BYTES
    free = free_bytes(engine.device)
    if needed > free:
        raise NotEnoughMemory(
            f"Mixing these weights takes about {needed / 2**30:.1f} GB more, and {free / 2**30:.1f} GB is free; turn the dial in the space of logits."
        )


def bytes_in_use(engine: Engine) -> int:
    """Bytes that a loaded model takes: its weights, and its caches."""
    rows, sizes = engine.shape.slots + 1, engine.shape.sizes
    return _weight_bytes(engine) + engine.cache_bytes.of(sum(sizes) * rows, len(sizes) * rows)


def _weight_bytes(engine: Engine) -> int:
    return sum(parameter.nbytes for parameter in engine.model.parameters())
