"""What fits into memory: of a model that is to be loaded from its configuration alone, of a loaded one as it is."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..engine import Engine, experts, packed
from ..engine.device import Placement
from ..engine.slots import RECURRENT, CacheBytes, Masks, SlotCache, layer_kinds, usable_context
from ..engine.step import forward_pass
from ..errors import NotEnoughMemory, UserError
from .budget import SPARE_BYTES, Footprint, Need, OneLayer
from .whole import weight_files

making = threading.Lock()  # transformers sets torch's default dtype while it makes a model, for the whole process


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the GPU, or of this process's share of the machine (a container's limit counts)."""
    if device.type == "cuda":  # and what the allocator holds for nobody
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
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


def footprint(config: PreTrainedConfig, placement: Placement) -> Footprint:
    """What a model would take here, from its shapes alone.

    The caches are what a pass on the meta device leaves: layers differ in heads and in head sizes, and some have none.

    Raises:
        UserError: the model keeps what it has read in another place than the cache.
    """
    config = deepcopy(config)  # making a model writes into it
    with making, torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=placement.dtype, attn_implementation="eager").eval()
    weights = sum(tensor.nbytes for tensor in _tensors(model))  # tied ones count once
    if packed.can_pack(placement.device, placement.dtype) and not placement.portable:
        weights += packed.copied_bytes(model)
    with experts.taken_down(model) as routes:
        cache, each = _cache_bytes(model, placement)
    copied = _copied_bytes(model, routes) if placement.device.type != "cpu" else 0  # experts.without_neighbours
    return Footprint(weights, cache, copied, *_apart(model, each))


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return chain(module.parameters(), module.buffers())


def _apart(model: PreTrainedModel, caches: Sequence[CacheBytes]) -> tuple[tuple[OneLayer, ...], tuple[str, ...]]:
    """The layers of a model and the names of its other modules; none where layers share weights, or a module has tensors of its own beside them."""
    lists = [(name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)]
    name, layers = next(((name, part) for name, part in lists if len(part) == len(caches)), ("", []))
    own = [list(_tensors(layer)) for layer in layers]
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    rest = {key.rpartition(".")[0]: None for key, _ in named if not key.startswith(f"{name}.")}
    if len(set(chain(*own))) < sum(map(len, own)) or any(name.startswith(each) for each in rest):
        return (), ()
    sizes = [sum(tensor.nbytes for tensor in tensors) for tensors in own]
    found = (OneLayer(f"{name}.{place}", *each) for place, each in enumerate(zip(sizes, caches, strict=True)))
    return tuple(found), tuple(rest)


def need(config: PreTrainedConfig, placement: Placement) -> Need:
    """What a model would need here. Raises UserError as `footprint` does."""
    text = config.get_text_config()
    return Need(footprint(config, placement), usable_context(text), text.vocab_size, placement)


def _copied_bytes(model: PreTrainedModel, routes: Sequence[experts.Route]) -> int:
    """Of the experts of one token, in the layer where they are the largest."""
    layers = zip(experts.modules_of(model), routes, strict=False)
    sizes = [
        sum(whole.nbytes // len(whole) for whole in layer.parameters()) * route.experts.shape[1]
        for layer, route in layers
    ]
    return max(sizes, default=0)


def _cache_bytes(model: PreTrainedModel, placement: Placement) -> tuple[CacheBytes, list[CacheBytes]]:
    """Of all layers; and of each, where a pass on the meta device says so."""
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
        return CacheBytes(_by_formula(text, placement.cache_dtype), 0), []
    if missed:
        raise _keeps_elsewhere(model)
    position, row = cache.bytes()
    whole = CacheBytes(position * placement.cache_dtype.itemsize // placement.dtype.itemsize, row)
    return whole, [cache.bytes([layer]) for layer in cache.slot_layers]


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
    there = sum(map(total_bytes, placement.cards or [placement.device]))
    if needed > there:
        raise UserError(
            f"The weights of {name} take {needed / 2**30:,.0f} GB and this machine has {there / 2**30:,.0f} GB of memory for them; choose a smaller model."
        )


def check_room_for_another(engine: Engine) -> None:
    """Raises NotEnoughMemory when a second model of this size, with a lane for itself, does not fit beside what is loaded."""
    rows = engine.shape.slots + 2
    for device, size in _with_caches(engine, engine.context * rows, rows).items():
        needed, free = size + SPARE_BYTES, free_bytes(device)
        if needed > free:
            raise NotEnoughMemory(
                f"Mixing these weights takes about {needed / 2**30:.1f} GB more, and {free / 2**30:.1f} GB is free; turn the dial in the space of logits."
            )


def bytes_in_use(engine: Engine) -> dict[torch.device, int]:
    """Bytes that a loaded model takes on each device: its weights, and its caches."""
    rows, sizes = engine.shape.slots + 1, engine.shape.sizes
    return _with_caches(engine, sum(sizes) * rows, len(sizes) * rows)


def _with_caches(engine: Engine, positions: int, rows: int) -> dict[torch.device, int]:
    found = {device: cache.of(positions, rows) for device, cache in engine.cache_bytes_on.items()}
    for parameter in engine.model.parameters():
        found[parameter.device] += parameter.nbytes
    return found
