"""The app with a hook for faults, which is here and not in the app: `python -m benchmarks.soak.server`, and flags as for `app.py`.

A line on standard input says what happens to the next decode step of either model: `fail`, `nan`, `memory`, or `hang`,
which lasts until `release`. Of prompts and of sessions less is kept than in the app, so that as much as may be is there long before
memory is looked at, and what grows from then on leaks.
"""

import os
import signal
import sys
import threading
from queue import Empty, SimpleQueue

import torch

import app
from core.engine import engine
from core.engine.lane import Lane
from core.ui import sessions

FAULTS = ("fail", "nan", "memory", "hang")


class Hook:
    def __init__(self) -> None:
        self._next: SimpleQueue[str] = SimpleQueue()
        self._released = threading.Event()
        self._write = Lane.write

    def listen(self) -> None:
        """Do as standard input says; when it ends, whoever started this has gone, and so does this."""
        for line in sys.stdin:
            if line.strip() in FAULTS:
                self._released.clear()
                self._next.put(line.strip())
            else:
                self._released.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def write(self, lane: Lane, *given: list[int]) -> torch.Tensor:
        """Lane.write, but for the fault that was ordered."""
        try:
            fault = self._next.get_nowait()
        except Empty:
            fault = ""
        if fault == "fail":
            raise RuntimeError("an injected fault")
        if fault == "memory":
            raise torch.OutOfMemoryError("an injected fault")
        if fault == "hang":
            self._released.wait()
        logits = self._write(lane, *given)
        return torch.full_like(logits, torch.nan) if fault == "nan" else logits


STORE_BYTES, MAX_SESSIONS = 2**25, 300


def main() -> int:
    hook = Hook()
    engine.STORE_BYTES, sessions.MAX_SESSIONS = STORE_BYTES, MAX_SESSIONS
    Lane.write = lambda lane, *given: hook.write(lane, *given)  # type: ignore[method-assign]  # noqa: PLW0108 - binds the lane
    threading.Thread(target=hook.listen, daemon=True).start()
    return app.main(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
