"""A study for somebody who waits at a server: its pairs come from the pool, and its replies are in memory alone, so many and no more."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from pydantic import Field

from ..errors import UserError
from ..lease import Card, Lease
from ..pool import Pool
from ..run import identity, write
from ..steps import Steps, Stop, Stopped, watch
from ..types import SIDES, Value
from . import receipt
from .checks import try_out
from .export import StudyReport
from .plan import StudyCell, StudyPlan
from .results import results
from .run import Desk, StudyProgress, run
from .store import CellReply, Fingerprint, opened

MOST_TOKENS = 1_000_000  # that the replies of one study may have


class Study(Value):
    """What a study found, whole or as far as it came, and its packed replies (`Store.image`). `ended` says why it ended early."""

    plan: StudyPlan
    report: StudyReport
    image: bytes = Field(repr=False)
    ended: str = ""

    def written(self) -> dict[StudyCell, CellReply]:
        with opened(None, self.image) as store:
            return store.written(self.plan)


def check(plan: StudyPlan) -> None:
    """Raises UserError where a study cannot be asked here; nothing is run for it."""
    tokens = plan.total * plan.sampling.max_new_tokens
    if tokens > MOST_TOKENS:
        raise UserError(
            f"It would be {plan.total:,} replies of up to {plan.sampling.max_new_tokens:,} tokens, and a study has at most {MOST_TOKENS:,} tokens here; take fewer seeds or shorter replies, or run it on the command line."
        )
    for each in {*plan.checks, *(row.expect for row in plan.prompts if row.expect)}:
        try_out(each)


def perform(pool: Pool, plan: StudyPlan, stop: Stop, image: bytes | None = None) -> Steps[StudyProgress, Study]:
    """Run a study and count it. What went wrong, or `stop`, ends it with what there is by then.

    Args:
        image: replies of a study before, of which those that are of this one are not written again.

    Raises:
        UserError: there is nothing to count.
    """
    check(plan)
    ended = ""
    with opened(None, image) as store:
        try:
            yield from watch(run(plan, store, partial(sit_down, pool)), lambda progress: progress, stop)
        except UserError as error:
            ended = str(error)
            if not store.written(plan):
                if isinstance(error, Stopped):
                    raise UserError("Stopped before anything had come back.") from None
                raise
        written = store.written(plan)
        report = StudyReport(results=results(plan, written), receipt=receipt.make(plan, store, written))
        return Study(plan=plan, report=report, image=store.image(plan), ended=ended)


def sit_down(pool: Pool, pair: str) -> Steps[str, AbstractContextManager[Desk]]:
    """A pair, loaded if need be, as soon as nobody else needs its memory. Raises UserError when it cannot be."""
    lease = yield from watch(pool.open(pair, gives_way=True), str)
    return desk(lease)


def _writer(by: Card) -> Fingerprint:
    return Fingerprint(checkpoint=by.info, weights_sha256=by.weights_sha256, engine=by.engine)


@contextmanager
def desk(lease: Lease) -> Iterator[Desk]:
    """Where the replies of this pair are written; it is released at the end."""
    with lease:
        slots = min(lease.side(side).engine.slots for side in SIDES)
        yield Desk(
            slots,
            write=partial(write, lease),
            read=lambda asked, side, reply, stop: lease.entropies(asked, side, reply, stop.check),
            identity=partial(identity, lease),
            writer=lambda side: _writer(lease.side(side)),
            wanted=lease.wanted,
        )
