"""One training loop for both stages: Muon for the matrices, AdamW for the rest, bf16 autocast.

The loop knows batches of token ids and nothing of what they say. It writes a checkpoint every few
minutes and, started again with the same arguments, continues from it.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from checkpoints.recipe import attention

# Inputs, labels and, where documents share a row without seeing each other, the number of the document that
# each position belongs to, all int64 [rows, length], and what each position counts in the loss, float32 [rows, length].
# Label -100 is not learned from.
Batch = tuple[np.ndarray, ...]
IGNORED = -100
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
HEAD_PIECE = {"cpu": 1024, "cuda": 16384}  # positions whose logits are in memory at once
SAVE_SECONDS = 300.0
EARLY = "early"  # the folder of the weights between the beginning and the end of a stage
LONGEST_STEP = 60.0  # seconds; a step that seems to take longer was paused, which costs nothing


@dataclass(frozen=True)
class Schedule:
    """How long, how fast. Learning rates are peaks; the rate falls linearly over the last `decay` share."""

    steps: int
    warmup: int
    decay: float
    muon_learning_rate: float
    adam_learning_rate: float

    def factor(self, step: int) -> float:
        left = (self.steps - step) / max(1, self.steps * self.decay)
        return max(0.0, min(1.0, (step + 1) / max(1, self.warmup), left))


@dataclass(frozen=True)
class Spent:
    """What a stage has cost until now: tokens read, seconds, optimiser steps; kept beside its checkpoint."""

    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0

    def with_step(self, tokens: int, seconds: float) -> "Spent":
        return Spent(self.tokens + tokens, self.seconds + seconds, self.steps + 1)

    @classmethod
    def read(cls, folder: Path) -> "Spent":
        file = folder / "spent.json"
        return cls(**json.loads(file.read_text())) if file.exists() else cls()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spent.json").write_text(json.dumps(asdict(self)))


def new_model(shape: dict, vocabulary: int) -> PreTrainedModel:
    """A model with random weights. `shape` is the table of config.toml; its `family` is one of `FAMILIES`."""
    shape = dict(shape)
    rope = {"rope_type": "default", "rope_theta": shape.pop("rope_theta")}
    config, model = FAMILIES[shape.pop("family", "llama")]
    shape.setdefault("head_dim", shape["hidden_size"] // shape["num_attention_heads"])
    return model(
        config(
            **shape,
            vocab_size=vocabulary,
            rope_parameters=rope,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            attention_dropout=0.0,
        )
    )


def optimizers(model: PreTrainedModel, schedule: Schedule) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=schedule.muon_learning_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=schedule.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, eps=1e-10),
    ]


def loss_function(model: PreTrainedModel, device: str) -> Callable[..., torch.Tensor]:
    """Mean cross-entropy over the labels that are learned from, nats per token, weighted where a batch has weights. The
    head runs over `HEAD_PIECE` positions at a time: the logits of a whole batch fit neither a processor's cache nor, at
    4 bytes, a small GPU."""
    piece = HEAD_PIECE[device]

    def loss(
        inputs: torch.Tensor,
        labels: torch.Tensor,
        owner: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        mask = None if owner is None else same_document(owner)
        counts = (labels != IGNORED).float() if weight is None else weight
        with torch.autocast(device, torch.bfloat16):
            states = model.model(input_ids=inputs, attention_mask=mask, use_cache=False).last_hidden_state
            total = torch.zeros((), device=inputs.device)
            pieces = (of.split(piece) for of in (states.flatten(0, 1), labels.flatten(), counts.flatten()))
            for part, wanted, count in zip(*pieces, strict=True):
                each = torch.nn.functional.cross_entropy(
                    model.lm_head(part).float(), wanted, ignore_index=IGNORED, reduction="none"
                )
                total = total + (each * count).sum()
        return total / counts.sum()

    return loss


def same_document(owner: torch.Tensor) -> torch.Tensor:
    """Causal mask, bool [rows, 1, length, length], that also keeps the documents of a row apart."""
    length = owner.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    return ((owner[:, :, None] == owner[:, None, :]) & causal)[:, None]


def train(
    model: PreTrainedModel,
    batch: Callable[[int], Batch],
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    validate: Callable[[], float] | None = None,
    validate_every: int = 1000,
    save_seconds: float = SAVE_SECONDS,
    stop_at: int | None = None,
    keep_at: int | None = None,
    compiled: bool = True,
) -> None:
    """Train in place. A checkpoint goes to `folder`/checkpoint.pt every `save_seconds`; `stop_at` ends early,
    before the rate has fallen; the weights after `keep_at` steps stay in `folder`/early.

    `compiled` needs a C++ compiler; it is a few times faster and gives slightly different figures.
    """
    torch.nn.Module.to(model, device).train()
    if device == "cpu":
        model.set_attn_implementation(attention.NAME)
    steps = optimizers(model, schedule)
    loss_of = loss_function(model, device)
    loss_of = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    saved = folder / "checkpoint.pt"
    folder.mkdir(parents=True, exist_ok=True)
    start = load(saved, model, steps, device) if saved.exists() else 0
    last = schedule.steps if stop_at is None else min(stop_at, schedule.steps)
    spent = Spent.read(folder) if start else Spent()
    running, last_saved = math.nan, time.perf_counter()
    bar = tqdm(range(start, last), initial=start, total=last, mininterval=30, desc=folder.name)
    for step in bar:
        began = time.perf_counter()
        inputs, *others = (torch.from_numpy(part).to(device) for part in batch(step))
        value = loss_of(inputs, *others)
        value.backward()
        update(model, steps, schedule, step)
        spent = spent.with_step(inputs.numel(), min(time.perf_counter() - began, LONGEST_STEP))
        if step % 10 == 0:
            running = value.item() if math.isnan(running) else 0.9 * running + 0.1 * value.item()
            speed = inputs.numel() / (time.perf_counter() - began)
            bar.set_postfix(loss=f"{running:.3f}", tokens_per_second=f"{speed:.0f}", refresh=False)
        if validate is not None and ((step + 1) % validate_every == 0 or step + 1 == last):
            told = f"training loss {running:.4f}, validation loss {validate():.4f} nats/token"
            tqdm.write(f"{folder.name} step {step + 1}, {spent.tokens:,} tokens: {told}")
        if step + 1 == keep_at:
            save(folder / EARLY / "checkpoint.pt", model, [], step + 1)
            spent.write(folder / EARLY)
        if time.perf_counter() - last_saved > save_seconds or step + 1 == last:
            save(saved, model, steps, step + 1)
            spent.write(folder)
            last_saved = time.perf_counter()


def update(model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], schedule: Schedule, step: int) -> None:
    """One optimiser step at the learning rates of `schedule`."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in zip(optimizers, (schedule.muon_learning_rate, schedule.adam_learning_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule.factor(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def save(path: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save({"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}, partial)
    partial.replace(path)  # a kill leaves the old checkpoint or the new one, never half of one


def load(path: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], device: str) -> int:
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a finished stage left behind."""
    return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["model"]


@torch.no_grad()
def validation_losses(
    model: PreTrainedModel, folder: Path, kinds: list[str], *, device: str, length: int = 256, rows: int = 16
) -> dict[str, float]:
    """Mean loss per kind of held-out documents, nats per token, on the first `rows` windows of each."""
    model.eval()
    losses = {}
    for kind in kinds:
        stream = np.load(folder / f"{kind}.validation.npy", mmap_mode="r")
        count = min(rows, (len(stream) - 1) // length)
        block = torch.from_numpy(
            np.stack([stream[i * length : (i + 1) * length + 1] for i in range(count)]).astype(np.int64)
        ).to(device)
        with torch.autocast(device, torch.bfloat16):
            logits = model(input_ids=block[:, :-1], use_cache=False).logits
        losses[kind] = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), block[:, 1:].flatten()).item()
    model.train()
    return losses
