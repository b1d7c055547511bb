"""How fast this machine moves memory: measured by copying, on the device that the weights are on."""

from time import perf_counter

import torch

BUFFER_BYTES = 2**27  # larger than most caches


def copy_bandwidth(device: torch.device, rounds: int = 5) -> float:
    """Bytes read and written per second while one buffer is copied to another; the fastest of `rounds` (as in STREAM)."""
    source = torch.zeros(BUFFER_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return max(2 * BUFFER_BYTES / _seconds(source, target) for _ in range(rounds))


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
