"""Folders whose config.json says that their weights are quantised: whether the library can load them on this machine."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

from ..engine.device import Placement
from ..errors import UserError
from .sources import reason


def method(config: PreTrainedConfig) -> str:
    """By which its weights were quantised; empty where they were not."""
    said = getattr(config, "quantization_config", None)
    return str(said.get("quant_method", "")) if isinstance(said, dict) else ""


def check(config: PreTrainedConfig, placement: Placement, name: str) -> None:
    """Let weights that can be widened be widened when they are loaded. Writes into `config`.

    Raises:
        UserError: transformers cannot load them here; the sentence has its reason.
    """
    said = getattr(config, "quantization_config", None)
    if said is None:
        return
    try:
        wanted = AutoQuantizationConfig.from_dict(said)
        if hasattr(wanted, "dequantize"):
            wanted.dequantize = said["dequantize"] = True
        quantizer = AutoHfQuantizer.from_config(wanted, pre_quantized=True)
        quantizer.validate_environment(device_map={"": placement.device}, weights_only=True)
    except (ImportError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = reason(error, name).partition(". ")[0]
        raise UserError(
            f"{name} is quantised ({method(config)[:40] or 'by an unknown method'}), which cannot be loaded here: {why}; take its unquantised weights, or a GGUF file of it."
        ) from error


def finish(model: PreTrainedModel, config: PreTrainedConfig, placement: Placement) -> None:
    """Weights that were widened have the dtype that was asked for; transformers (5.23) widens to bfloat16, whatever was."""
    said = getattr(config, "quantization_config", None)
    if said is not None and said.get("dequantize"):
        for parameter in model.parameters():
            if parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.to(placement.dtype)
