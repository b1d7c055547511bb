"""GGUF files: one model with its configuration, tokenizer and chat template, as transformers reads them.

Its weights are widened to what their quantised values stand for. What transformers leaves out of a file without a word
(tensors and keys that it has no name for, rules by which text is cut) would make another model of it, and is a refusal here.
"""

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType
from tokenizers import pre_tokenizers
from transformers import AutoConfig, GgufConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict, read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils.import_utils import is_kernels_available

from ..errors import UserError
from .sources import reason

# Of a file that somebody made by hand, or that is another kind of file, a reader of binary data may raise any of these.
_FOREIGN = (
    ValueError, LookupError, TypeError, ArithmeticError, AttributeError, NotImplementedError, MemoryError, OSError, struct.error,
)  # fmt: skip

# How a byte-level vocabulary cuts text where transformers (5.23) has no pattern for the name that the file gives: as GPT-2's,
# which is what it takes then, or with every digit apart first (llama.cpp, src/llama-vocab.cpp).
_AS_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"}
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}

# Keys that transformers does not read and need not: shapes of weights, which have to fit anyway, and what is no part of a forward pass.
_NEEDLESS = {
    "attention.key_length", "attention.value_length", "attention.causal", "expert_feed_forward_length", "expert_shared_feed_forward_length",
    "feed_forward_length", "pooling_type", "rope.dimension_count", "tensor_data_layout", "vocab_size",
}  # fmt: skip
# Keys that transformers does not read either, but whose values its configuration has by default, or has not: they are compared.
_BY_DEFAULT = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.sliding_window": "sliding_window",
}


@dataclass(frozen=True)
class GgufFile:
    """A file that is whole, as far as its head tells: its keys (arrays of strings as their lengths) and its tensors."""

    path: Path
    name: str
    keys: dict[str, Any]
    header: GgufHeader

    @property
    def quantization(self) -> str:
        """The types that its tensors are stored in, those with the most bytes first: "GGUF Q4_K, Q6_K, F32"."""
        stored = Counter[str]()
        for tensor in self.header.tensors:
            stored[GGMLQuantizationType(tensor.ggml_type).name] += tensor.nbytes
        return f"GGUF {', '.join(kind for kind, _ in stored.most_common())}"

    @property
    def loading(self) -> dict[str, Any]:
        """What `from_pretrained` is told of it, beside its folder."""
        return {"gguf_file": self.path.name, "quantization_config": GgufConfig(dequantize=True)}


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf"


def open_gguf(path: Path, name: str) -> GgufFile:
    """Raises UserError where it is not a GGUF file, is one part of several, or ends before its tensors do."""
    if is_kernels_available():
        raise UserError(
            "GGUF files are not read while the package kernels is installed, for transformers would fetch code from the Hub for them and run it; uninstall it and start again."
        )
    try:
        keys, _ = read_gguf_metadata(str(path))
        header = GgufHeader.from_file(str(path))
        end = header.data_start + max(tensor.offset + tensor.nbytes for tensor in header.tensors)
        parts = keys.get("split.count", 1)
    except _FOREIGN as error:
        raise UserError(f"{name} is no GGUF file that can be read here: {reason(error, name, path)}.") from error
    if parts not in (0, 1):
        raise UserError(
            f"{name} is one of {str(parts)[:10]} files of a model; merge them (llama-gguf-split --merge) and name the whole one."
        )
    if end > path.stat().st_size:
        raise UserError(f"{name} ends before its weights do; download or copy it again.")
    return GgufFile(path, name, keys, header)


def read_config(file: GgufFile) -> dict[str, Any]:
    """The values of the model's configuration, by the names that transformers gives them. Raises UserError where it knows no such model."""
    try:
        return PreTrainedConfig.get_config_dict(file.path.parent, gguf_file=file.path.name, local_files_only=True)[0]
    except _FOREIGN as error:
        raise UserError(
            f"{file.name} cannot be loaded with this version of transformers: {reason(error, file.name, file.path)}."
        ) from error


def make_config(file: GgufFile, values: dict[str, Any]) -> PreTrainedConfig:
    """Raises UserError where the file says more of its model than transformers reads of it."""
    try:
        config: PreTrainedConfig = AutoConfig.for_model(**values)
        if file.header.architecture not in GGUF_CONFIG_ARCHS:
            _check_keys(file, config)
        if _FREQUENCIES in file.header.ggml_types:
            _scale_as_llama3(file, config)
    except _FOREIGN as error:
        raise UserError(f"{file.name} has no configuration that can be read: {reason(error, file.name)}.") from error
    return config


def _check_keys(file: GgufFile, config: PreTrainedConfig) -> None:
    architecture = file.header.architecture
    read: Any = GGUF_CONFIG_MAPPING.get(architecture) or GGUF_CONFIG_MAPPING.get(config.model_type, {})
    for key, value in file.keys.items():
        own = key.removeprefix(f"{architecture}.")
        if own == key or own in read or own in _NEEDLESS:
            continue
        if own == "rope.scaling.type" and value == "none":
            continue
        if own not in _BY_DEFAULT or getattr(config, _BY_DEFAULT[own], None) != value:
            raise UserError(
                f"{file.name} says {key[:60]} = {str(value)[:20]}, which transformers does not read from GGUF files, so it would be another model; take the model's safetensors."
            )


_FREQUENCIES = "rope_freqs.weight"


def _scale_as_llama3(file: GgufFile, config: PreTrainedConfig) -> None:
    """Llama 3.1 and later divide rotary frequencies by factors, which a file holds as a tensor and transformers as a rule."""
    factors = load_gguf_state_dict(file.header)[_FREQUENCIES][...].double()
    plain = dict(config.rope_parameters or {})
    scaled = plain | {
        "rope_type": "llama3",
        "factor": round(factors.max().item(), 3),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    exponents = -factors.new_tensor(range(0, 2 * len(factors), 2)) / (2 * len(factors))
    unscaled = plain["rope_theta"] ** exponents
    config.rope_parameters = scaled
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    if len(expected) != len(factors) or not (unscaled / factors).allclose(expected.double(), rtol=1e-4, atol=0):
        raise UserError(
            f"{file.name} scales its rotary frequencies in a way that transformers has no rule for; take the model's safetensors."
        )


def check_all_read(file: GgufFile, model: PreTrainedModel) -> None:
    """Raises UserError where a tensor of the file is no part of the model that was made of it."""
    if file.header.architecture in GGUF_ARCHS:
        return  # there what is left over is told with the other keys
    processor = TENSOR_PROCESSORS.get(file.header.architecture, TensorProcessor)(config=model.config.to_dict())
    places = get_gguf_hf_weights_map(model, processor)  # those of experts are named without their ".weight"
    read = {_FREQUENCIES, *places, *(f"{name}.weight" for name in places)}
    surplus = sorted(file.header.ggml_types.keys() - read)
    if surplus:
        raise UserError(
            f"{file.name} has {surplus[0]}, which transformers has no place for, so it would be another model; take the model's safetensors."
        )


def read_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """The tokenizer that the file describes, whatever lies beside it. Raises UserError where transformers cannot make it."""
    try:
        architecture, described, settings = get_gguf_tokenizer(str(file.path))
        backend, _ = convert_gguf_tokenizer(architecture, described)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings)
    except Exception as error:  # what the library tokenizers raises is no more than that
        raise UserError(
            f"{file.name} has no tokenizer that can be read: {reason(error, file.name, file.path)}."
        ) from error
    cut = described.get("pre_tokenizer_type")
    if described.get("tokenizer_type") != "gpt2" or cut in GGUF_PRE_TOKENIZER_SPLITS or cut in _AS_GPT2:
        return tokenizer
    if cut not in _DIGITS_APART:
        raise UserError(
            f"{file.name} cuts its text by the rule {str(cut)[:40]!r}, which transformers does not know, so its tokens would be others than those it was trained on; take the model's safetensors."
        )
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise])
    return tokenizer
