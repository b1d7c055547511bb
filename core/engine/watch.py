"""Passes through a model that do not end: one that takes too long is given up, and its thread is left to itself.

Knows passes and time, not what is computed.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

R = TypeVar("R")
LOOKS = 10  # at one pass, before it is given up


@dataclass(frozen=True)
class Patience:
    """How many seconds one pass may take, and what is called, on a thread of its own, when one took more.

    Whatever comes before an engine is ready may take `start` seconds, by default as long as it takes: it records and compiles.
    """

    seconds: float = 300.0
    hung: Callable[[], None] = lambda: None
    start: float | None = None


PATIENCE = Patience()


class Abandoned(BaseException):
    """A pass that was given up has ended after all; its thread touches nothing more."""


class Watch:
    """Looks at the passes of one thread from another.

    Looks are counted, not seconds: a machine that slept, or a process that was held for a while, has not hung.

    Args:
        give_up: called once, on the thread that looks.
    """

    def __init__(self, give_up: Callable[[], None]):
        self.given_up = False
        self._seconds, self._give_up = math.inf, give_up
        self._under_way: object | None = None
        self._lock = threading.Lock()  # of the moment in which a pass ends or is given up
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def begin(self, seconds: float) -> None:
        """From now on a pass may take so long."""
        self._seconds = seconds
        if self._thread.ident is None:
            self._thread.start()

    def end(self) -> None:
        """Look no more; returns when nobody looks."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def run(self, work: Callable[..., R], *given: object) -> R:
        """One pass, on the thread that is watched. Raises Abandoned where it was given up meanwhile, whatever it brought."""
        self._under_way = object()
        try:
            return work(*given)
        finally:
            with self._lock:
                self._under_way = None
                if self.given_up:
                    raise Abandoned

    def _look(self) -> None:
        seen, looks = None, 0
        while not self._over.wait(self._seconds / LOOKS):
            looks = looks + 1 if seen is not None and self._under_way is seen else 0
            seen = self._under_way
            if looks == LOOKS and self._given_up(seen):
                self._give_up()
                return

    def _given_up(self, seen: object) -> bool:
        with self._lock:
            self.given_up = self._under_way is seen
        return self.given_up
