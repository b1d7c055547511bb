"""How many visitors one process of one core streams to, and how smoothly.

    python -m benchmarks.visitors                    1, 25, 50 and 100 visitors at once
    python -m benchmarks.visitors --against main     the same for another revision, number by number in the same run

Both models write at a fixed rate and take no processor, so that what is measured is the page: from their tokens to the bytes that
a browser reads. The server has one core; the visitors, plain HTTP clients in this process, have another. Each visitor holds the
connection that says that a page is open, asks as a browser does, reads the event stream, and asks again when the reply has ended.
They begin one after the other within the time of one reply, and are looked at for a while once all have begun.

An update is a message that changes what the page shows of a reply. "p50" and "p95" are of the time between two updates of one
reply, in milliseconds; "slowest page" is the visitor with the fewest updates a second; "until the first" is the time from asking to the
first update. The processor time is the server's, all that it does for its visitors, over the updates.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks import report

NUMBERS = "1,25,50,100"
RATE = 25.0  # tokens a second of each reply
TOKENS = 250
SECONDS = 20.0  # that are looked at
TOO_LONG = 120.0  # seconds from asking to the end of a reply
UPDATES = (b'data: {"msg":"process_generating"', b'data: {"msg":"told"')
END = b'data: {"msg":"process_completed"'
WORDS = (
    "The sea is **wide**, and `deep` as well.\n\n- salt\n- a <b>wave</b> of it\n\nNobody has counted what lives there. "
)
_ROOT = Path(__file__).parent.parent
# The page of whatever revision lies in the current folder, by this file.
_SERVE = (
    "import sys; sys.path.insert(0, ''); import runpy; runpy.run_path(sys.argv[1])['serve'](*map(float, sys.argv[2:]))"
)


# --- the server, in a process of its own ------------------------------------------------------------------


def serve(tokens: float, rate: float) -> None:
    """The page over two models of that rate, until standard input ends. Prints its address."""
    from core.settings import Settings
    from core.ui import page
    from tests.ports import free_port
    from tests.scripted import ScriptedPool

    script: Any = ScriptedPool(WORDS * int(tokens), WORDS * int(tokens))
    for engine in script.engines.values():
        engine.submit = Paced(engine.ids[: int(tokens)], rate).submit
    demo = page.build(script)
    _, url, _ = page.launch(demo, Settings(port=free_port()), prevent_thread_lock=True, quiet=True)
    print(url.rstrip("/"), flush=True)
    sys.stdin.read()
    os._exit(0)


class Paced:
    """One thread writes all replies: a token for each of them, so many times a second."""

    def __init__(self, ids: Sequence[int], rate: float):
        from core.types import Token

        self.rate = rate
        self.tokens = [Token(step=step, id=id, logprob=-1.0, margin=0.5) for step, id in enumerate(ids)]
        self.jobs: list[SimpleNamespace] = []
        self.lock = threading.Lock()
        threading.Thread(target=self._write, daemon=True).start()

    def submit(self, request: Any, emit: Callable[[Any], None]) -> SimpleNamespace:
        from core.types import Started

        job = SimpleNamespace(emit=emit, written=0, stopped=False, prompt=len(request.token_ids))
        job.cancel = lambda: setattr(job, "stopped", True)
        emit(Started())
        with self.lock:
            self.jobs.append(job)
        return job

    def _write(self) -> None:
        due = time.perf_counter()
        while True:
            due = max(due + 1 / self.rate, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
            with self.lock:
                jobs = list(self.jobs)
            for job in jobs:
                self._step(job)

    def _step(self, job: SimpleNamespace) -> None:
        from core.types import Finish, Usage

        if not job.stopped and job.written < len(self.tokens):
            job.emit(self.tokens[job.written])
            job.written += 1
            return
        with self.lock:
            self.jobs.remove(job)
        usage = Usage(
            prompt_tokens=job.prompt,
            reused_tokens=0,
            output_tokens=job.written,
            prefill_passes=1,
            decode_passes=job.written,
            seconds_queued=0.0,
            seconds_to_first_token=1 / self.rate,
            seconds_decoding=job.written / self.rate,
        )
        job.emit(Finish(reason="stopped" if job.stopped else "length", usage=usage))


@contextmanager
def served(tree: Path, tokens: int, rate: float, *core: int) -> Iterator[tuple[str, psutil.Process]]:
    """The page of the revision in this folder: its address and its process."""
    command = [sys.executable, "-c", _SERVE, str(Path(__file__).resolve()), str(tokens), str(rate)]
    with subprocess.Popen(command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            _pin(process.pid, *core)
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"The page in {tree} could not be served.")
            yield url, psutil.Process(process.pid)
        finally:
            process.stdin.close()
            process.wait(30)


@contextmanager
def revision(name: str) -> Iterator[Path]:
    """The files of a revision in a folder of their own."""
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(_ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), name], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _pin(process: int, *cores: int) -> None:
    """Nothing where processes cannot be pinned, or there is one core alone."""
    if cores:
        os.sched_setaffinity(process, cores)


# --- the visitors -----------------------------------------------------------------------------------------


class Visitor:
    """One page that is open: asks, reads, and asks again. `replies` are the moments of asking and of every update."""

    def __init__(self, url: str, asked: dict[str, Any]):
        self.url, self.asked, self.session = urlsplit(url), asked, uuid.uuid4().hex
        self.replies: list[list[float]] = []

    async def stay(self, delay: float) -> None:
        await asyncio.sleep(delay)
        _, writer = await self._request("GET", f"/gradio_api/heartbeat/{self.session}")
        try:
            while True:
                async with asyncio.timeout(TOO_LONG):
                    await self._ask()
        finally:
            writer.close()

    async def _ask(self) -> None:
        body = json.dumps({**self.asked, "session_hash": self.session}).encode()
        moments = [time.perf_counter()]
        self.replies.append(moments)
        _, joined = await self._request("POST", "/gradio_api/queue/join", body)
        joined.close()
        stream, writer = await self._request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
        try:
            while True:
                line = await stream.readline()
                if line.startswith(UPDATES):
                    moments.append(time.perf_counter())
                elif line.startswith(END):
                    break
                elif not line:
                    raise RuntimeError("A stream broke off.")
        finally:
            writer.close()
        if not json.loads(line[6:])["success"]:
            raise RuntimeError(line.decode())

    async def _request(
        self, method: str, path: str, body: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What is asked, and its answer behind the head. In a chunk there are whole lines, so chunks need not be told apart."""
        reader, writer = await asyncio.open_connection(self.url.hostname, self.url.port, limit=1 << 24)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.url.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        return reader, writer


async def _watched(url: str, process: psutil.Process, number: int, ramp: float, seconds: float) -> report.Row:
    """One row: so many visitors, looked at for so many seconds once they have begun within `ramp` seconds."""
    from benchmarks.page import PROMPT, asking

    asked = asking(url, "transcript", "ask", {"prompt": PROMPT, "at": 0})
    visitors = [Visitor(url, asked) for _ in range(number)]
    staying = asyncio.gather(*(each.stay(ramp * turn / number) for turn, each in enumerate(visitors)))
    try:
        await asyncio.wait([staying], timeout=ramp + 1.0)
        began, spent, own = time.perf_counter(), _spent(process), time.process_time()
        await asyncio.wait([staying], timeout=seconds)
        ended, spent, own = time.perf_counter(), _spent(process) - spent, time.process_time() - own
        if staying.done():
            staying.result()
    finally:
        staying.cancel()
        with suppress(asyncio.CancelledError):
            await staying
    return _row(visitors, (began, ended), spent) | {"clients' core": f"{own / (ended - began):.0%}"}


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _row(visitors: Sequence[Visitor], window: tuple[float, float], spent: float) -> report.Row:
    began, ended = window
    gaps, rates, first = [], [], []
    for visitor in visitors:
        own = []
        for asked, *updates in visitor.replies:
            own += [b - a for a, b in pairwise(updates) if began <= a and b <= ended]
            if updates and began <= updates[0] <= ended:
                first.append(updates[0] - asked)
            elif not updates:
                first.append(ended - asked)
        gaps += own
        rates.append(len(own) / sum(own) if own else 0.0)
    p95 = statistics.quantiles(gaps, n=20)[-1] if len(gaps) > 1 else max(gaps, default=0.0)
    return {
        "visitors": len(visitors),
        "updates a second a page": len(gaps) / sum(gaps) if gaps else 0.0,
        "slowest page": min(rates),
        "p50": 1000 * statistics.median(gaps or [0.0]),
        "p95": 1000 * p95,
        "until the first, s": max(first, default=0.0),
        "server's core": f"{spent / (ended - began):.0%}",
        "processor ms an update": 1000 * spent / max(1, len(gaps)),
    }


# --- all of it --------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.visitors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--visitors", default=NUMBERS, metavar="N,N,...", help=f"how many at once (default {NUMBERS})")
    parser.add_argument("--against", metavar="REV", help="a revision of this repository to be measured beside this one")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for which each number is looked at")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="length of each reply")
    parser.add_argument("--rate", type=float, default=RATE, help="tokens a second of each reply")
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    out = report.Report(report.command("benchmarks.visitors", arguments), "cpu", flags.save)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    theirs, own = (cores[:1], cores[-1:]) if len(cores) > 1 else ([], [])
    rows: list[report.Row] = []
    with ExitStack() as stack:
        trees = {"here": _ROOT}
        if flags.against:
            trees = {flags.against: stack.enter_context(revision(flags.against))} | trees
        pages = {
            name: stack.enter_context(served(tree, flags.tokens, flags.rate, *theirs)) for name, tree in trees.items()
        }
        _pin(0, *own)
        for number in map(int, flags.visitors.split(",")):
            for name, (url, process) in pages.items():
                ramp = flags.tokens / flags.rate
                rows.append({"revision": name} | asyncio.run(_watched(url, process, number, ramp, flags.seconds)))
        _pin(0, *cores)
    out.add(f"Visitors at once, replies of {flags.tokens} tokens at {flags.rate:g} tokens/s", rows)
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
