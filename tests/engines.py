"""Tiny random-weight models, engines over them, and a naive decoder to hold them against."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from core.engine import Engine, sampling
from core.engine.engine import Shape
from core.types import DEFAULT_SAMPLING, Event, Failure, Finish, Request, Sampling, Token

VOCABULARY = 160

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}

# One row for each family that the documentation names: configuration class and what differs from _SMALL.
FAMILIES: dict[str, tuple[str, dict]] = {
    "Llama": ("LlamaConfig", {}),
    "Llama, tied embeddings": ("LlamaConfig", {"tie_word_embeddings": True}),
    "Qwen2": ("Qwen2Config", {}),
    "Qwen3": ("Qwen3Config", {"head_dim": 16}),
    "Gemma 2": ("Gemma2Config", {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16}),
    "Gemma 3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 24,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "GPT-2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "GPT-NeoX": ("GPTNeoXConfig", {}),
    "Mistral": ("MistralConfig", {"sliding_window": 24, "head_dim": 8}),
    "Phi-3": ("Phi3Config", {"sliding_window": None}),
    "Phi-3, sliding window": ("Phi3Config", {"sliding_window": 24}),
    "OLMo-2": ("Olmo2Config", {}),
    "OLMo-3": ("Olmo3Config", {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}),
    "SmolLM3": ("SmolLM3Config", {"no_rope_layer_interval": 2}),
    "Granite": ("GraniteConfig", {}),
    "StarCoder2": ("Starcoder2Config", {"sliding_window": 24}),
}


# Those whose layers keep states, share each other's cache or attend in chunks: what benchmarks.families calls them.
LAYERED = {
    "Qwen3.5": "qwen3_5_text",
    "Qwen3.5 MoE": "qwen3_5_moe_text",
    "Qwen3-Next": "qwen3_next",
    "Gemma 4": "gemma4_text",
    "Gemma 4, with its towers": "gemma4",
    "Gemma 3n": "gemma3n_text",
    "LFM2": "lfm2",
    "LFM2 MoE": "lfm2_moe",
    "OLMo Hybrid": "olmo_hybrid",
    "Falcon-H1": "falcon_h1",
    "Granite 4": "granitemoehybrid",
    "Bamba": "bamba",
    "Nemotron-H": "nemotron_h",
    "Mamba": "mamba",
    "Mamba 2": "mamba2",
    "Falcon Mamba": "falcon_mamba",
    "Jamba": "jamba",
    "Zamba": "zamba",
    "Zamba 2": "zamba2",
    "Kimi Linear": "kimi_linear",
    "Ling": "bailing_hybrid",
    "Llama 4": "llama4_text",
}


QUICK = ("Llama", "Gemma 3", "GPT-2")  # the other families are held against the same tests, but not before every commit


def families() -> list:
    """The names of all families, as parameters of a test."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]


def random_model(
    family: str = "Llama",
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "eager",
    seed: int = 0,
    changes: dict | None = None,
) -> PreTrainedModel:
    """A model of this family with random weights, reproducible by its seed. A family without a row is named as its configuration class is."""
    name, particular = FAMILIES.get(family, (f"{family}Config", {}))
    settings = {**_SMALL, **particular, **(changes or {})}
    if family == "GPT-2":
        settings = {
            key: settings[key]
            for key in (
                "n_embd",
                "n_layer",
                "n_head",
                "n_positions",
                "vocab_size",
                "initializer_range",
                "bos_token_id",
                "eos_token_id",
            )
        }
    config = getattr(transformers, name)(**settings, attn_implementation=attention)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model.to(dtype).eval().requires_grad_(False)


def shape(slots: int = 4, chunk: int = 16, sizes: tuple[int, ...] = (64, 128), threads: int = 1) -> Shape:
    return Shape(slots=slots, chunk=chunk, sizes=sizes, threads=threads)


@contextmanager
def running(
    model: PreTrainedModel, attention: str = "eager", vocabulary: int = VOCABULARY, **sizes
) -> Iterator[Engine]:
    engine = Engine(model, vocabulary, shape(**sizes), attention)
    try:
        yield engine
    finally:
        engine.close()


def request(token_ids, *, stop_ids=(), reuse: bool = True, **settings) -> Request:
    sampling_settings = Sampling.model_validate({**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 12, **settings})
    return Request(token_ids=tuple(token_ids), sampling=sampling_settings, stop_ids=frozenset(stop_ids), reuse=reuse)


def answer(engine: Engine, *requests: Request) -> list[list[Event]]:
    """Submit all at once and wait for all: the events of each, in order."""
    events: list[list[Event]] = [[] for _ in requests]
    done: queue.Queue[int] = queue.Queue()

    def listener(i: int):
        def take(event: Event) -> None:
            events[i].append(event)
            if isinstance(event, Finish | Failure):
                done.put(i)

        return take

    for i, each in enumerate(requests):
        engine.submit(each, listener(i))
    for _ in requests:
        done.get(timeout=60)
    return events


def tokens(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


def bits(events: list[Event]) -> list[tuple]:
    """Everything a reply is made of: token, log-probability and margin, exactly."""
    return [(event.id, event.logprob, event.margin) for event in events if isinstance(event, Token)]


def naive_reply(model: PreTrainedModel, asked: Request, vocabulary: int = VOCABULARY) -> list[sampling.Draw]:
    """The reply by definition: one forward pass over the whole sequence for every token, no cache, no batch."""
    ids, draws = list(asked.token_ids), []
    with torch.inference_mode():
        for step in range(asked.sampling.max_new_tokens):
            logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1, :vocabulary]
            seen = torch.zeros(1, vocabulary, dtype=torch.bool)
            seen[0, ids] = True
            draws.append(sampling.draw(logits, seen, [asked.sampling], [step])[0])
            ids.append(draws[-1].token)
            if draws[-1].token in asked.stop_ids:
                break
    return draws
