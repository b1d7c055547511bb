"""The engine against transformers.generate, in one process, as ratios.

    python -m benchmarks.engine                   the embedded pair and a random 135M pair on this CPU
    python -m benchmarks.engine --device cuda     random Qwen3-shaped pairs of 0.6B and 8B on a GPU

One comparison is two replies. `generate` answers it by running one model after the other, as a script
would, with one thread or all cores, whichever is faster; the engine runs both siblings at once, and
several comparisons in the slots of each. Every row is the median over repetitions in which both are
timed one after the other. Then the reading of a long prompt beside a plain forward pass, and what the checks at load take.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks import clients, report, subjects
from benchmarks.subjects import Subject
from core import settings as configuration
from core.engine import Engine
from core.engine.bandwidth import copy_bandwidth
from core.engine.device import deterministic_cuda, place
from core.errors import UserError
from core.settings import Settings, usable_cores
from core.types import Request

AT_ONCE = (1, 4, 16)  # comparisons
READ = 1000  # tokens of the prompt whose reading is timed
GENERATE: dict[str, Any] = {"generate": {}}  # what transformers.generate is told besides, by what that is called
STATIC: dict[str, Any] = {
    "generate, static cache": {"cache_implementation": "static", "disable_compile": True},
    "generate, static cache, compiled": {"cache_implementation": "static"},  # where there is a GPU
}


def generate(subject: Subject, asked: Request, threads: int, **told: Any) -> float:
    """Seconds that one comparison takes with transformers.generate, one model after the other."""
    sampling = asked.sampling
    settings = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.max_new_tokens,
        do_sample=True,
        temperature=sampling.temperature,
        top_k=0,
        pad_token_id=0,
        **told,
    )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)  # of this thread; every engine has set its own
    began = time.perf_counter()
    for model in subject.models:
        ids = torch.tensor([asked.token_ids], device=model.device)
        generator: Any = model  # what the Auto classes give also generates, which the class does not say
        generator.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
    seconds = time.perf_counter() - began
    torch.set_num_threads(threads_before)
    return seconds


def best_threads(subject: Subject, asked: Request) -> int:
    """With how many threads generate is faster here: small models lose more to waiting than they gain."""
    generate(subject, asked, 1)  # whatever happens only the first time
    return min({1, usable_cores()}, key=lambda threads: generate(subject, asked, threads))


def those_that_run(subject: Subject, asked: Request, threads: int, ways: dict[str, Any]) -> dict[str, Any]:
    """Of ways to generate those that run here; what goes wrong with the others is printed. What they compile is compiled afterwards."""
    found = {}
    for name, told in ways.items():
        try:
            generate(subject, asked, threads, **told)
            found[name] = told
        except Exception as error:  # a compiler that is not here, an operation that a graph cannot hold
            print(f"{name} does not run here: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}")
    return found


def kept_bytes(engines: Sequence[Engine], asked: Sequence[Request]) -> int:
    """Bytes of keys and values that a step of all engines has to read for these replies, when they are half written."""
    positions = sum(len(each.token_ids) + each.sampling.max_new_tokens // 2 for each in asked)
    return sum(engine.cache_bytes.of(positions, len(asked)) for engine in engines)


def measure(
    subject: Subject,
    engines: Sequence[Engine],
    concurrent: int,
    repetitions: int,
    threads: int,
    bandwidth: float,
    ways: dict[str, Any] = GENERATE,
) -> dict[str, Any]:
    """One row: so many comparisons at once, against `ways` to generate with `threads`. `bandwidth` is in bytes per second."""
    own_speed: dict[str, list[float]] = {name: [] for name in ways}
    ratios, rates, firsts, totals = [], [], [], []
    for repetition in range(repetitions):
        asked = [
            clients.request(100 * repetition + i, subject.vocabulary, subject.new_tokens) for i in range(concurrent)
        ]
        for name, told in ways.items():
            own_speed[name].append(2 * subject.new_tokens / generate(subject, asked[0], threads, **told))
        replies = [reply for both in clients.together(engines, asked) for reply in both]
        totals.append(sum(len(reply.tokens) for reply in replies) / max(reply.end for reply in replies))
        ratios.append(totals[-1] / max(speeds[-1] for speeds in own_speed.values()))
        rates.append(statistics.median((len(reply.tokens) - 1) / (reply.end - reply.first) for reply in replies))
        firsts.append(1000 * statistics.median(reply.first for reply in replies))
    rate = statistics.median(rates)
    weights, kept = subject.bytes_per_pass, kept_bytes(engines, asked)
    return {
        "pair": subject.name,
        "comparisons at once": concurrent,
        "ms to first token": statistics.median(firsts),
        "tokens/s per reply": rate,
        "tokens/s in all": statistics.median(totals),
        **{f"tokens/s of {name}": statistics.median(speeds) for name, speeds in own_speed.items()},
        "its threads": threads,
        "times generate": statistics.median(ratios),
        "share of the bandwidth bound": f"{rate * weights / bandwidth:.1%}",
        "with keys and values": f"{rate * (weights + kept) / bandwidth:.1%}",
    }


def speed_of(
    subject: Subject,
    engines: Sequence[Engine],
    repetitions: int,
    at_once: Sequence[int] = AT_ONCE,
    ways: dict[str, Any] = GENERATE,
) -> Iterator[dict[str, Any]]:
    """The rows of one pair, one for each number of comparisons at once; "times generate" is the fastest of `ways` to generate."""
    warm_up = clients.request(0, subject.vocabulary, 8)
    threads = best_threads(subject, warm_up)
    ways = those_that_run(subject, clients.request(0, subject.vocabulary, subject.new_tokens), threads, ways)
    clients.together(engines, [warm_up])
    bandwidth = copy_bandwidth(engines[0].device)
    for concurrent in at_once:
        yield measure(subject, engines, concurrent, repetitions, threads, bandwidth, ways)


def reading_of(subject: Subject, engine: Engine, repetitions: int) -> dict[str, Any]:
    """How long the first model takes to read a prompt that nothing is kept of, beside one plain forward pass with the engine's threads."""
    read = min(READ, engine.context - 1)
    own, plain = list[float](), list[float]()
    for seed in range(repetitions + 1):  # whatever happens only the first time is not counted
        asked = clients.request(10_000 + seed, subject.vocabulary, 1, read)
        own.append(clients.wait(clients.ask(engine, asked, time.perf_counter())[0]).first)
        plain.append(forward(subject.models[0], asked.token_ids, engine.info().threads))
    ratios = [engine / model for engine, model in zip(own[1:], plain[1:], strict=True)]
    return {
        "pair": subject.name,
        "tokens": read,
        "ms to first token": 1000 * statistics.median(own[1:]),
        "ms of a plain forward pass": 1000 * statistics.median(plain[1:]),
        "times": statistics.median(ratios),
    }


def forward(model: PreTrainedModel, ids: Sequence[int], threads: int) -> float:
    """Seconds of one forward pass over a whole prompt, as `transformers` runs it, with the logits of its end."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    began = time.perf_counter()
    with torch.inference_mode():
        model(torch.tensor([ids], device=model.device), use_cache=True, logits_to_keep=1)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    seconds = time.perf_counter() - began
    torch.set_num_threads(threads_before)
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="auto", choices=configuration.DTYPES)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="+", default=AT_ONCE, help="comparisons at once (1 4 16)")
    parser.add_argument("--replies", type=int, default=20, help="requests that are asked again under load")
    parser.add_argument(
        "--pairs", help=f"comma-separated, of {', '.join(subjects.SUBJECTS)}; default: all of the device"
    )
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    try:
        placement = place(Settings(device=flags.device, dtype=flags.dtype))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    gpu = placement.device.type == "cuda"
    if gpu:
        deterministic_cuda()
    out = report.Report(report.command("benchmarks.engine", arguments), flags.device, flags.save)
    for name in (flags.pairs or ("0.6b,8b" if gpu else "embedded,135m")).split(","):
        subject = subjects.make(name, placement)
        began = time.perf_counter()
        engines = subject.engines(placement)
        checked = time.perf_counter() - began
        try:
            title = f"{subject.name}, {str(placement.dtype).removeprefix('torch.')}"
            out.add(
                f"Engine against transformers.generate: {title}",
                list(speed_of(subject, engines, flags.repetitions, flags.at_once)),
            )
            out.add(f"Reading a prompt: {title}", [reading_of(subject, engines[0], flags.repetitions)])
            check = {"pair": subject.name, "seconds for both models": checked, "found": engines[0].info().certification}
            out.add(f"Held against the model itself and certified, before the first request: {title}", [check])
            out.add(f"Asked again under random load: {title}", [clients.reproduction(subject, engines, flags.replies)])
        finally:
            for engine in engines:
                engine.close()
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
