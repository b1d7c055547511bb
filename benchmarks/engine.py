"""The engine against transformers.generate, in one process, as ratios.

    python -m benchmarks.engine                  the embedded pair and a random 135M pair on this CPU
    python -m benchmarks.engine --device cuda    random Qwen3-shaped pairs of 0.6B and 8B on a GPU

One comparison is two replies. `generate` answers it by running one model after the other, as a script
would; the engine runs both siblings at once, and several comparisons in the slots of each. Every row is
the median over repetitions in which both are timed one after the other.
"""

import argparse
import queue
import random
import statistics
import time
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from benchmarks import report
from core.checkpoints import HOME, Placement, deterministic_cuda, place, read_weights
from core.engine import Engine
from core.engine.engine import Shape, lane_sizes
from core.settings import Settings, usable_cores
from core.types import DEFAULT_SAMPLING, Event, Failure, Finish, Request, Token

PROMPT_TOKENS = 32


def smollm2_135m() -> PretrainedConfig:
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


def qwen3_600m() -> PretrainedConfig:
    return Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def qwen3_8b() -> PretrainedConfig:
    return Qwen3Config(
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )


@dataclass
class Subject:
    """A pair to measure."""

    name: str
    models: list[PreTrainedModel]
    new_tokens: int


def embedded(placement: Placement) -> Subject:
    models = [
        read_weights(HOME / name, placement, "sdpa").eval()
        for name in ("Llama-Same-Seed-6M-Base", "Llama-Same-Seed-6M-Chat")
    ]
    return Subject("embedded 6M", models, 200)


def with_random_weights(name: str, config: PretrainedConfig, placement: Placement, new_tokens: int) -> Subject:
    torch.manual_seed(0)
    with torch.device(placement.device):
        models = [
            AutoModelForCausalLM.from_config(config, dtype=placement.dtype, attn_implementation="sdpa").eval()
            for _ in range(2)
        ]
    return Subject(name, [model.requires_grad_(False) for model in models], new_tokens)


def engines_for(subject: Subject, placement: Placement, slots: int) -> list[Engine]:
    chunk = 256 if placement.device.type == "cuda" else 64
    shape = Shape(slots, chunk, lane_sizes(1024, chunk), max(1, usable_cores() // 2))
    return [Engine(model, model.config.vocab_size, shape, "sdpa") for model in subject.models]


def request(seed: int, vocabulary: int, new_tokens: int) -> Request:
    draw = random.Random(seed)
    ids = tuple(draw.randrange(3, vocabulary) for _ in range(PROMPT_TOKENS))
    return Request(
        token_ids=ids,
        sampling=DEFAULT_SAMPLING.model_copy(update={"seed": seed, "max_new_tokens": new_tokens}),
        stop_ids=frozenset(),
        reuse=False,
    )


@dataclass
class Reply:
    tokens: list[tuple]
    first: float = 0.0
    end: float = 0.0


def run(engines: list[Engine], requests: list[Request]) -> tuple[list[Reply], float]:
    """Every request on every engine, all at once. Returns the replies and the seconds until the last one ended."""
    done: queue.Queue[int] = queue.Queue()
    replies = [Reply([]) for _ in range(len(engines) * len(requests))]
    began = time.perf_counter()

    def listener(reply: Reply):
        def take(event: Event) -> None:
            now = time.perf_counter() - began
            if isinstance(event, Token):
                reply.first = reply.first or now
                reply.tokens.append((event.id, event.logprob, event.margin))
            elif isinstance(event, Finish | Failure):
                reply.end = now
                done.put(0)

        return take

    for i, (engine, asked) in enumerate((engine, asked) for asked in requests for engine in engines):
        engine.submit(asked, listener(replies[i]))
    for _ in replies:
        done.get()
    return replies, time.perf_counter() - began


def generate(models: list[PreTrainedModel], asked: Request) -> float:
    """Seconds that one comparison takes with transformers.generate, one model after the other."""
    settings = GenerationConfig(
        max_new_tokens=asked.sampling.max_new_tokens,
        min_new_tokens=asked.sampling.max_new_tokens,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        pad_token_id=0,
    )
    began = time.perf_counter()
    for model in models:
        ids = torch.tensor([asked.token_ids], device=model.device)
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(
    subject: Subject, engines: list[Engine], concurrent: int, repetitions: int, bandwidth: float | None
) -> dict:
    """One row: so many comparisons at once."""
    vocabulary = subject.models[0].config.vocab_size
    ratios, rates, firsts, totals = [], [], [], []
    for repetition in range(repetitions):
        asked = [request(100 * repetition + i, vocabulary, subject.new_tokens) for i in range(concurrent)]
        alone = generate(subject.models, asked[0])
        replies, seconds = run(engines, asked)
        tokens = sum(len(reply.tokens) for reply in replies)
        totals.append(tokens / seconds)
        ratios.append((tokens / seconds) / (2 * subject.new_tokens / alone))
        rates.append(statistics.median((len(reply.tokens) - 1) / (reply.end - reply.first) for reply in replies))
        firsts.append(1000 * statistics.median(reply.first for reply in replies))
    row = {
        "pair": subject.name,
        "comparisons at once": concurrent,
        "ms to first token": statistics.median(firsts),
        "tokens/s per reply": statistics.median(rates),
        "tokens/s in all": statistics.median(totals),
        "times generate": statistics.median(ratios),
    }
    if bandwidth:
        weights = sum(p.nbytes for p in subject.models[0].parameters())
        row["share of bandwidth bound"] = statistics.median(rates) * weights * len(engines) / bandwidth
    return row


def reproduction(subject: Subject, engines: list[Engine], count: int) -> dict:
    """How many replies come back bit for bit when they are asked again among random others."""
    vocabulary = subject.models[0].config.vocab_size
    asked = [request(7000 + i, vocabulary, 24) for i in range(count)]
    alone = [[reply.tokens for reply in run(engines, [each])[0]] for each in asked]
    crowd = [request(9000 + i, vocabulary, 40) for i in range(count)]
    mixed = asked + crowd
    random.Random(1).shuffle(mixed)
    replies, _ = run(engines, mixed)
    by_request = [replies[i : i + len(engines)] for i in range(0, len(replies), len(engines))]
    same = sum(
        reply.tokens == expected
        for each, expected_pair in zip(asked, alone, strict=True)
        for reply, expected in zip(by_request[mixed.index(each)], expected_pair, strict=True)
    )
    return {
        "pair": subject.name,
        "replies asked again under load": 2 * count,
        "identical": same,
        "rate": same / (2 * count),
        "certified": engines[0].info().certification,
    }


def memory_bandwidth() -> float:
    """Bytes per second that a large copy on the GPU moves, reads and writes counted."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(10):
        target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return 10 * 2 * source.numel() / (start.elapsed_time(end) / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--pairs", default="", help="comma-separated names; default: all of the device")
    flags = parser.parse_args()
    placement = place(Settings(device=flags.device, dtype=flags.dtype))
    gpu = placement.device.type == "cuda"
    if gpu:
        deterministic_cuda()
    makers = {
        "embedded": lambda: embedded(placement),
        "135m": lambda: with_random_weights("random 135M", smollm2_135m(), placement, 48),
        "0.6b": lambda: with_random_weights("random 0.6B", qwen3_600m(), placement, 200),
        "8b": lambda: with_random_weights("random 8B", qwen3_8b(), placement, 100),
    }
    chosen = flags.pairs.split(",") if flags.pairs else ["0.6b", "8b"] if gpu else ["embedded", "135m"]
    bandwidth = memory_bandwidth() if gpu else None
    speed, again = [], []
    for name in chosen:
        subject = makers[name]()
        engines = engines_for(subject, placement, 16 if gpu else 4)
        generate(subject.models, request(0, 1000, 8))
        run(engines, [request(0, 1000, 8)])
        speed += [measure(subject, engines, concurrent, flags.repetitions, bandwidth) for concurrent in (1, 4, 16)]
        again.append(reproduction(subject, engines, 12))
        for engine in engines:
            engine.close()
        del subject, engines
    report.show(
        f"engine against transformers.generate, {str(placement.dtype).removeprefix('torch.')}", flags.device, speed
    )
    report.show("replies asked again under random load", flags.device, again)


if __name__ == "__main__":
    main()
