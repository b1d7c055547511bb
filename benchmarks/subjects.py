"""The pairs that are measured: the embedded one, and random weights in the shapes of well-known models.

Speed does not depend on what the weights say, so random ones stand in for models that are not here.
"""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from core.engine import Engine
from core.engine.bandwidth import bytes_per_pass
from core.engine.device import Placement
from core.engine.engine import Shape, lane_sizes
from core.engine.lane import GRAIN
from core.settings import usable_cores

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True)
class Subject:
    """Two models with the same vocabulary, and how long the replies are that are timed."""

    name: str
    models: tuple[PreTrainedModel, PreTrainedModel]
    new_tokens: int

    @property
    def vocabulary(self) -> int:
        return self.models[0].config.vocab_size

    @property
    def bytes_per_pass(self) -> int:
        """Bytes of weights that a forward pass of both models reads; of an input embedding of its own it reads a row."""
        return sum(bytes_per_pass(model) for model in self.models)

    def shape(self, placement: Placement) -> Shape:
        """Slots and chunks as the app has them on this kind of device, and lanes up to 1024 tokens."""
        slots = 16 if placement.device.type == "cuda" else 4
        chunk = GRAIN if placement.portable else 256
        return Shape(slots, chunk, lane_sizes(1024, chunk), max(1, usable_cores() // 2))

    def attention(self, placement: Placement) -> str:
        return "eager" if placement == Placement(torch.device("cpu"), torch.float32) else "sdpa"

    def copy(self) -> PreTrainedModel:
        """The second model again, with weights of its own."""
        return copy.deepcopy(self.models[1])

    def engines(self, placement: Placement) -> list[Engine]:
        """An engine for each model; none is left where there is no memory for all. On a processor each has weights of its own, for it packs them."""
        shape, attention = self.shape(placement), self.attention(placement)
        with ExitStack() as made:
            engines = list[Engine]()
            for model in self.models if placement.device.type != "cpu" else copy.deepcopy(self.models):
                engines.append(Engine(model, self.vocabulary, shape, attention))
                made.callback(engines[-1].close)
            made.pop_all()
        return engines


def make(name: str, placement: Placement) -> Subject:
    """The pair of this name, on its device."""
    return SUBJECTS[name](placement)


def _embedded(placement: Placement) -> Subject:
    base, post = (
        AutoModelForCausalLM.from_pretrained(CHECKPOINTS / name, dtype=placement.dtype, use_safetensors=True)
        for name in ("Llama-Same-Seed-2-6M-Base", "Llama-Same-Seed-2-6M-Chat")
    )
    models = (_still(base), _still(post))
    for model in models:
        torch.nn.Module.to(model, placement.device)
    return Subject("embedded 6M", models, 200)


def _random(name: str, config: Callable[[], PreTrainedConfig], new_tokens: int) -> Callable[[Placement], Subject]:
    def build(placement: Placement) -> Subject:
        torch.manual_seed(0)
        with torch.device(placement.device):
            base, post = (AutoModelForCausalLM.from_config(config(), dtype=placement.dtype) for _ in range(2))
        return Subject(name, (_still(base), _still(post)), new_tokens)

    return build


def _still(model: PreTrainedModel) -> PreTrainedModel:
    return model.eval().requires_grad_(False)


def _tiny() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )


def _smollm2_135m() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )


def _odd() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=151_669,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )


def qwen3(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> PreTrainedConfig:
    return Qwen3Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=tied,
    )


SUBJECTS: dict[str, Callable[[Placement], Subject]] = {
    "embedded": _embedded,
    "tiny": _random("random 0.05M", _tiny, 6),
    "odd": _random("random, narrow, 151,669 words (no multiple of four)", _odd, 6),
    "135m": _random("random 135M (SmolLM2 shape)", _smollm2_135m, 48),
    "0.6b": _random("random 0.6B (Qwen3 shape)", lambda: qwen3(1024, 3072, 28, 16, True), 200),
    "1.7b": _random("random 1.7B (Qwen3 shape)", lambda: qwen3(2048, 6144, 28, 16, True), 200),
    "8b": _random("random 8B (Qwen3 shape)", lambda: qwen3(4096, 12288, 36, 32, False), 100),
}
