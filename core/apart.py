"""Running what somebody else wrote in a process apart, with a limit on its time, its memory and what it writes.

A chat template is a program, and no sandbox inside this process can end one that loops or builds a string of
gigabytes. So templates run in a few processes that are kept (core/template_process.py), are watched while they work, and
are ended and started anew when they take too much. The patterns by which a tokenizer cuts texts are tried there first, and the regular
expressions of a study run there alone. A template that was ended once has a process of its own from then
on, so that whoever uses another one waits for nobody.
"""

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from . import settings, template_process
from .template_process import DONE, MEMORY, read, write

SECONDS = 5.0  # of a processor that templates may take for one prompt
PATIENCE = 120.0  # seconds by the clock, for a process that gets no processor
_PERIOD = 0.05  # seconds between two looks at a process that works
_TOGETHER = 2  # processes that templates share
_MOST_ALONE = 6  # templates that have a process of their own
_KEPT = (
    "PATH",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "HOME",
    "USERPROFILE",
    "LANG",
    "LD_LIBRARY_PATH",
)  # no tokens, no passwords

_ALONE = {
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # threads would take memory from what it may have


class TooMuch(Exception):
    """It took more than it may; the text says of what."""


class Refused(Exception):
    """It ended with an error of its own."""


_left: ContextVar["_Budget | None"] = ContextVar("_left", default=None)


class _Budget:
    def __init__(self) -> None:
        self.seconds, self.why = SECONDS, ""


@contextmanager
def one_budget() -> Iterator[None]:
    """Everything that is run inside takes its time from one budget; what comes when that is used up is refused at once."""
    if _left.get() is not None:
        yield
        return
    token = _left.set(_Budget())
    try:
        yield
    finally:
        _left.reset(token)


def ask(template: str, **request: Any) -> str:
    """The answer of a process to a request about a template.

    Raises:
        TooMuch: it was ended.
        Refused: the template failed.
    """
    with one_budget():
        budget = _left.get()
        assert budget is not None
        if budget.why:
            raise TooMuch(budget.why)
        try:
            answer, seconds = _processes().run(template, request, budget.seconds)
        except TooMuch as error:
            budget.why = str(error)
            raise
        budget.seconds -= seconds
        if budget.seconds <= 0:
            budget.why = _SLOW
    text = answer.removeprefix(DONE).decode("utf-8", "surrogatepass")
    if answer.startswith(DONE):
        return text
    raise Refused(text)


_SLOW = f"it takes more than {SECONDS:.0f} seconds"
_LARGE = f"it takes more than {MEMORY / 2**30:.0f} GB of memory"


class _Process:
    """One process, or none yet; whoever holds `lock` may use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = 0
        self.ended = ""  # why it was ended, while it worked
        self._running: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._watched: Any = None
        self._until = self._late = 0.0

    def ask(self, request: dict[str, Any], seconds: float, watch: Any) -> tuple[bytes, float]:
        """The answer and the processor's seconds that it took. Raises TooMuch."""
        if self._running is None or self._running.poll() is not None:
            self._start()
        if not self._ready and request["do"] == "render":
            self._send({"do": "prepare", "template": ""}, PATIENCE, watch)
            self._ready = True
        return self._send(request, seconds, watch)

    def _send(self, request: dict[str, Any], seconds: float, watch: Any) -> tuple[bytes, float]:
        running = self._running
        assert running is not None and running.stdin is not None and running.stdout is not None
        began = self._seconds()
        self._until, self._late, self.ended = began + seconds, monotonic() + PATIENCE, ""
        answer = None
        with watch(self), suppress(OSError, EOFError, ValueError):
            write(running.stdin, pickle.dumps(request))
            answer = read(running.stdout)
        if answer is None or self.ended:
            why = self.ended or "it broke the process that it ran in"
            self.close()
            raise TooMuch(why)
        return answer, self._seconds() - began

    def check(self) -> None:
        """End the process when what it does takes too much."""
        try:
            memory = self._watched.memory_info().rss
            if self._seconds() > self._until or monotonic() > self._late:
                self.ended = _SLOW
            elif memory > 2 * MEMORY:
                self.ended = _LARGE
        except psutil.Error:
            return
        if self.ended and self._running is not None:
            self._running.kill()

    def close(self) -> None:
        running, self._running, self._ready = self._running, None, False
        if running is not None:
            running.kill()
            running.wait()
            for pipe in (running.stdin, running.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _seconds(self) -> float:
        with suppress(psutil.Error):
            times = self._watched.cpu_times()
            return float(times.user + times.system)
        return 0.0

    def _start(self) -> None:
        self.close()
        environment = {name: value for name, value in settings.environment().items() if name in _KEPT}
        self._running = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(Path(template_process.__file__)),
            ],  # -P: its neighbours here are no modules of its own
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | _ALONE | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._watched = psutil.Process(self._running.pid)


class _Processes:
    """Those of this app, started when they are needed; one thread looks after those that work."""

    def __init__(self) -> None:
        self._together = [_Process() for _ in range(_TOGETHER)]
        self._alone: OrderedDict[str, _Process] = OrderedDict()
        self._working: set[_Process] = set()
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._watcher: threading.Thread | None = None

    def run(self, template: str, request: dict[str, Any], seconds: float) -> tuple[bytes, float]:
        process = self._take(template)
        try:
            with process.lock:
                return process.ask({**request, "template": template}, seconds, self._watched)
        except TooMuch:
            self._set_apart(template)
            raise
        finally:
            with self._lock:
                process.waiting -= 1

    def close(self) -> None:
        for process in [*self._together, *self._alone.values()]:
            process.close()

    def _take(self, template: str) -> _Process:
        with self._lock:
            process = self._alone.get(template) or min(self._together, key=lambda each: each.waiting)
            process.waiting += 1
            return process

    def _set_apart(self, template: str) -> None:
        with self._lock:
            self._alone.setdefault(template, _Process())
            self._alone.move_to_end(template)
            idle = next((key for key, each in self._alone.items() if not each.waiting), None)
            if len(self._alone) > _MOST_ALONE and idle is not None:
                self._alone.pop(idle).close()

    @contextmanager
    def _watched(self, process: _Process) -> Iterator[None]:
        with self._lock:
            self._working.add(process)
            self._work.set()
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="templates", daemon=True)
                self._watcher.start()
        try:
            yield
        finally:
            with self._lock:
                self._working.discard(process)
                if not self._working:
                    self._work.clear()

    def _watch(self) -> None:
        pause = threading.Event()
        while self._work.wait():
            pause.wait(_PERIOD)
            with self._lock:  # so that none is ended that has just answered
                for process in self._working:
                    process.check()


@cache
def _processes() -> _Processes:
    processes = _Processes()
    atexit.register(processes.close)
    return processes
