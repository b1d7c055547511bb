"""Runs a study: every cell that is missing, as many at once as there are slots, each kept as soon as it is there.

It does not know how a reply is written: that is a function that it is given.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from contextvars import copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from types import MappingProxyType
from typing import NamedTuple

from ..steps import Steps, Stop, watch
from ..types import Comparison, Side, SideResult, Value
from .plan import StudyCell, StudyPlan
from .store import Store

_PERIOD = 0.25  # seconds between two steps in which nothing was written


@dataclass(frozen=True)
class Desk:
    """A pair that is in memory: how many replies each of its models writes at once, and what writes one to its end.

    `write` raises UserError when it fails, and ends early when the stop that it is given is pressed. The token ids are those that
    somebody says will come of it, if any: where reading gives the bits of writing they are read.
    """

    slots: int
    write: Callable[[Comparison, Side, Stop, tuple[int, ...]], SideResult]


class StudyProgress(Value):
    """`done` of `total` cells are there; `seconds_left` is about what the others take, where that can be told.

    `loading` says what is loaded, while nothing can be written for that.
    """

    done: int
    total: int
    seconds_left: float | None = None
    loading: str = ""


SitDown = Callable[[str], Steps[str, AbstractContextManager[Desk]]]  # loads a pair by its id, and says how far that is


def run(plan: StudyPlan, store: Store, sit_down: SitDown) -> Steps[StudyProgress, None]:
    """Write what is missing of a study. Closed, it ends what is being written; what was finished stays.

    Raises:
        UserError: a pair cannot be loaded, or a reply failed.
    """
    store.begin(plan)
    with closing(write(plan, store.missing(plan), sit_down, total=plan.total)) as coming:
        for progress, cell, result in coming:
            if cell is not None and result is not None:
                store.keep(plan, cell, result)
            yield progress


class Came(NamedTuple):
    """How far it is, and the reply that has come, if any."""

    progress: StudyProgress
    cell: StudyCell | None = None
    result: SideResult | None = None


def write(
    plan: StudyPlan,
    cells: list[StudyCell],
    sit_down: SitDown,
    *,
    total: int | None = None,
    known: Mapping[StudyCell, tuple[int, ...]] = MappingProxyType({}),
) -> Steps[Came, None]:
    """Write these cells of a plan, pair by pair, so that one is in memory at a time.

    Args:
        total: counts those that are there already, too.
        known: the token ids of cells that somebody has written before.
    """
    total = len(cells) if total is None else total
    began, new, before = monotonic(), 0, total - len(cells)

    def loading(text: str) -> Came:
        return Came(StudyProgress(done=before + new, total=total, loading=text))

    for pair in plan.pairs:
        mine = [cell for cell in cells if cell.arm.pair == pair]
        if not mine:
            continue
        seat = yield from watch(sit_down(pair), loading)
        with seat as desk, closing(_write(plan, mine, desk, known)) as coming:
            for came in coming:
                new += came is not None
                left = (monotonic() - began) / new * (len(cells) - new) if new > desk.slots else None
                yield Came(StudyProgress(done=before + new, total=total, seconds_left=left), *(came or ()))
    yield Came(StudyProgress(done=total, total=total, seconds_left=0.0))


def _write(
    plan: StudyPlan, cells: list[StudyCell], desk: Desk, known: Mapping[StudyCell, tuple[int, ...]]
) -> Steps[tuple[StudyCell, SideResult] | None, None]:
    """Writes the cells of a pair; None where nothing has come for a while.

    Each model has threads of its own, twice as many as slots: so neither waits for the other, and a slot that gets free
    is filled at the next step.
    """
    stop, came = Stop(), SimpleQueue[tuple[StudyCell, SideResult | BaseException]]()

    def work(cell: StudyCell) -> None:
        try:
            came.put((cell, desk.write(plan.comparison(cell), cell.arm.side, stop, known.get(cell, ()))))
        except BaseException as error:
            came.put((cell, error))

    with ExitStack() as cleanup:
        for side in {cell.arm.side for cell in cells}:
            threads = ThreadPoolExecutor(2 * desk.slots, thread_name_prefix=f"study {side}")
            cleanup.callback(threads.shutdown, cancel_futures=True)
            for cell in cells:
                if cell.arm.side == side:
                    threads.submit(copy_context().run, work, cell)
        cleanup.callback(stop.press)
        left = len(cells)
        while left:
            try:
                cell, result = came.get(timeout=_PERIOD)
            except Empty:
                yield None
                continue
            if isinstance(result, BaseException):
                raise result
            left -= 1
            yield cell, result
