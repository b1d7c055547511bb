"""What portable arithmetic costs, against the fast one, in one process, as ratios.

    python -m benchmarks.arithmetic          the embedded pair and a random 135M model on this CPU

A step writes a token in each of four slots, a chunk reads 64; both are the median over repetitions in which fast and
portable are timed in turn, in processor time of one thread.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psutil
import torch

from benchmarks import clients, report, subjects
from benchmarks.clients import Reply
from benchmarks.subjects import Subject
from core.engine import Engine, portable, sampling
from core.engine.device import Placement, place
from core.engine.lane import Lane
from core.engine.portable import Portable
from core.settings import Settings
from core.types import Request

LANES = (256, 1024)
WORDS = (4096, 49152, 151936)


def in_turn(repetitions: int, *ways: Callable[[], Any]) -> list[float]:
    """The median processor time of each way, in milliseconds."""
    taken: list[list[float]] = [[] for _ in ways]
    for repetition in range(repetitions + 2):
        for way, times in zip(ways, taken, strict=True):
            began = time.process_time()
            way()
            if repetition > 1:  # whatever happens only the first times
                times.append(1000 * (time.process_time() - began))
    return [statistics.median(times) for times in taken]


def lane(subject: Subject, length: int, of: str) -> Lane:
    """A recorded lane of a copy of the subject's second model; "unrecorded" is the portable one as it is before that."""
    model = subject.copy()
    attention = portable.NAME if of != "fast" else "sdpa"
    model.set_attn_implementation(attention)
    computing = model if of == "fast" else Portable(model)
    made = Lane(computing, slots=4, length=length, chunk=64, vocabulary=subject.vocabulary, attention=attention)
    if of == "portable":
        made.step(length // 2 + 1).record_beside(lambda: False)
    return made


def costs(subject: Subject, length: int, repetitions: int) -> dict[str, Any]:
    """One row: a step and a chunk at one length of lane."""
    fast, portably, unrecorded = (lane(subject, length, of) for of in ("fast", "portable", "unrecorded"))
    tokens, positions, chunk = [7] * 4, [length // 2] * 4, list(range(64))
    steps = in_turn(
        repetitions, *(lambda each=each: each.write(tokens, positions) for each in (fast, portably, unrecorded))
    )
    chunks = in_turn(repetitions, *(lambda each=each: each.read(chunk, 0) for each in (fast, portably)))
    cache = [sum(tensor.nbytes for tensor in each._writing[0].tensors()) for each in (fast, portably)]
    weights = sum(parameter.nbytes for parameter in fast.model.parameters())
    return {
        "model": subject.name,
        "lane": length,
        "fast step, ms": steps[0],
        "portable": steps[1],
        "times fast": steps[1] / steps[0],
        "unrecorded": steps[2],
        "fast chunk, ms": chunks[0],
        "portable chunk": chunks[1],
        "times fast chunk": chunks[1] / chunks[0],
        "weights, MB": weights / 1e6,
        "fast lane, MB": cache[0] / 1e6,
        "portable lane, MB": cache[1] / 1e6,
    }


def draws(words: int, repetitions: int) -> dict[str, Any]:
    """One row: a draw beside the same rule by the machine's own functions over all words."""
    logits = 4 * torch.randn(1, words, generator=torch.Generator().manual_seed(0))
    row = clients.request(0, words, 1).sampling.model_copy(update={"temperature": 0.7})
    seen, ids = torch.zeros(logits.shape, dtype=torch.bool), torch.arange(words)

    def plain() -> list[float]:
        exact = logits.double()
        scores = exact / row.temperature + sampling.gumbel(torch.tensor([sampling.key(row.seed, 0)]), ids)
        best = scores.topk(2)
        logprob = exact.gather(1, best.indices[:, :1]) - torch.logsumexp(exact, 1, keepdim=True)
        return [*best.indices[0].tolist(), *best.values[0].tolist(), *logprob[0].tolist()]

    exact, own = in_turn(repetitions, lambda: sampling.draw(logits, seen, [row], [0]), plain)
    return {"words": words, "draw, ms": exact, "in the fewest calls, by the machine's log": own, "times": exact / own}


def checks(subject: Subject, engine: Engine, repetitions: int) -> dict[str, Any]:
    """One row: a reply that is read beside the same reply written."""
    asked = clients.request(1, subject.vocabulary, subject.new_tokens)
    ((reply,),) = clients.together([engine], [asked])
    recorded = asked.model_copy(update={"expected": tuple(id for id, *_ in reply.tokens), "reuse": False})
    looked_at = recorded.model_copy(update={"reading": "only"})
    read, written = in_turn(repetitions, lambda: ended(engine, looked_at), lambda: ended(engine, recorded))
    return {
        "model": subject.name,
        "tokens": subject.new_tokens,
        "read, ms": read,
        "written again": written,
        "times": written / read,
    }


def turns(subject: Subject, placement: Placement, count: int) -> dict[str, Any]:
    """One row: how many tokens of a chat's later prompts are read again, when each turn adds 32 to what was asked and written."""
    new_tokens = min(64, subject.new_tokens)
    row: dict[str, Any] = {"model": subject.name, "turns": count, "tokens in the last prompt": 0}
    for of in ("fast", "portable"):
        attention = portable.NAME if of == "portable" else subject.attention(placement)
        shape = subject.shape(replace(placement, portable=of == "portable"))
        engine = Engine(subject.copy(), subject.vocabulary, shape, attention)
        try:
            history: tuple[int, ...] = ()
            read: list[int] = []
            for turn in range(count):
                asked = clients.request(turn, subject.vocabulary, new_tokens)
                asked = asked.model_copy(update={"token_ids": (*history, *asked.token_ids), "reuse": True})
                reply = ended(engine, asked)
                read.append(len(asked.token_ids) - reply.reused)
                history = (*asked.token_ids, *(id for id, *_ in reply.tokens))
        finally:
            engine.close()
        row["tokens in the last prompt"] = len(asked.token_ids)
        row[f"{of}: read a turn"] = statistics.mean(read[1:])
    return row


def memory(name: str, repetitions: int) -> dict[str, Any]:
    """One row: by how much a process grows, from before it has a model to after a reply in every slot, each in one of its own."""
    grown = {}
    for of in ("fast", "portable"):
        with multiprocessing.get_context("spawn").Pool(1) as process:
            grown[of] = statistics.median([process.apply(_grown, (name, of)) for _ in range(max(1, repetitions // 20))])
    return {
        "model": name,
        "fast, MB": grown["fast"] / 1e6,
        "portable, MB": grown["portable"] / 1e6,
        "times": grown["portable"] / grown["fast"],
    }


def _grown(name: str, of: str) -> int:
    placement, process = place(Settings(device="cpu", dtype="bfloat16")), psutil.Process()
    before = process.memory_info().rss
    subject = subjects.make(name, placement)
    attention = portable.NAME if of == "portable" else subject.attention(placement)
    shape = subject.shape(replace(placement, portable=of == "portable"))
    engines = [Engine(model, subject.vocabulary, shape, attention) for model in subject.models]
    try:
        clients.together(engines, [clients.request(seed, subject.vocabulary, 16) for seed in range(4)])
        return process.memory_info().rss - before
    finally:
        for engine in engines:
            engine.close()


def ended(engine: Engine, asked: Request) -> Reply:
    """Ask, and wait for the end."""
    return clients.wait(clients.ask(engine, asked, time.perf_counter())[0])


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arithmetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--pairs", default="embedded,135m", help=f"comma-separated, of {', '.join(subjects.SUBJECTS)}")
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    placement = place(Settings(device="cpu", dtype="bfloat16"))
    out = report.Report(report.command("benchmarks.arithmetic", arguments), "cpu", flags.save)
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        for name in flags.pairs.split(","):
            subject = subjects.make(name, placement)
            rows = [costs(subject, length, flags.repetitions) for length in LANES]
            out.add(f"Portable against fast arithmetic: {subject.name}, bfloat16 weights", rows)
        out.add("One draw at temperature 0.7", [draws(words, flags.repetitions) for words in WORDS])
    subject = subjects.make(flags.pairs.split(",")[0], placement)
    shape = subject.shape(replace(placement, portable=True))
    engine = Engine(subject.models[1], subject.vocabulary, shape, portable.NAME)
    try:
        out.add("A receipt that is read, and written again", [checks(subject, engine, max(1, flags.repetitions // 5))])
    finally:
        engine.close()
    out.add("Tokens of a chat that are read again", [turns(subject, placement, 8)])
    out.add("Memory of a pair that serves", [memory(name, flags.repetitions) for name in flags.pairs.split(",")])
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
