"""On what a model runs: the device, the dtype, and the settings under which a GPU repeats its bits."""

from dataclasses import dataclass

import torch

from ..errors import UserError
from ..settings import Settings


@dataclass(frozen=True)
class Placement:
    """On what a model runs here."""

    device: torch.device
    dtype: torch.dtype


def place(settings: Settings, index: int = 0) -> Placement:
    """The device and dtype for the `index`-th model of a pair: with two GPUs, one model each.

    Raises:
        UserError: the device that was asked for is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(name for name in present if present[name]) if settings.device == "auto" else settings.device
    if not present[kind]:
        raise UserError(f"--device {kind} was asked for, but torch finds none here; use --device cpu.")
    device = torch.device("cuda", index % torch.cuda.device_count()) if kind == "cuda" else torch.device(kind)
    if settings.dtype != "auto":
        return Placement(device, getattr(torch, settings.dtype))
    fast_bfloat16 = kind != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return Placement(device, torch.bfloat16 if fast_bfloat16 else torch.float32)


def figures_device(device: torch.device) -> torch.device:
    """Where logits are computed with: on their own device, but on the CPU where that has no float64 (Apple's GPUs)."""
    return torch.device("cpu") if device.type == "mps" else device


def deterministic_cuda() -> None:
    """CUDA settings under which a kernel gives the same bits every time. Set once, before anything is served."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads what it did not write
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False
