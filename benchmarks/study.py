"""What a study costs: how long it takes, and its tokens a second beside those of both engines with all slots busy.

    python -m benchmarks.study                  the embedded pair on this CPU
    python -m benchmarks.study --device cuda    the same on a GPU

Each row is the median over repetitions in which the bare engines, which are given the very requests of the study all at
once, and the study are timed one after the other. The study also builds its prompts, reads its replies as text and counts.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from benchmarks import report
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.pool import Pool
from core.settings import EMBEDDED, Settings
from core.steps import Stop, finish
from core.study import served
from core.study.plan import StudyPlan, StudyPrompt
from core.types import DEFAULT_SAMPLING, Event, Failure, Finish, Request, Token


def plan(prompts: int, seeds: int, tokens: int, study: int) -> StudyPlan:
    """Sums, each asked at so many seeds; `study` makes the seeds of every repetition others."""
    return StudyPlan(
        prompts=tuple(StudyPrompt(prompt=f"What is {number} plus {number + 1}?") for number in range(prompts)),
        pairs=(EMBEDDED,),
        seeds=seeds,
        sampling=DEFAULT_SAMPLING.model_copy(update={"seed": study, "max_new_tokens": tokens}),
        crossed=False,
        today="2026-01-01",
    )


def bare(lease: Lease, asked: StudyPlan) -> tuple[float, int]:
    """Seconds in which the engines write the replies of a study and do nothing else, and how many tokens these have."""
    requests = []
    for cell in asked.cells():
        comparison, side = asked.comparison(cell), cell.arm.side
        ids, ends = lease.prompt(comparison, side).token_ids, lease.stop_ids(side)
        requests.append((side, Request(token_ids=ids, sampling=comparison.sampling, stop_ids=ends)))
    heard = SimpleQueue[Event]()
    began = time.perf_counter()
    for side, request in requests:
        lease.write({side: request}, lambda side, event: heard.put(event))
    tokens = ended = 0
    while ended < len(requests):
        event = heard.get()
        tokens += isinstance(event, Token)
        ended += isinstance(event, Finish | Failure)
    return time.perf_counter() - began, tokens


def measure(pool: Pool, lease: Lease, prompts: int, seeds: int, tokens: int, repetitions: int) -> dict[str, Any]:
    engines, studies, shares = [], [], []
    for repetition in range(repetitions):
        asked = plan(prompts, seeds, tokens, repetition)
        alone, written = bare(lease, asked)
        began = time.perf_counter()
        study = finish(served.perform(pool, asked, Stop()))
        seconds = time.perf_counter() - began
        assert written == sum(len(reply.token_ids) for reply in study.written().values())
        engines.append(written / alone)
        studies.append(seconds)
        shares.append(alone / seconds)
    return {
        "pair": EMBEDDED,
        "prompts": prompts,
        "seeds": seeds,
        "tokens, at most": tokens,
        "seconds": statistics.median(studies),
        "tokens/s of the bare engines": statistics.median(engines),
        "share of them": statistics.median(shares),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=64, help="of one prompt alone (64)")
    parser.add_argument("--prompts", type=int, default=100, help="of a suite, at 4 seeds each (100)")
    parser.add_argument("--tokens", type=int, default=40, help="of a reply, at most (40)")
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    out = report.Report(report.command("benchmarks.study", arguments), flags.device, flags.save)
    try:
        with Pool(Settings(device=flags.device), HuggingFaceHub()) as pool, pool.wait(EMBEDDED) as lease:
            measure(pool, lease, 1, 8, 4, 1)
            rows = [
                measure(pool, lease, prompts, seeds, flags.tokens, flags.repetitions)
                for prompts, seeds in ((1, flags.seeds), (flags.prompts, 4))
            ]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    out.add("A study beside the bare engines with all slots busy", rows)
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
