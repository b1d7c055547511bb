"""Runs a study: every cell that is missing, as many at once as there are slots, each kept as soon as it is there.

It does not know how a reply is written: that is a function that it is given.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, partial
from queue import Empty, SimpleQueue
from time import monotonic
from types import MappingProxyType
from typing import NamedTuple

from .. import canonical
from ..steps import Steps, Stop, watch
from ..types import Comparison, Side, SideReceipt, SideResult, Value
from .plan import StudyCell, StudyPlan
from .store import Fingerprint, Store

_PERIOD = 0.25  # seconds between two steps in which nothing was written


@dataclass(frozen=True)
class Desk:
    """A pair that is in memory: how many replies each of its models writes at once, and what writes one to its end.

    `write` raises UserError when it fails, and ends early when the stop that it is given is pressed. The token ids are those that
    somebody says will come of it, if any: where reading gives the bits of writing they are read. `read` gives the entropy of what
    each token of a reply was drawn from. Where `identity` is the same so is the reply; `writer` is who writes a side. When it is
    `wanted`, somebody needs its memory: then it is left, and asked for again.
    """

    slots: int
    write: Callable[[Comparison, Side, Stop, tuple[int, ...]], SideResult]
    read: Callable[[Comparison, Side, SideResult | SideReceipt, Stop], tuple[float, ...]]
    identity: Callable[[Comparison, Side], str]
    writer: Callable[[Side], Fingerprint]
    wanted: Callable[[], bool] = lambda: False


class StudyProgress(Value):
    """`done` of `total` cells are there; `seconds_left` is about what the others take, where that can be told.

    `loading` says what is loaded, while nothing can be written for that.
    """

    done: int
    total: int
    seconds_left: float | None = None
    loading: str = ""


SitDown = Callable[[str], Steps[str, AbstractContextManager[Desk]]]  # loads a pair by its id, and says how far that is
Adopt = Callable[[StudyCell, str, Fingerprint], bool]  # whether a cell has what came of the same request before


def run(plan: StudyPlan, store: Store, sit_down: SitDown) -> Steps[StudyProgress, None]:
    """Write what is missing of a study. Closed, it ends what is being written; what was finished stays.

    Raises:
        UserError: a pair cannot be loaded, or a reply failed.
    """
    store.begin(plan)
    unread = store.unread(plan)
    cells = {*store.missing(plan), *unread}
    ordered = [cell for cell in plan.cells() if cell in cells]
    adopt = partial(store.adopt, plan)
    with closing(write(plan, ordered, sit_down, adopt, total=plan.total, unread=unread)) as coming:
        for progress, cell, result, entropies, request in coming:
            if cell is not None and result is not None:
                store.keep(plan, cell, result, entropies, request)
            elif cell is not None and entropies:
                store.add(plan, cell, entropies)
            yield progress


class Came(NamedTuple):
    """How far it is, and what has come: a reply, its entropies and what it came of; of a reply that was there, entropies or nothing."""

    progress: StudyProgress
    cell: StudyCell | None = None
    result: SideResult | None = None
    entropies: tuple[float, ...] = ()
    request: str = ""


def write(
    plan: StudyPlan,
    cells: list[StudyCell],
    sit_down: SitDown,
    adopt: Adopt,
    *,
    total: int | None = None,
    known: Mapping[StudyCell, tuple[int, ...]] = MappingProxyType({}),
    unread: Mapping[StudyCell, SideReceipt] = MappingProxyType({}),
) -> Steps[Came, None]:
    """Write these cells of a plan, pair by pair, so that one is in memory at a time.

    Args:
        adopt: is asked of the cells of every pair but the first, whether a pair before had the same request.
        total: counts those that are there already, too.
        known: the token ids of cells that somebody has written before.
        unread: replies that are there and only read.
    """
    total = len(cells) if total is None else total
    began, new, before = monotonic(), 0, total - len(cells)

    def loading(text: str) -> Came:
        return Came(StudyProgress(done=before + new, total=total, loading=text))

    for pair in plan.pairs:
        mine = dict.fromkeys(cell for cell in cells if cell.arm.pair == pair)
        while mine:
            seat = yield from watch(sit_down(pair), loading)
            with seat as desk, closing(_write(plan, list(mine), desk, adopt, known, unread)) as coming:
                for came in coming:
                    if came is not None:
                        del mine[came[0]]
                        new += 1
                    left = (monotonic() - began) / new * (len(cells) - new) if new > desk.slots else None
                    yield Came(StudyProgress(done=before + new, total=total, seconds_left=left), *(came or ()))
                    if desk.wanted():
                        break
    yield Came(StudyProgress(done=total, total=total, seconds_left=0.0))


_Done = tuple[SideResult | None, tuple[float, ...], str]


def _write(
    plan: StudyPlan,
    cells: list[StudyCell],
    desk: Desk,
    adopt: Adopt,
    known: Mapping[StudyCell, tuple[int, ...]],
    unread: Mapping[StudyCell, SideReceipt],
) -> Steps[tuple[StudyCell, SideResult | None, tuple[float, ...], str] | None, None]:
    """Writes the cells of a pair, and reads them where that is asked; None where nothing has come for a while.

    Each model has threads of its own, twice as many as slots: so neither waits for the other, and a slot that gets free
    is filled at the next step.
    """
    identity = cache(lambda prompt, arm: desk.identity(plan.comparison(StudyCell(prompt, 0, arm)), arm.side))

    def request(cell: StudyCell) -> str:
        return canonical.sha256([identity(cell.prompt, cell.arm), plan.seed(cell.prompt, cell.repetition)])

    if cells[0].arm.pair != plan.pairs[0]:
        waiting = list[StudyCell]()
        for cell in cells:
            if cell not in unread and adopt(cell, request(cell), desk.writer(cell.arm.side)):
                yield cell, None, (), ""
            else:
                waiting.append(cell)
        cells = waiting
    stop, came = Stop(), SimpleQueue[tuple[StudyCell, _Done | BaseException]]()

    def done(cell: StudyCell) -> _Done:
        asked, side, there = plan.comparison(cell), cell.arm.side, unread.get(cell)
        result = desk.write(asked, side, stop, known.get(cell, ())) if there is None else None
        reply = result or there
        entropies = desk.read(asked, side, reply, stop) if plan.branching and reply is not None else ()
        return result, entropies, request(cell)

    def work(cell: StudyCell) -> None:
        try:
            came.put((cell, done(cell)))
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
                cell, found = came.get(timeout=_PERIOD)
            except Empty:
                yield None
                continue
            if isinstance(found, BaseException):
                raise found
            left -= 1
            yield cell, *found
