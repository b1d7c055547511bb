"""What happens on the Token lens tab, as plain generators of views.

No widgets in here. A lens reaches the browser as lines of JSON in one string that only grows (lens.js
draws them); what a visitor branched, handed over or dialled is a record like any other turn, and goes
to the chat only when the visitor puts it there.
"""

import json
import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal

from .. import lens, what_if
from ..compare import Run
from ..errors import UserError
from ..pool import Lease, Pool
from ..receipts import side_receipt
from ..types import (
    SIDES,
    Candidate,
    Comparison,
    Dial,
    LensContext,
    LensReport,
    Record,
    Shift,
    Side,
    SideReceipt,
    Turn,
)
from . import lens_render
from .session import Chat

PERIOD = 1 / 8  # seconds between two views of what is being written
Space = Literal["logits", "weights"]


@dataclass(frozen=True)
class Stop:
    """A visitor's way to end what is under way on this tab."""

    _event: Event = field(default_factory=Event)

    def stop(self) -> None:
        self._event.set()

    @property
    def pressed(self) -> bool:
        return self._event.is_set()


@dataclass(frozen=True)
class Made:
    """A comparison that was made from turn `turn` of a chat, finished, and could take that turn's place."""

    turn: int
    record: Record


@dataclass(frozen=True)
class View:
    """What the tab shows; None leaves a part as it is."""

    lines: str | None = None
    report: str | None = None  # the lens as JSON, once it is whole
    what_if: str | None = None
    made: Made | None = None
    notice: str = ""
    tone: Literal["info", "error"] = "info"
    busy: bool = False


@dataclass(frozen=True)
class _Turn:
    """A turn of a chat with both of its receipts."""

    comparison: Comparison
    receipts: dict[Side, SideReceipt]

    def side(self, side: Side, /) -> SideReceipt:
        return self.receipts[side]

    def whole(self, side: Side) -> tuple[int, ...]:
        """The whole reply, its prefilled beginning included."""
        return (*self.comparison.prefill(side), *self.side(side).token_ids)


def turn_of(chat: Chat, turn: int | None) -> _Turn:
    """Raises UserError when there is no such turn, or one of its sides failed."""
    if not chat:
        raise UserError("There is no reply to look at yet; press Compare on the first tab.")
    if turn is None or not 0 <= turn < len(chat):
        raise UserError(f"Choose one of the turns 1 to {len(chat)}.")
    record = chat[turn]
    receipts = {side: record.receipt(side) for side in SIDES}
    known = {side: receipt for side, receipt in receipts.items() if receipt is not None}
    if len(known) < len(SIDES):
        raise UserError("One side of this turn has no finished reply; retry the turn on the first tab.")
    return _Turn(record.comparison(chat[:turn]), known)


# --- the lens -------------------------------------------------------------------------------------------


def read(
    pool: Pool, chat: Chat, turn: int | None, side: Side, context: LensContext, stop: Stop
) -> Generator[View, None, None]:
    """Read one reply through both models, token by token. Closing the generator stops both."""

    def reading(lease: Lease) -> Generator[View, None, None]:
        lines = json.dumps({"name": f"t{secrets.token_hex(4)}", "side": side, "context": context}) + "\n"
        yield View(lines=lines, busy=True)
        shifts = lens.report(lease, turn_of(chat, turn), side, context)
        try:
            while True:
                fresh = next(shifts)
                if stop.pressed:
                    yield View(notice="Stopped; what was read so far stays.")
                    return
                lines += "".join(line(shift) for shift in fresh)
                yield View(lines=lines if fresh else None, busy=True)
        except StopIteration as end:
            report: LensReport = end.value
            lines += report.summary.model_dump_json() + "\n"
            yield View(lines=lines, report=report.model_dump_json())
        finally:
            shifts.close()

    yield from _with_models(pool, chat, turn, reading)


def line(shift: Shift) -> str:
    """One token as a line of JSON. A "<" is escaped, so that the line is nobody's markup wherever it lands."""
    values = [
        shift.id,
        shift.text,
        shift.rank_base,
        shift.rank_post,
        shift.first_choice_rank,
        *(round(value, 5) for value in (shift.logprob_base, shift.logprob_post, shift.kl, shift.js, shift.agreement)),
        *(_candidate(drawn)[:2] for drawn in (shift.drawn_base, shift.drawn_post)),
        *([_candidate(each) for each in top] for top in (shift.top_base, shift.top_post)),
    ]
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c") + "\n"


def _candidate(candidate: Candidate) -> list[Any]:
    return [candidate.id, candidate.text, round(candidate.logprob, 5)]


# --- what if --------------------------------------------------------------------------------------------


def branch(
    pool: Pool, chat: Chat, report: str | None, turn: int | None, step: int, token: int, stop: Stop
) -> Generator[View, None, None]:
    """Both models go on from the reply that the lens shows, with another token at `step`."""

    def ask(lease: Lease) -> Comparison:
        if report is None:
            raise UserError("Read a reply to its end first; then choose one of its tokens.")
        read = LensReport.model_validate_json(report)
        found = turn_of(chat, turn)
        if read.comparison != found.comparison:
            raise UserError("The conversation has changed since this reply was read; read it again.")
        if not all(isinstance(number, int) for number in (step, token)):
            raise UserError("Choose one of the tokens on the card.")
        return what_if.branch(found.comparison, found.whole(read.lens.side), step, token)

    yield from _compare(pool, chat, turn, ask, stop)


def hand_over(pool: Pool, chat: Chat, turn: int | None, tokens: int, stop: Stop) -> Generator[View, None, None]:
    """Each model goes on from the other's first tokens."""

    def ask(lease: Lease) -> Comparison:
        found = turn_of(chat, turn)
        return what_if.handover(lease, found.comparison, found.whole("base"), found.whole("post"), tokens)

    yield from _compare(pool, chat, turn, ask, stop)


def dial(
    pool: Pool, chat: Chat, turn: int | None, amount: float, space: Space, stop: Stop
) -> Generator[View, None, None]:
    """The turn again, with the post-trained side turned towards the base or beyond itself."""

    def ask(lease: Lease) -> Comparison:
        return turn_of(chat, turn).comparison.model_copy(update={"dial": Dial(amount=amount, space=space)})

    yield from _compare(pool, chat, turn, ask, stop)


def _compare(
    pool: Pool, chat: Chat, turn: int | None, ask: Callable[[Lease], Comparison], stop: Stop
) -> Generator[View, None, None]:
    """Run a comparison that is made from a turn, showing both replies as they are written."""

    def running(lease: Lease) -> Generator[View, None, None]:
        assert turn is not None
        comparison = ask(lease)
        run = Run(lease, comparison)
        for snapshot in run.snapshots(lambda: PERIOD):
            if stop.pressed:
                run.stop()
            yield View(what_if=lens_render.replies(run, snapshot), busy=True)
        result = run.result()
        turn_ = Turn(prompt=comparison.prompt, base=result.base.text, post=result.post.text)
        record = Record.of(comparison, turn_, side_receipt(result.base), side_receipt(result.post))
        yield View(what_if=lens_render.replies(run, run.snapshot()), made=Made(turn, record))

    yield from _with_models(pool, chat, turn, running)


def sweep(pool: Pool, chat: Chat, turn: int | None, space: Space, stop: Stop) -> Generator[View, None, None]:
    """The post-trained side at every setting of the dial."""

    def sweeping(lease: Lease) -> Generator[View, None, None]:
        points: list[what_if.Point] = []
        found = what_if.sweep(lease, turn_of(chat, turn).comparison, space)
        try:
            for point in found:
                if stop.pressed:
                    break
                points += [point] if point else []
                yield View(what_if=lens_render.sweep(points, space) if point else None, busy=True)
        finally:
            found.close()
        yield View(notice="Stopped; the settings that were finished stay." if stop.pressed else "")

    yield from _with_models(pool, chat, turn, sweeping)


def grid(pool: Pool, chat: Chat, turn: int | None, stop: Stop) -> Generator[View, None, None]:
    """Both sets of weights under both framings."""

    def filling(lease: Lease) -> Generator[View, None, None]:
        grids: list[what_if.Grid] = []
        found = what_if.grids(lease, turn_of(chat, turn).comparison)
        try:
            for each in found:
                if stop.pressed:
                    break
                grids += [each] if each else []
                yield View(what_if=lens_render.grids(grids) if each else None, busy=True)
        finally:
            found.close()
        yield View(notice="Stopped." if stop.pressed else "")

    yield from _with_models(pool, chat, turn, filling)


def _with_models(
    pool: Pool, chat: Chat, turn: int | None, work: Callable[[Lease], Generator[View, None, None]]
) -> Generator[View, None, None]:
    """Do something with the models of a turn; a mistake is a sentence and changes nothing."""
    try:
        turn_of(chat, turn)
        assert turn is not None
        opening = pool.open(chat[turn].pair)
        try:
            while True:
                try:
                    progress = next(opening)
                except StopIteration as end:
                    lease: Lease = end.value
                    break
                share = f" {progress.fraction:.0%}" if progress.fraction is not None else ""
                yield View(notice=f"{progress.text}{share}", busy=True)
        finally:
            opening.close()
        try:
            yield from work(lease)
        finally:
            lease.release()
    except UserError as error:
        yield View(notice=str(error), tone="error")


def made_chat(chat: Chat, made: Made | None) -> Chat:
    """The chat with the finished what-if in the place of the turn that it was made from.

    Raises:
        UserError: there is none, or the chat is not the one that it was made from.
    """
    if made is None or made.turn >= len(chat) or chat[made.turn].turn.prompt != made.record.turn.prompt:
        raise UserError("There is no finished what-if of this conversation; make one first.")
    return (*chat[: made.turn], made.record)
