"""What the token lens costs: reading a reply through both models, as a ratio to writing it.

    python -m benchmarks.lens                  the embedded pair on this CPU
    python -m benchmarks.lens --device cuda    the same on a GPU

Writing is one comparison: both siblings write so many tokens side by side. Reading is the whole lens of
one of the two replies: both models teacher-forced, and every figure. Each row is the median over
repetitions in which both are timed one after the other.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from benchmarks import report
from core import prompts
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.pool import Pool
from core.settings import EMBEDDED, Settings
from core.steps import finish
from core.types import DEFAULT_SAMPLING, SIDES, Comparison, Event, Failure, Finish, Request, Side, Token

LENGTHS = (50, 200, 800)


def comparison(seed: int, tokens: int) -> Comparison:
    sampling = DEFAULT_SAMPLING.model_copy(update={"seed": seed, "max_new_tokens": tokens})
    return Comparison(
        pair=EMBEDDED, prompt="Tell me a long story about the sea.", sampling=sampling, today="2026-01-01"
    )


def write(lease: Lease, asked: Comparison) -> tuple[float, tuple[int, ...]]:
    """Seconds in which both siblings write their replies in full (no token ends them), and the post-trained reply."""
    heard: SimpleQueue[tuple[Side, Event]] = SimpleQueue()
    ids: list[int] = []
    began = time.perf_counter()
    requests = {}
    for side in SIDES:
        prompt = prompts.build(asked, side, lease.side(side).tokenizer, lease.post.tokenizer)
        requests[side] = Request(token_ids=prompt.token_ids, sampling=asked.sampling, stop_ids=frozenset(), reuse=False)
    lease.write(requests, lambda *told: heard.put(told))
    ended = 0
    while ended < len(SIDES):
        side, event = heard.get()
        if isinstance(event, Token) and side == "post":
            ids.append(event.id)
        ended += isinstance(event, Finish | Failure)
    return time.perf_counter() - began, tuple(ids)


def measure(lease: Lease, tokens: int, repetitions: int) -> dict[str, Any]:
    writing, reading = [], []
    for seed in range(repetitions):
        asked = comparison(seed, tokens)
        seconds, ids = write(lease, asked)
        writing.append(seconds)
        began = time.perf_counter()
        found = finish(lease.read(asked, "post", ids))
        reading.append(time.perf_counter() - began)
        assert len(found.shifts) == tokens
    ratios = [read / written for read, written in zip(reading, writing, strict=True)]
    return {
        "pair": EMBEDDED,
        "tokens": tokens,
        "ms to write": 1000 * statistics.median(writing),
        "ms to read": 1000 * statistics.median(reading),
        "read / write": statistics.median(ratios),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lens", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS, help="lengths of the replies (50 200 800)")
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    out = report.Report(report.command("benchmarks.lens", arguments), flags.device, flags.save)
    try:
        with Pool(Settings(device=flags.device), HuggingFaceHub()) as pool, pool.wait(EMBEDDED) as lease:
            measure(lease, 20, 1)
            rows = [measure(lease, tokens, flags.repetitions) for tokens in flags.tokens]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    out.add("The token lens: reading a reply through both models against writing it", rows)
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
