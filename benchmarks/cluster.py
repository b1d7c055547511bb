"""What a visitor sees when a replica is lost: how long a reply stands still, and whether it is the reply that it would have been.

    python -m benchmarks.cluster                       two replicas of the embedded pair on this machine, in portable arithmetic
    python -m benchmarks.cluster --arithmetic fast     the same in fast arithmetic
    python -m benchmarks.cluster --tokens 50,1000      with replies of these lengths

Needs requirements-cluster.txt. Both sides are asked of the cluster and of engines of this process. Half way the replica that writes is killed, or
halted so that it says nothing; the stall is the longest time without a new token from then on. Last, a reply is stopped, and the time is
taken until its replica has nothing to do.
"""

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from queue import SimpleQueue

from benchmarks import report
from core.cluster.connection import LOCAL, RayCluster, connect
from core.cluster.lease import RemoteLease
from core.cluster.pool import ClusterPool
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.lease import Lease, Writing
from core.pool import Pool
from core.settings import EMBEDDED, Settings
from core.types import DEFAULT_SAMPLING, SIDES, Event, Failure, Finish, Request, Side, Token

HOW = {"killed": signal.SIGKILL, "halted": signal.SIGSTOP}
PATIENCE = 120.0  # seconds for the next word of a reply

Reply = dict[Side, list[Token]]


def requests(lease: Lease, tokens: int, seed: int) -> dict[Side, Request]:
    """Replies of just so many tokens: nothing ends them before."""
    ids = tuple(range(300, 316))
    sampling = DEFAULT_SAMPLING.model_copy(update={"seed": seed, "max_new_tokens": tokens})
    return {side: Request(token_ids=ids, sampling=sampling, stop_ids=frozenset(), reuse=False) for side in SIDES}


def written(
    lease: Lease, tokens: int, seed: int, half_way: Callable[[], None] = lambda: None
) -> tuple[Reply, float, str]:
    """Both replies, the longest time without a token after `half_way` was called, and what failed."""
    heard: SimpleQueue[tuple[Side, Event]] = SimpleQueue()
    lease.write(requests(lease, tokens, seed), lambda side, event: heard.put((side, event)))
    found: Reply = {side: [] for side in SIDES}
    left, stall, last, failure = set(SIDES), 0.0, 0.0, ""
    while left:
        side, event = heard.get(timeout=PATIENCE)
        if isinstance(event, Token):
            found[side].append(event)
            if last:
                stall, last = max(stall, time.monotonic() - last), time.monotonic()
            elif min(map(len, found.values())) >= tokens // 2:
                half_way()
                last = time.monotonic()
        elif isinstance(event, Finish | Failure):
            failure = event.message if isinstance(event, Failure) else failure
            left.discard(side)
    return found, stall, failure


def pid_of(cluster: RayCluster, replica: str) -> int:
    return next(int(each["pid"]) for each in cluster.where() if each["replica"] == replica)


def lost(pool: ClusterPool, cluster: RayCluster, here: Lease, tokens: int, how: str, repetitions: int) -> report.Row:
    """One way to lose a replica, at one length."""
    lease, stalls, same = pool.wait(EMBEDDED), [], 0
    assert isinstance(lease, RemoteLease)
    for seed in range(repetitions):
        while len(cluster.where()) < pool.settings.replicas:
            time.sleep(0.5)
        wanted, _, _ = written(here, tokens, seed)
        pids = list[int]()

        def lose(lease: RemoteLease = lease, pids: list[int] = pids) -> None:
            pids.append(pid_of(cluster, lease.way.last))
            os.kill(pids[0], HOW[how])

        found, stall, failure = written(lease, tokens, seed, lose)
        if how == "halted":
            os.kill(pids[0], signal.SIGKILL)
        stalls.append(stall)
        same += found == wanted and not failure
        time.sleep(1)  # until the cluster knows
    return {
        "tokens a side": tokens,
        "replica": how,
        "median stall (s)": round(statistics.median(stalls), 2),
        "longest stall (s)": round(max(stalls), 2),
        "identical": f"{same} of {repetitions}",
    }


def begun(lease: Lease, seed: int) -> Writing:
    """Long replies of which the first token is there."""
    heard: SimpleQueue[Event] = SimpleQueue()
    writing = lease.write(requests(lease, 900, seed), lambda side, event: heard.put(event))
    while not isinstance(heard.get(timeout=PATIENCE), Token):
        pass
    return writing


def stopped(pool: ClusterPool, cluster: RayCluster, repetitions: int) -> report.Row:
    """Seconds from Stop until no replica has anything to do."""
    times = []
    for seed in range(repetitions):
        writing = begun(pool.wait(EMBEDDED), seed)
        writing.stop()
        began = time.monotonic()
        while any(each["under_way"] for each in cluster.where()):
            time.sleep(0.02)
        times.append(time.monotonic() - began)
    return {"median (s)": round(statistics.median(times), 2), "longest (s)": round(max(times), 2)}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arithmetic", choices=("fast", "portable"), default="portable")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--tokens", default="50,1000", help="lengths of replies (50,1000)")
    parser.add_argument("--repetitions", type=int, default=3)
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    settings = Settings(
        cluster=LOCAL,
        replicas=flags.replicas,
        device="cpu",
        slots=2,
        threads=1,
        context=2048,
        arithmetic=flags.arithmetic,
    )
    out = report.Report(report.command("benchmarks.cluster", arguments), "cpu", flags.save)
    try:
        with closing(connect(settings)) as cluster, Pool(replace(settings, cluster=""), HuggingFaceHub()) as own:
            pool, here = ClusterPool(settings, HuggingFaceHub(), cluster), own.wait(EMBEDDED)
            lengths = [int(each) for each in flags.tokens.split(",")]
            rows = [lost(pool, cluster, here, tokens, how, flags.repetitions) for tokens in lengths for how in HOW]
            out.add(f"Replies whose replica is lost half way, {flags.arithmetic} arithmetic", rows)
            out.add("From Stop until the slots of the replica are free", [stopped(pool, cluster, flags.repetitions)])
            counted = {name: value for name, (_, value) in pool.figures.items()}
            out.add("What the page server counted", [counted])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
