"""On what a model runs: the device, the dtype, and the settings under which a GPU repeats its bits."""

import gc
import logging
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..settings import Settings
from . import exact

log = logging.getLogger(__name__)

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
BFLOAT16_CAPABILITY = (8, 0)  # Ampere; GPUs before it compute in bfloat16 many times more slowly, or not at all


@dataclass(frozen=True)
class Placement:
    """On what a model runs here. `lacks` names what this machine computes otherwise, where it runs fast for that alone."""

    device: torch.device
    dtype: torch.dtype
    portable: bool = False
    lacks: tuple[str, ...] = ()
    lent: bool = False  # there is no such device in this process: it is lent to others (lent.py)
    cards: tuple[torch.device, ...] = ()  # all GPUs where there are several, for a model that needs more than one

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of keys and values."""
        return torch.float32 if self.portable else self.dtype

    @property
    def read_on(self) -> torch.device:
        """Where weights are read from their files."""
        return torch.device("cpu") if self.lent else self.device


def place(settings: Settings, index: int = 0, arithmetic: str = "fast") -> Placement:
    """On what the `index`-th model of a pair runs: with two GPUs, one model each, if each fits on one.

    Args:
        arithmetic: what the pair is served in on a processor, where the settings do not say.

    Raises:
        UserError: the device that was asked for is not there, or cannot compute as it was asked to.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(name for name in present if present[name]) if settings.device == "auto" else settings.device
    if not present[kind]:
        raise UserError(f"--device {kind} was asked for, but torch finds none here; use --device cpu.")
    if settings.device == "auto" and kind == "cpu" and NVIDIA_DRIVER.exists():
        _say_that_the_gpu_is_not_used()
    device = torch.device("cuda", index % torch.cuda.device_count()) if kind == "cuda" else torch.device(kind)
    wanted = (settings.arithmetic or (arithmetic if kind == "cpu" else "fast")) == "portable"
    lacks = _other_answers(device) if wanted else ()
    portable = wanted and not lacks
    lent = settings.zero_gpu and kind == "cuda"
    count = 0 if kind != "cuda" or lent or portable else torch.cuda.device_count()
    cards = tuple(torch.device("cuda", number) for number in range(count)) if count > 1 else ()
    return Placement(device, _dtype(settings, device, portable), portable, lacks, lent, cards)


def _dtype(settings: Settings, device: torch.device, portable: bool) -> torch.dtype:
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_CAPABILITY:
        return torch.float16
    fast = portable or device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()  # portable only stores in it
    return torch.bfloat16 if fast else torch.float32


@cache
def _say_that_the_gpu_is_not_used() -> None:
    """Once: such a machine would be slow without a word."""
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    log.warning(
        "models run on the processor: this machine has an NVIDIA driver, but torch %s, built %s, finds no GPU that it can use; install another build of torch or driver, or say --device cpu",
        torch.__version__,
        build,
    )


def software(device: torch.device, attention: Sequence[str]) -> dict[str, str]:
    """What of a GPU's software bits depend on, as the fingerprint names it; nothing for a processor, where torch's version says it.

    Args:
        attention: the kernels that sdpa is computed with.
    """
    if device.type != "cuda":
        return {}
    found = {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    return found | ({"attention kernel": ", ".join(attention)} if attention else {})


def parameters_on(model: torch.nn.Module) -> Counter[torch.device]:
    """How many parameters of a model are on which device; ids go to the first, and from there logits come."""
    found = Counter[torch.device]()
    for parameter in model.parameters():
        found[parameter.device] += parameter.numel()
    return found


def described(model: torch.nn.Module) -> str:
    """The device of a model as the fingerprint names it, or those that it is spread over, and how."""
    counts = parameters_on(model)
    if len(counts) == 1:
        return _described(*counts)
    return "spread over " + " and ".join(f"{_described(each)} ({counts[each]:,} parameters)" for each in counts)


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@cache
def _other_answers(device: torch.device) -> tuple[str, ...]:
    """What this device does not give the known answers for, on which portable arithmetic rests; one with any runs fast, and says so.

    Raises:
        UserError: it has no float64 at all.
    """
    if device.type == "mps":
        raise UserError("Portable arithmetic needs float64, which this GPU has not; use --device cpu.")
    wrong = exact.self_test(str(device))
    if wrong:
        log.warning("no portable arithmetic here: %s of this machine's gives other answers", ", ".join(wrong))
    return tuple(wrong)


def figures_device(device: torch.device) -> torch.device:
    """Where logits are computed with: on their own device, but on the CPU where that has no float64 (Apple's GPUs)."""
    return torch.device("cpu") if device.type == "mps" else device


def give_back() -> None:
    """Let go of what nobody refers to any more, back to the machine: the allocator of a GPU would keep it for this process."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def deterministic_cuda() -> None:
    """CUDA settings under which a kernel gives the same bits every time. Set once, before anything is served.

    torch.use_deterministic_algorithms is not among them. For every write into a cache it would sort the places, and copy the
    whole cache there and back, though none is written twice. `make gpu` holds replies against those that are written under it.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # nor would that flag let it be chosen


def on_device(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Numbers as a tensor there. A GPU takes them from pinned memory, so that nobody waits for it."""
    gpu = device.type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=gpu).to(device, non_blocking=gpu)


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Inside, what this thread asks of a GPU does not queue behind what other threads ask of it.

    It comes after what was asked of the GPU before, and is done at the end.
    """
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))  # on which weights were loaded, or mixed
    with torch.cuda.stream(stream):
        try:
            yield
        finally:
            stream.synchronize()


def handed_over(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, for threads that compute on the default stream: there it is waited for, and its memory is not given away before they are done."""
    if tensor.device.type == "cuda":
        others = torch.cuda.default_stream(tensor.device)
        others.wait_stream(torch.cuda.current_stream(tensor.device))
        tensor.record_stream(others)
    return tensor
