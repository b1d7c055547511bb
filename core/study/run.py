"""Runs a study: every cell that is missing, as many at once as there are slots, each kept as soon as it is there.

It does not know how a reply is written: that is a function that it is given.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic

from ..steps import Steps, Stop
from ..types import SIDES, Comparison, Side, SideResult, Value
from .plan import Cell, StudyPlan
from .store import Store

_PERIOD = 0.25  # seconds between two steps in which nothing was written


@dataclass(frozen=True)
class Desk:
    """A pair that is in memory: how many replies each of its models writes at once, and what writes one to its end.

    `write` raises UserError when it fails, and ends early when the stop that it is given is pressed.
    """

    slots: int
    write: Callable[[Comparison, Side, Stop], SideResult]


class StudyProgress(Value):
    """`done` of `total` cells are there; `seconds_left` is about what the others take, where that can be told."""

    done: int
    total: int
    seconds_left: float | None = None


def run(
    plan: StudyPlan, store: Store, sit_down: Callable[[str], AbstractContextManager[Desk]]
) -> Steps[StudyProgress, None]:
    """Write what is missing of a study, pair by pair. Closed, it ends what is being written; what was finished stays.

    Args:
        sit_down: what loads a pair by its id.

    Raises:
        UserError: a pair cannot be loaded, or a reply failed.
    """
    store.begin(plan)
    missing, total = store.missing(plan), plan.total
    began, done = monotonic(), total - len(missing)
    for pair in plan.pairs:
        cells = [cell for cell in missing if cell.arm.pair == pair]
        if not cells:
            continue
        with sit_down(pair) as desk:
            for written in _write(plan, cells, store, desk):
                done += written
                new = done - (total - len(missing))
                left = (monotonic() - began) / new * (total - done) if new > desk.slots else None
                yield StudyProgress(done=done, total=total, seconds_left=left)
    yield StudyProgress(done=total, total=total, seconds_left=0.0)


def _write(plan: StudyPlan, cells: list[Cell], store: Store, desk: Desk) -> Steps[int, None]:
    """Writes the cells of a pair; each step says how many have come since the last one.

    Each model has threads of its own, twice as many as slots: so neither waits for the other, and a slot that gets free
    is filled at the next step.
    """
    stop, came = Stop(), SimpleQueue[tuple[Cell, SideResult | BaseException]]()

    def work(cell: Cell) -> None:
        try:
            came.put((cell, desk.write(plan.comparison(cell), cell.arm.side, stop)))
        except BaseException as error:
            came.put((cell, error))

    with ExitStack() as cleanup:
        threads = {side: ThreadPoolExecutor(2 * desk.slots, thread_name_prefix=f"study {side}") for side in SIDES}
        for executor in threads.values():
            cleanup.callback(executor.shutdown, cancel_futures=True)
        cleanup.callback(stop.press)
        for cell in cells:
            threads[cell.arm.side].submit(copy_context().run, work, cell)
        left = len(cells)
        while left:
            try:
                cell, result = came.get(timeout=_PERIOD)
            except Empty:
                yield 0
                continue
            if isinstance(result, BaseException):
                raise result
            store.keep(plan, cell, result)
            left -= 1
            yield 1
