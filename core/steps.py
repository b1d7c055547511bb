"""Work that says how far it is and ends in a result: a generator of steps, followed here and nowhere else.

Closing such a generator ends the work. This file knows neither what the steps say nor what comes of them.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from threading import Event
from typing import TypeVar

from .errors import UserError

S = TypeVar("S")
V = TypeVar("V")
R = TypeVar("R")
Steps = Generator[S, None, R]


class Stopped(UserError):
    """Somebody stopped the work before its end."""


class Stop:
    """Ends work that is under way. Pressed once, from any thread."""

    def __init__(self) -> None:
        self._event = Event()
        self._acts: list[Callable[[], None]] = []

    @property
    def pressed(self) -> bool:
        return self._event.is_set()

    def press(self) -> None:
        self._event.set()
        for act in self._acts:
            act()

    def also(self, act: Callable[[], None]) -> None:
        """Call `act` when this is pressed, at once where it was already. `act` must bear being called twice."""
        self._acts.append(act)
        if self.pressed:
            act()


def watch(steps: Steps[S, R], show: Callable[[S], V], stop: Stop | None = None) -> Steps[V, R]:
    """The same work, each step as `show` puts it. Closed, it closes `steps`.

    Raises:
        Stopped: `stop` was pressed.
    """
    with closing(steps):
        while stop is None or not stop.pressed:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield show(step)
    raise Stopped("Stopped.")


def finish(steps: Steps[S, R], report: Callable[[S], None] = lambda step: None) -> R:
    """What comes of the work, for those who have nothing else to do meanwhile; each new step is reported once."""
    last: list[S] = []

    def told(step: S) -> None:
        if last != [step]:
            report(step)
        last[:] = [step]

    following = watch(steps, told)
    while True:
        try:
            next(following)
        except StopIteration as end:
            return end.value
