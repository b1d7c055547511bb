"""Work that says how far it is and ends in a result: a generator of steps, followed here and nowhere else.

What cannot say how far it is runs `apart`.

Closing such a generator ends the work. This file knows neither what the steps say nor what comes of them.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from contextlib import closing
from contextvars import copy_context
from threading import Event, Thread
from time import monotonic
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

    def check(self) -> None:
        """Raises Stopped when this was pressed."""
        if self.pressed:
            raise Stopped("Stopped.")

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


def seldom(steps: Steps[S, R], seconds: float) -> Steps[S, R]:
    """The same work without the steps that come sooner than so many seconds after the last one that was passed on."""
    due = 0.0
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            if monotonic() >= due:
                yield step
                due = monotonic() + seconds


def apart(work: Callable[[Stop], R]) -> Steps[None, R]:
    """Work in a thread of its own, in the context of whoever asks, with a step ten times a second until it has ended.

    Closed before that, it presses the stop that the work was given, which the work asks between its pieces.
    """
    stop, result = Stop(), Future[R]()

    def do() -> None:
        try:
            result.set_result(work(stop))
        except BaseException as error:
            result.set_exception(error)

    Thread(target=copy_context().run, args=(do,), name="apart", daemon=True).start()
    try:
        while not wait([result], timeout=0.1).done:
            yield None
    except BaseException:
        stop.press()
        raise
    return result.result()


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
