"""What happens on the Token lens tab, as plain generators of views.

No widgets in here. A lens reaches the browser as lines of JSON in one string that only grows (lens.js
draws them); what a visitor branched, handed over or dialled is a record like any other turn, and goes
to the chat only when the visitor puts it there.
"""

import json
import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from ... import canonical, lens, what_if
from ...errors import UserError
from ...lease import Lease
from ...pool import Pool
from ...prompts import token_text
from ...receipts import side_receipt
from ...run import Run
from ...steps import Stop, Stopped, watch
from ...types import (
    SIDES,
    Candidate,
    Chat,
    Comparison,
    Dial,
    LensContext,
    Record,
    Shift,
    Side,
    SideReceipt,
    Turn,
    explain,
)
from ..markup import counted
from . import render

PERIOD = 1 / 8  # seconds between two views of what is being written
Space = Literal["logits", "weights"]
T = TypeVar("T")
Asked = tuple[str, Comparison]  # what it is called, and what is run


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


def turn_of(chat: Chat, turn: Any) -> _Turn:
    """Raises UserError when there is no such turn, or one of its sides failed."""
    if not chat:
        raise UserError("There is no reply to look at yet; press Compare on the first tab.")
    if not isinstance(turn, int) or not 0 <= turn < len(chat):
        raise UserError(f"Choose one of the turns 1 to {len(chat)}.")
    record = chat[turn]
    receipts = {side: record.receipt(side) for side in SIDES}
    known = {side: receipt for side, receipt in receipts.items() if receipt is not None}
    if len(known) < len(SIDES):
        raise UserError("One side of this turn has no finished reply; retry the turn on the first tab.")
    return _Turn(record.comparison(chat[:turn]), known)


# --- the lens -------------------------------------------------------------------------------------------


Views = Generator[View, None, None]


def read(pool: Pool, chat: Chat, turn: int | None, side: Side, context: LensContext, stop: Stop) -> Views:
    """Read one reply through both models, token by token. Closing the generator stops both."""

    def reading(lease: Lease) -> Views:
        found = turn_of(chat, turn)
        given = len(found.comparison.prefill(side))
        head = {"side": side, "context": context, "turn": turn, "of": _digest(found), "given": given}
        lines = json.dumps({**head, "name": f"t{secrets.token_hex(4)}"}) + "\n"
        yield View(lines=lines, busy=True)

        def drawn(fresh: tuple[Shift, ...]) -> View:
            nonlocal lines
            lines += "".join(map(line, fresh))
            return View(lines=lines if fresh else None, busy=True)

        report = yield from watch(lens.report(lease, found, side, context), drawn, stop)
        yield View(lines=lines + report.summary.model_dump_json() + "\n", report=report.model_dump_json())

    yield from _with_models(pool, chat, turn, reading, stop, "Stopped; what was read so far stays.")


def _digest(found: "_Turn") -> str:
    """What a lens is of; a branch is only made from the same."""
    return canonical.sha256(canonical.dump(found.comparison))


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


def branch(pool: Pool, chat: Chat, asked: Any, stop: Stop) -> Views:
    """Both models go on from the reply that a lens shows, with another token at one of its steps.

    `asked` comes from the browser and is checked here: {"turn", "of", "side"} of the lens, "step" and "token".
    """

    def ask(lease: Lease) -> Asked:
        found = turn_of(chat, asked.get("turn"))
        if asked.get("of") != _digest(found):
            raise UserError("The conversation has changed since this reply was read; read it again.")
        step, token, side = (asked.get(name) for name in ("step", "token", "side"))
        if side not in SIDES or not isinstance(step, int) or not isinstance(token, int):
            raise UserError("Choose one of the tokens on the card.")
        branched = what_if.branch(found.comparison, found.whole(side), step, token)
        instead, written = (_quoted(lease, side, id) for id in (token, found.whole(side)[step]))
        return f"Branch at token {step + 1}: {instead} instead of {written}", branched

    yield from _compare(pool, chat, asked.get("turn"), ask, stop)


def hand_over(pool: Pool, chat: Chat, turn: int | None, tokens: int, stop: Stop) -> Views:
    """Each model goes on from the other's first tokens."""

    def ask(lease: Lease) -> Asked:
        found, count = turn_of(chat, turn), int(tokens or 0)
        handed = what_if.handover(lease, found.comparison, found.whole("base"), found.whole("post"), count)
        return f"Handover after {counted(count, 'token')}", handed

    yield from _compare(pool, chat, turn, ask, stop)


def dial(pool: Pool, chat: Chat, turn: int | None, amount: float, space: Space, stop: Stop) -> Views:
    """The turn again, with the post-trained side turned towards the base or beyond itself."""

    def ask(lease: Lease) -> Asked:
        dialled = turn_of(chat, turn).comparison.model_copy(update={"dial": Dial(amount=amount, space=space)})
        return f"The dial at {amount:g}, {space}", dialled

    yield from _compare(pool, chat, turn, ask, stop)


def _quoted(lease: Lease, side: Side, id: int) -> str:
    text = json.dumps(token_text(lease.side(side).tokenizer, id), ensure_ascii=False)[1:-1]
    return f"\u201c{text}\u201d"


def _compare(pool: Pool, chat: Chat, turn: int | None, ask: Callable[[Lease], Asked], stop: Stop) -> Views:
    """Run a comparison that is made from a turn, showing both replies as they are written."""

    def running(lease: Lease) -> Views:
        assert turn is not None
        title, comparison = ask(lease)
        run = yield from watch(Run.begin(lease, comparison), lambda step: View(busy=True), stop)
        stop.also(run.stop)
        sent = {side: run.prompt(side) for side in SIDES}
        for snapshot in run.snapshots(lambda: PERIOD):
            yield View(what_if=render.replies(title, comparison.dial, sent, snapshot), busy=True)
        result = run.result()
        turn_ = Turn.of(comparison.prompt, result.base, result.post)
        record = Record.of(comparison, turn_, side_receipt(result.base), side_receipt(result.post))
        yield View(what_if=render.replies(title, comparison.dial, sent, run.snapshot()), made=Made(turn, record))

    yield from _with_models(pool, chat, turn, running, stop)


def sweep(pool: Pool, chat: Chat, turn: int | None, space: Space, stop: Stop) -> Views:
    """The post-trained side at every setting of the dial."""

    def sweeping(lease: Lease) -> Views:
        points = what_if.sweep(lease, turn_of(chat, turn).comparison, space)
        yield from _gathered(points, lambda found: render.sweep(found, space), stop)

    yield from _with_models(pool, chat, turn, sweeping, stop, "Stopped; the settings that were finished stay.")


def grid(pool: Pool, chat: Chat, turn: int | None, stop: Stop) -> Views:
    """Both sets of weights under both framings."""

    def filling(lease: Lease) -> Views:
        yield from _gathered(what_if.grids(lease, turn_of(chat, turn).comparison), render.grids, stop)

    yield from _with_models(pool, chat, turn, filling, stop)


def _gathered(work: Generator[T | None, None, None], draw: Callable[[list[T]], str], stop: Stop) -> Views:
    """All that has come so far, drawn anew whenever there is more."""
    found: list[T] = []

    def shown(more: T | None) -> View:
        found.extend([] if more is None else [more])
        return View(what_if=draw(found) if more is not None else None, busy=True)

    yield View(what_if=render.SOON, busy=True)
    yield from watch(work, shown, stop)
    yield View()


def _with_models(
    pool: Pool, chat: Chat, turn: int | None, work: Callable[[Lease], Views], stop: Stop, stopped: str = "Stopped."
) -> Views:
    """Do something with the models of a turn; a mistake is a sentence and changes nothing."""
    try:
        turn_of(chat, turn)
        assert turn is not None
        lease = yield from watch(
            pool.open(chat[turn].pair), lambda progress: View(notice=str(progress), busy=True), stop
        )
        with lease:
            yield from work(lease)
    except Stopped:
        yield View(notice=stopped)
    except ValidationError as error:
        yield View(notice=str(explain(error)), tone="error")
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
