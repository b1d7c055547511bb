"""How fast this machine moves memory, measured by copying on the device of the weights, and how much a forward pass reads."""

from time import perf_counter

import torch
from transformers import PreTrainedModel

CPU_BUFFER_BYTES = 2**27  # larger than most caches
GPU_BUFFER_BYTES = 2**30  # large enough that starting the copy takes no visible share


def copy_bandwidth(device: torch.device, rounds: int = 5) -> float:
    """Bytes read and written per second while one buffer is copied to another; the fastest of `rounds` (as in STREAM)."""
    size = CPU_BUFFER_BYTES if device.type == "cpu" else GPU_BUFFER_BYTES
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return max(2 * size / _seconds(source, target) for _ in range(rounds))


def bytes_per_pass(model: PreTrainedModel) -> int:
    """Bytes of weights that one forward pass reads: all of them, but of an input embedding of its own only a row or so."""
    (embedding,), (output, *_) = (
        list(layer.parameters()) for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    own = 0 if embedding is output else embedding.nbytes
    return sum(parameter.nbytes for parameter in model.parameters()) - own


def _seconds(source: torch.Tensor, target: torch.Tensor) -> float:
    _synchronize(source.device)
    began = perf_counter()
    target.copy_(source)
    _synchronize(source.device)
    return perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
