"""What fits into memory: of a model that is to be loaded from its configuration alone, of a loaded one as it is."""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..engine import Engine
from ..engine.device import Placement
from ..engine.engine import STORE_BYTES, Shape, lane_sizes
from ..engine.slots import kv_bytes_per_token, usable_context
from ..errors import NotEnoughMemory, UserError
from ..settings import Settings, usable_cores

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


def weight_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the weights in `dtype` and of the tables beside them, from the shapes alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))  # tied ones count once


def check_size(files: Mapping[str, int], config: PreTrainedConfig, placement: Placement, name: str) -> None:
    """Raises UserError when the weights alone, by the sizes of their files, are more than this machine could ever hold."""
    weights = [file for file in files if file.endswith(".safetensors")]
    own = [file for file in weights if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", file)]
    written = sum(files[file] for file in own or weights)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    needed = written * placement.dtype.itemsize // dtype.itemsize
    there = total_bytes(placement.device)
    if needed > there:
        raise UserError(
            f"The weights of {name} take {needed / 2**30:,.0f} GB and this machine has {there / 2**30:,.0f} GB of memory for them; choose a smaller model."
        )


def choose_shape(config: PreTrainedConfig, placement: Placement, settings: Settings, weights: int, free: int) -> Shape:
    """Slots, chunk and lane lengths: the longest context whose caches fit beside the weights.

    Raises:
        NotEnoughMemory: not even the shortest context fits; says how much is needed and how much is there.
    """
    text = config.get_text_config()
    gpu = placement.device.type != "cpu"
    slots = settings.slots or (16 if gpu else 4)
    chunk = 256 if gpu else 64
    wanted = min(usable_context(text), settings.context or (16384 if gpu else 4096))
    per_token = kv_bytes_per_token(text, placement.cache_dtype)
    context = wanted
    while True:
        sizes = lane_sizes(context, chunk)
        rows = sum(sizes) * (slots + 1) + sizes[-1]  # the slots and the prompt that is read; a reply that is scored
        needed = weights + per_token * rows + STORE_BYTES + SPARE_BYTES
        if needed <= free:
            return Shape(slots, chunk, sizes, settings.threads or max(1, usable_cores() // 2))
        if context <= 1024:
            raise NotEnoughMemory(
                f"These weights need about {needed / 2**30:.1f} GB with their caches, and {free / 2**30:.1f} GB is free; choose a smaller pair, fewer --slots or a shorter --context."
            )
        context //= 2


def check_room_for_another(engine: Engine) -> None:
    """Raises NotEnoughMemory when a second model of this size, with a lane for itself, does not fit beside what is loaded."""
    needed = _model_bytes(engine, engine.context * (engine.shape.slots + 2)) + SPARE_BYTES
    free = free_bytes(engine.device)
    if needed > free:
        raise NotEnoughMemory(
            f"Mixing these weights takes about {needed / 2**30:.1f} GB more, and {free / 2**30:.1f} GB is free; turn the dial in the space of logits."
        )


def bytes_in_use(engine: Engine) -> int:
    """Bytes that a loaded model takes: its weights, and its caches of keys and values."""
    return _model_bytes(engine, sum(engine.shape.sizes) * (engine.shape.slots + 1))


def _model_bytes(engine: Engine, positions: int) -> int:
    """Bytes of the weights, and of the keys and values of so many positions."""
    caches = positions * kv_bytes_per_token(engine.model.config.get_text_config(), engine.cache_dtype)
    return sum(parameter.nbytes for parameter in engine.model.parameters()) + caches
