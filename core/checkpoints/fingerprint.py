"""The sha256 of a model's values, and whether anything could change them."""

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedModel


def weights_sha256(model: torch.nn.Module) -> str:
    """Sha256 over the name, shape and values of every parameter and saved buffer, in the order of their names.

    It is of the values, not of how they are stored: values that bfloat16 holds exactly are hashed as
    bfloat16, so the same file gives the same fingerprint in float32 and in bfloat16.
    """
    digest = hashlib.sha256()
    tied: dict[int, str] = {}
    for name, tensor in sorted(model.state_dict(keep_vars=False).items()):
        shared = tied.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        digest.update(json.dumps([name, list(tensor.shape), shared]).encode())
        if shared == name:
            digest.update(_canonical_bytes(tensor.detach()))
    return digest.hexdigest()


def _canonical_bytes(tensor: torch.Tensor) -> Any:
    """The values as contiguous little-endian bytes: bfloat16 where that is exact, else float32 or as they are."""
    tensor = tensor.cpu().contiguous()
    if tensor.dtype in (torch.float32, torch.float16):
        narrow = tensor.bfloat16()
        tensor = narrow if torch.equal(narrow.float(), tensor.float()) else tensor.float()
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def gradients(model: PreTrainedModel) -> int:
    """How many parameters have a gradient, or would get one."""
    return sum(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
