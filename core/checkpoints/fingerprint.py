"""The sha256 of a model's values, and whether anything could change them."""

import hashlib
import json

import torch
from transformers import PreTrainedModel

from ..engine.packed import PackedWeight, unpacked
from ..engine.portable import as_loaded, value_bytes


def weights_sha256(model: torch.nn.Module) -> str:
    """Sha256 over the name, shape and values of every parameter and saved buffer, in the order of their names.

    It is of the values, not of how they are stored: values that bfloat16 holds exactly are hashed as
    bfloat16, so the same file gives the same fingerprint in float32 and in bfloat16. What portable arithmetic rounded
    counts as it was loaded, as long as it is what it was rounded to. Packed weights are read where they lie.
    """
    digest = hashlib.sha256()
    tied: dict[int, str] = {}
    for name, weight in sorted(model.state_dict(keep_vars=True).items()):
        tensor = unpacked(weight)
        lasts = not isinstance(weight, PackedWeight) or tensor is weight.tied
        shared = tied.setdefault(tensor.data_ptr() if lasts else id(weight), name) if tensor.numel() else name
        digest.update(json.dumps([name, list(tensor.shape), shared]).encode())
        if shared == name:
            digest.update(value_bytes(as_loaded(tensor)))
    return digest.hexdigest()


def gradients(model: PreTrainedModel) -> int:
    """How many parameters have a gradient, or would get one."""
    return sum(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
