"""Which weights: the rows of pairs.toml, where a model comes from, loading it, and the sha256 of its values.

A source is a folder, a Hub id with an optional revision, or a PEFT adapter on top of a base model.
Loading uses safetensors only and never runs code from a repository.
"""

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from .engine import Engine
from .engine.device import Placement, deterministic_cuda
from .engine.engine import STORE_BYTES, Shape, lane_sizes
from .engine.slots import kv_bytes_per_token, layer_kinds, usable_context
from .errors import NotEnoughMemory, UserError
from .hub import Hub, Repository
from .settings import EMBEDDED, Settings, usable_cores
from .types import CheckpointInfo, Side, Value

HOME = Path(__file__).parent.parent / "checkpoints"
SPARE_BYTES = 2**29  # left free when deciding whether something fits

ReportProgress = Callable[
    [str, float | None], None
]  # what is going on, and how much of it is done (0 to 1) where that is known


class Pair(Value):
    """One row of pairs.toml."""

    id: str
    title: str
    base: str
    post: str


def known_pairs(settings: Settings) -> tuple[Pair, ...]:
    """The rows of pairs.toml, after the person's own pair when --base and --post name one."""
    rows = TypeAdapter(tuple[Pair, ...]).validate_python(
        tomllib.loads((HOME / "pairs.toml").read_text("utf-8"))["pair"]
    )
    if settings.base is None or settings.post is None:
        return rows
    own = Pair(
        id=f"{label(settings.base)} | {label(settings.post)}",
        title=f"{label(settings.base)} and {label(settings.post)}",
        base=settings.base,
        post=settings.post,
    )
    return (own, *rows)


def default_pair(settings: Settings) -> Pair:
    """The pair that the page opens with.

    Raises:
        UserError: --pair names no row.
    """
    rows = known_pairs(settings)
    wanted = rows[0].id if settings.base is not None and settings.pair == EMBEDDED else settings.pair
    return find_pair(rows, wanted)


def find_pair(rows: tuple[Pair, ...], id: str) -> Pair:
    """Raises UserError when no row has this id."""
    for row in rows:
        if row.id == id:
            return row
    raise UserError(f"There is no pair {id!r} here; `python app.py pairs` lists them, and --base with --post adds one.")


def at_commits(pair: Pair, commits: Mapping[Side, str]) -> Pair:
    """The pair with these commits of its Hub repositories; what comes from a folder stays as it is."""

    def pinned(side: Side, spec: str) -> str:
        return f"{spec.partition('@')[0]}@{commits[side]}" if side in commits and _folder(spec) is None else spec

    return pair.model_copy(update={"base": pinned("base", pair.base), "post": pinned("post", pair.post)})


def label(spec: str) -> str:
    """How a source is called where people see it: its own name, never a path of the machine."""
    path = Path(spec).expanduser()
    return path.resolve().name if path.is_dir() or _is_path(spec) else spec


def _is_path(spec: str) -> bool:
    return spec.startswith((".", "/", "~"))


# --- where a model comes from ------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A model that was found: a folder here, or a Hub repository at one commit. `adapter_of` is set for a PEFT adapter."""

    name: str
    origin: str
    revision: str | None
    folder: Path | None
    repository: Repository | None
    adapter_of: "Source | None" = None

    @property
    def key(self) -> tuple[str, str | None]:
        return (str(self.folder) if self.folder else self.origin, self.revision)

    def files(self) -> set[str]:
        if self.repository is not None:
            return set(self.repository.files)
        return {path.name for path in self.folder.iterdir()} if self.folder else set()


def find(spec: str, hub: Hub, base: str | None = None) -> Source:
    """Find a source by its spec; `base` is what a PEFT adapter is merged into when its own config names nothing here.

    Raises:
        UserError: it does not exist, or holds nothing that can be loaded safely.
    """
    folder = _folder(spec)
    if folder is not None:
        source = Source(folder.name, folder.name, None, folder, None)
    else:
        id, _, revision = spec.partition("@")
        repository = hub.look_up(id, revision or None)
        source = Source(id.split("/")[-1], id, repository.revision, None, repository)
    files = source.files()
    if "adapter_config.json" in files:
        return _adapter(source, hub, base)
    if "config.json" not in files:
        raise UserError(
            f"{source.name} has no config.json, so it is not a model that transformers can load; name the folder or repository that holds the weights."
        )
    if not any(name.endswith(".safetensors") for name in files):
        pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in files)
        reason = (
            "holds its weights only as pickle files, which can run code when they are loaded"
            if pickled
            else "holds no safetensors weights"
        )
        raise UserError(f"{source.name} {reason}; convert it to safetensors first.")
    return source


def _folder(spec: str) -> Path | None:
    for folder in (HOME / spec, Path(spec).expanduser()):
        if folder.is_dir():
            return folder.resolve()
    if _is_path(spec):
        raise UserError(f"There is no folder {label(spec)!r} on this machine; check the path.")
    return None


def _adapter(source: Source, hub: Hub, base: str | None) -> Source:
    if not any(name.endswith(".safetensors") for name in source.files()):
        raise UserError(
            f"The adapter {source.name} holds no safetensors weights; save it with safe_serialization and try again."
        )
    if base is None:
        raise UserError(f"{source.name} is a PEFT adapter; give the model that it was trained on as --base.")
    under = find(base, hub)
    return Source(source.name, source.origin, source.revision, source.folder, source.repository, adapter_of=under)


# --- what it needs -----------------------------------------------------------------------------


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the GPU, or of this process's share of the machine (a container's limit counts)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def read_config(folder: Path, name: str) -> PreTrainedConfig:
    """The model's configuration.

    Raises:
        UserError: transformers does not know this kind of model, or it is not a decoder that writes text.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(
            f"{name} cannot be loaded with this version of transformers (code from repositories is never run): {_reason(error, name, folder)}."
        ) from error
    if getattr(config, "is_encoder_decoder", False) or type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"{name} is a {config.model_type} model, not a decoder that continues text; choose a causal language model."
        )
    layer_kinds(config.get_text_config())
    return config


def weight_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the weights in `dtype`, from the shapes alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return sum(parameter.nbytes for parameter in model.parameters())  # tied ones count once


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
    per_token = kv_bytes_per_token(text, placement.dtype)
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


def check_room_for_another(checkpoint: "Checkpoint") -> None:
    """Raises NotEnoughMemory when a second model of this size, with a lane for itself, does not fit beside what is loaded."""
    engine = checkpoint.engine
    text = checkpoint.model.config.get_text_config()
    rows = engine.context * (engine.shape.slots + 2)
    weights = sum(parameter.nbytes for parameter in checkpoint.model.parameters())
    needed = weights + rows * kv_bytes_per_token(text, checkpoint.model.dtype) + SPARE_BYTES
    free = free_bytes(engine.device)
    if needed > free:
        raise NotEnoughMemory(
            f"Mixing these weights takes about {needed / 2**30:.1f} GB more, and {free / 2**30:.1f} GB is free; turn the dial in the space of logits."
        )


# --- loading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory with its tokenizer and its engine."""

    info: CheckpointInfo
    weights_sha256: str
    tokenizer: PreTrainedTokenizerFast
    stop_ids: frozenset[int]
    model: PreTrainedModel
    engine: Engine

    def close(self) -> None:
        self.engine.close()


def bring(source: Source, hub: Hub, report: ReportProgress) -> Path:
    """The folder with the files of a source, downloaded if they are not here yet."""
    if source.folder is not None:
        return source.folder
    assert source.repository is not None
    size = sum(source.repository.wanted().values()) / 2**20
    report(f"Downloading {source.name} ({size:,.0f} MB)", 0.0)
    return hub.download(source.repository, lambda done: report(f"Downloading {source.name} ({size:,.0f} MB)", done))


def load(source: Source, hub: Hub, settings: Settings, placement: Placement, report: ReportProgress) -> Checkpoint:
    """Load, fingerprint and certify one model.

    Raises:
        UserError: it cannot be loaded here; the sentence says why and what to do.
    """
    folder = bring(source, hub, report)
    weights_folder = bring(source.adapter_of, hub, report) if source.adapter_of else folder
    config = read_config(weights_folder, source.name)
    needed = weight_bytes(config, placement.dtype)
    shape = choose_shape(config, placement, settings, needed, free_bytes(placement.device))
    report(f"Loading {source.name}", None)
    tokenizer = read_tokenizer(folder if (folder / "tokenizer.json").exists() else weights_folder, source.name)
    attention = "eager" if _wants_eager(config, placement) else "sdpa"
    try:
        model = read_weights(weights_folder, placement, attention)
        if source.adapter_of:
            model = merge_adapter(model, folder, source.name)
        model.requires_grad_(False).eval()
        report(f"Taking the fingerprint of {source.name}", None)
        digest = weights_sha256(model)
        report(f"Checking that neighbours do not change the bits of {source.name}", None)
        engine = Engine(model, min(len(tokenizer), model.get_output_embeddings().weight.shape[0]), shape, attention)
    except torch.OutOfMemoryError:
        raise NotEnoughMemory(
            f"{source.name} did not fit into memory after all; choose a smaller pair, fewer --slots or a shorter --context."
        ) from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source.name} could not be loaded: {_reason(error, source.name, folder, weights_folder)}."
        ) from error
    origin = f"{source.origin} on {source.adapter_of.origin}" if source.adapter_of else source.origin
    info = CheckpointInfo(
        name=source.name, source=origin, revision=source.revision, parameters=sum(p.numel() for p in model.parameters())
    )
    return Checkpoint(info, digest, tokenizer, stop_ids(tokenizer, model), model, engine)


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, use_fast=True)
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise UserError(f"{name} has no tokenizer that can be loaded here: {_reason(error, name, folder)}.") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{name} has only a slow tokenizer; the engine needs one with a tokenizer.json.")
    return tokenizer


def tokenizers_at_hand(pair: Pair) -> dict[Side, PreTrainedTokenizerFast] | None:
    """Both tokenizers of a pair that lies in folders here, without its weights; None for one that does not."""
    folders = {side: HOME / spec for side, spec in _specs(pair).items()}
    if not all((folder / "tokenizer.json").exists() for folder in folders.values()):
        return None
    return {side: read_tokenizer(folder, folder.name) for side, folder in folders.items()}


def _specs(pair: Pair) -> dict[Side, str]:
    return {"base": pair.base, "post": pair.post}


def read_weights(folder: Path, placement: Placement, attention: str) -> PreTrainedModel:
    if placement.device.type == "cuda":
        deterministic_cuda()
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=placement.dtype,
        device_map={"": placement.device},
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )


def merge_adapter(model: PreTrainedModel, folder: Path, name: str) -> PreTrainedModel:
    """The adapter merged into these weights, which are its own copy of the base.

    Raises:
        UserError: the adapter was trained on a model of another shape.
    """
    from peft import PeftModel  # imported here: it takes a second, and only adapters need it

    try:
        return PeftModel.from_pretrained(model, folder, local_files_only=True).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The adapter {name} does not fit its base model: {_reason(error, name, folder)}.") from error


def _wants_eager(config: PreTrainedConfig, placement: Placement) -> bool:
    """Float32 on a CPU (sdpa was seen to depend on the slot there), and models that cap their attention scores."""
    soft_cap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return bool(soft_cap) or (placement.device.type == "cpu" and placement.dtype == torch.float32)


def stop_ids(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> frozenset[int]:
    """The tokenizer's end of text and everything that the model's generation_config calls one."""
    named: Any = model.generation_config.eos_token_id if model.generation_config else None
    listed = named if isinstance(named, list) else [named]
    return frozenset(id for id in (*listed, tokenizer.eos_token_id) if id is not None)


def check_same_vocabulary(base: Checkpoint, post: Checkpoint) -> None:
    """The same id must mean the same text on both sides, or the noise they share (common random numbers) would mean nothing.

    Control tokens may be renamed or added; ordinary tokens may not differ.

    Raises:
        UserError: naming the first token that differs.
    """
    mine, theirs = _ordinary_tokens(base.tokenizer), _ordinary_tokens(post.tokenizer)
    for id in sorted(mine.keys() & theirs.keys()):
        if mine[id] != theirs[id]:
            raise UserError(
                f"{base.info.name} and {post.info.name} have different vocabularies (token {id} is {mine[id]!r} in one and {theirs[id]!r} in the other); choose two stages of the same model."
            )
    if abs(len(mine) - len(theirs)) > 0.01 * len(mine):
        raise UserError(
            f"{base.info.name} and {post.info.name} have different vocabularies ({len(mine):,} and {len(theirs):,} tokens); choose two stages of the same model."
        )


def _ordinary_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    added = tokenizer.added_tokens_decoder
    return {id: token for token, id in tokenizer.get_vocab().items() if id not in added}


# --- figures about weights ----------------------------------------------------------------------


def bytes_in_use(checkpoint: Checkpoint) -> int:
    """Bytes that a loaded model takes: its weights, and its caches of keys and values."""
    shape, config = checkpoint.engine.shape, checkpoint.model.config.get_text_config()
    caches = kv_bytes_per_token(config, checkpoint.model.dtype) * sum(shape.sizes) * (shape.slots + 1)
    return sum(parameter.nbytes for parameter in checkpoint.model.parameters()) + caches


def gradients(model: PreTrainedModel) -> int:
    """How many parameters have a gradient, or would get one."""
    return sum(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


class TrainingCost(Value):
    """What a model's card says that its training took."""

    training_tokens: int
    training_seconds: int
    training_machine: str


def training_cost(spec: str) -> TrainingCost | None:
    """From the front matter of the card (README.md) in a model's folder; None when there is none here or it does not tell."""
    try:
        folder = _folder(spec)
        if folder is None:
            return None
        _, front, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
        lines = (line.partition(":") for line in front.splitlines())
        told = {key.strip(): value.strip().strip("\"'") for key, _, value in lines}
        return TrainingCost.model_validate({key: told[key] for key in TrainingCost.model_fields})
    except (UserError, OSError, ValueError, KeyError):
        return None


# --- the fingerprint ----------------------------------------------------------------------------


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


def _reason(error: BaseException, name: str, *folders: Path) -> str:
    """The first line of a library's error, with the model's name in place of its path on this machine."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    for folder in folders:
        line = line.replace(str(folder), name)
    return line[:300].rstrip(". ")
