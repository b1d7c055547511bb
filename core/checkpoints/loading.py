"""Loading: a source -> a model in memory with its tokenizer and its engine, fingerprinted and certified."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..engine import PATIENCE, Engine, Patience, portable
from ..engine.device import Placement, deterministic_cuda
from ..engine.engine import Shape
from ..engine.slots import layer_kinds
from ..errors import NotEnoughMemory, UserError
from ..hub import Hub
from ..lease import Card
from ..settings import Settings
from ..types import CheckpointInfo
from . import memory, quantised
from .budget import SPARE_BYTES, Need, must_spread, plan
from .fingerprint import weights_sha256
from .sources import ReportProgress, Source, bring, configuration, reason
from .tokenizers import read_tokenizer, stop_ids
from .whole import INSIDE, WRAPPERS, beside_the_text, check_whole, parts, tensor_names


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory with its tokenizer and its engine. `lacks` is that of its placement."""

    info: CheckpointInfo
    weights_sha256: str
    tokenizer: PreTrainedTokenizerFast
    stop_ids: frozenset[int]
    model: PreTrainedModel
    engine: Engine
    lacks: tuple[str, ...] = ()

    @property
    def card(self) -> Card:
        """What those who ask it know of it."""
        engine = self.engine
        told = (engine.info, engine.context, engine.vocabulary)
        return Card(self.info, self.weights_sha256, self.tokenizer, self.stop_ids, *told, self.lacks)

    def close(self) -> None:
        """End its engine. Its weights stay for whoever holds it."""
        self.engine.close()

    def again(self) -> "Checkpoint":
        """The same weights with a new engine."""
        return replace(self, engine=self.engine.again())


def load(
    source: Source,
    hub: Hub,
    settings: Settings,
    placement: Placement,
    report: ReportProgress,
    patience: Patience = PATIENCE,
    sibling: Need | Shape | None = None,
) -> Checkpoint:
    """Load, fingerprint and certify one model.

    Args:
        sibling: the other model of its pair, with which it shares the memory and has lanes in common: what it needs, or its shape where it is loaded.

    Raises:
        UserError: it cannot be loaded here; the sentence says why and what to do.
    """
    under = source.adapter_of or source
    place, weights_place = bring(source, hub, report), bring(under, hub, report)
    on_the_whole = source.adapter_of is not None and any(".language_model." in name for name in tensor_names(place))
    config = read_config(weights_place, under.name, with_towers=on_the_whole)
    quantised.check(config, placement, under.name)
    models = [memory.need(config, placement), *([sibling] if isinstance(sibling, Need) else [])]
    devices = {device for each in models for device in (each.placement.device, *placement.cards)}
    free = {device: memory.free_bytes(device) for device in devices}
    like = sibling if isinstance(sibling, Shape) else None
    empty = {card: free[card] + torch.cuda.memory_allocated(card) for card in placement.cards}
    spread = (like is not None and like.spread) or must_spread(models, empty, settings)
    shape = plan(models, free, settings, like, spread).shape
    device_map, _ = models[0].laid_out(shape, {device: size - SPARE_BYTES for device, size in free.items()})
    report(f"Loading {source.name}", None)
    tokenizer = read_tokenizer(place if (place / "tokenizer.json").exists() else weights_place, source.name)
    attention = first_attention(config, placement)
    try:
        model, left_out = read_weights(weights_place, config, placement, attention, under.name, device_map)
        if source.adapter_of:
            from .adapters import merge_adapter  # its library takes a second to import, and only adapters need it

            model = merge_adapter(model, place, source.name)
        model.requires_grad_(False).eval()
        parameters = sum(p.numel() for p in model.parameters())
        report(f"Taking the fingerprint of {source.name}", None)
        digest = weights_sha256(model)

        def checking(share: float) -> None:
            report(
                f"Checking that neighbours do not change the bits of {source.name}, and that they are its own", share
            )

        checking(0)
        vocabulary = min(max(tokenizer.get_vocab().values()) + 1, model.get_output_embeddings().weight.shape[0])
        first = portable.NAME if placement.portable else attention
        engine = _engine(placement)(model, vocabulary, shape, first, patience=patience, progress=checking)
    except torch.OutOfMemoryError:
        raise NotEnoughMemory(
            f"{source.name} did not fit into memory after all; choose a smaller pair, fewer --slots or a shorter --context."
        ) from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source.name} could not be loaded: {reason(error, source.name, place, weights_place)}."
        ) from error
    origin = f"{source.origin} on {source.adapter_of.origin}" if source.adapter_of else source.origin
    info = CheckpointInfo(
        name=source.name,
        source=origin,
        revision=source.revision,
        parameters=parameters,
        left_out=left_out,
        quantization=stored_as(weights_place, config, under.name),
    )
    return Checkpoint(info, digest, tokenizer, stop_ids(tokenizer, model), model, engine, placement.lacks)


def _engine(placement: Placement) -> type[Engine]:
    if not placement.lent:
        return Engine
    from ..engine.lent import Lent  # nobody else needs it

    return Lent


def check_kind(source: Source, hub: Hub, placement: Placement) -> Need | None:
    """What a model of this source would need here, where that can be known before its weights are here.

    Raises:
        UserError: no download could make one that can be served.
    """
    under = source.adapter_of or source
    if under.is_gguf:  # its configuration is in the same file as its weights, the widest of which have four bytes
        if under.repository is not None:
            memory.check_bytes(
                sum(under.repository.wanted().values()) * placement.dtype.itemsize // 4, placement, under.name
            )
        return None
    config = read_config(configuration(under, hub), under.name)
    quantised.check(config, placement, under.name)
    needs = memory.need(config, placement)  # refuses what keeps its states in a place of its own
    if under.repository is not None:
        memory.check_size(under.repository.files, config, placement, under.name)
    return needs


def read_config(place: Path, name: str, with_towers: bool = False) -> PreTrainedConfig:
    """The model's configuration; of one that also reads pictures or sounds that of its text model, where transformers has it apart.

    With its towers it is what an adapter was trained on that names the text model inside of them.

    It chooses no implementation: a name of a stranger's would make transformers fetch a kernel of that name and run it.

    Raises:
        UserError: transformers does not know this kind of model, it is not a decoder that writes text, or a number in it
            is out of range.
    """
    config = _read_gguf(place, name) if place.is_file() else _read_folder(place, name)
    config = config if with_towers else _text_alone(config)
    encoder = type(config) in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False)
    text = type(config) in AutoModelForCausalLM._model_mapping and not getattr(config, "is_encoder_decoder", False)
    if encoder or not text:
        raise UserError(
            f"{name} is a {config.model_type} model, not a decoder that continues text; choose a causal language model."
        )
    config._attn_implementation, config._experts_implementation = "eager", None  # of all parts of it
    layer_kinds(config.get_text_config())
    return config


def _read_folder(folder: Path, name: str) -> PreTrainedConfig:
    with suppress(OSError, ValueError, RecursionError):  # transformers says what is wrong with it
        _check_numbers(json.loads((folder / "config.json").read_text("utf-8")), name)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name} cannot be loaded with this version of transformers (code from repositories is never run): {reason(error, name, folder)}."
        ) from error
    return config


def _read_gguf(path: Path, name: str) -> PreTrainedConfig:
    from . import gguf_files  # its libraries are only needed for such files

    file = gguf_files.open_gguf(path, name)
    values = gguf_files.read_config(file)
    _check_numbers(values, name)
    return gguf_files.make_config(file, values)


def _text_alone(config: PreTrainedConfig) -> PreTrainedConfig:
    text = config.get_text_config()
    if text is config or type(text) not in AutoModelForCausalLM._model_mapping or config.is_encoder_decoder:
        return config
    text.tie_word_embeddings = text.tie_word_embeddings or config.tie_word_embeddings
    if hasattr(config, "quantization_config"):
        text.quantization_config = config.quantization_config
    return text


# What a number in a config may be, by its name, the first that fits; transformers makes lists and modules as long as it says.
_BOUNDS = (
    (re.compile(r".*(_size|_dim|_rank|_length|_positions?|_embeddings|_ctx|_embd|_inner)"), 2**28),
    (re.compile(r"(?!.*_theta).*(layer|block).*|.*depth(?!wise).*"), 1_000),
    (re.compile(r".*expert.*|.*group.*"), 4_096),
    (re.compile(r".*head.*"), 2**16),
)


def _check_numbers(values: Any, name: str) -> None:
    """Raises UserError, before anything is built of it, where a number in a config is absurd."""
    pending = [("", values)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += value.items()
        elif isinstance(value, list):
            pending += ((key, each) for each in value)
        elif isinstance(value, (int, float)):
            limit = next((limit for names, limit in _BOUNDS if names.fullmatch(key)), None)
            if limit is not None and not -limit <= value <= limit:
                raise UserError(
                    f"The configuration of {name} says {key[:40]}: {str(value)[:20]}, and no model here may have more than {limit:,}; its files are damaged or not meant to be loaded."
                )


def stored_as(place: Path, config: PreTrainedConfig, name: str) -> str:
    """How weights are stored that were quantised: the types in a GGUF file, or the method; empty for those that were not."""
    if not place.is_file():
        return quantised.method(config)
    from . import gguf_files

    return gguf_files.open_gguf(place, name).quantization


def read_weights(
    place: Path,
    config: PreTrainedConfig,
    placement: Placement,
    attention: str,
    name: str,
    device_map: Mapping[str, torch.device] | None = None,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model with the whole of its weights, and what else is beside them that a model of text has no place for.

    Raises:
        UserError: a weight is missing, of another shape or of no use, which transformers alone would only log.
    """
    if placement.device.type == "cuda":
        deterministic_cuda()
    is_text = config.get_text_config() is config
    folder, more, check_read = _how_to_load(place, name)
    beside = beside_the_text(tensor_names(folder)) if is_text and not more else set()
    with memory.making:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=placement.dtype,
            device_map=device_map or {"": placement.read_on},
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            key_mapping=WRAPPERS | (INSIDE if is_text else {}),
            ignore_mismatched_sizes=True,  # they are told, and refused here by name
            output_loading_info=True,
            **more,
        )
    model: PreTrainedModel
    model, told = loaded
    surplus = set(told["unexpected_keys"]) - beside
    check_whole(f"The weights of {name}", told["missing_keys"], surplus, told["mismatched_keys"])
    check_read(model)
    quantised.finish(model, config, placement)
    return model, parts(beside)


def _how_to_load(place: Path, name: str) -> tuple[Path, dict[str, Any], Callable[[PreTrainedModel], None]]:
    """The folder, what `from_pretrained` is told beside it, and what is checked of the model that comes out."""
    if not place.is_file():
        return place, {}, lambda model: None
    from . import gguf_files

    file = gguf_files.open_gguf(place, name)
    return place.parent, file.loading, lambda model: gguf_files.check_all_read(file, model)


def first_attention(config: PreTrainedConfig, placement: Placement) -> str:
    """What is tried first: "sdpa", but "eager" for float32 on a CPU (sdpa was seen to depend on the slot there) and where sdpa is not all."""
    soft_cap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    model: Any = AutoModelForCausalLM._model_mapping[type(config)]
    plain = placement.device.type == "cpu" and placement.dtype == torch.float32
    return "eager" if soft_cap or plain or not model._supports_sdpa else "sdpa"
