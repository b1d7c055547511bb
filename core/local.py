"""A leased pair whose models are in the memory of this process: what is asked of them goes to their engines."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial

from . import scoring
from .checkpoints.fingerprint import gradients, weights_sha256
from .checkpoints.loading import Checkpoint
from .checkpoints.memory import check_room_for_another
from .detokenizer import Spelling
from .engine import LogitsDial, Stoppable, WeightsDial, reading
from .engine.bandwidth import bytes_per_pass, copy_bandwidth
from .engine.engine import Emit
from .errors import UserError
from .lease import Audit, Card, Kinship, Lease, Writing, Written
from .pairs import Pair
from .scoring import Luck, Reader, shifts_of
from .steps import Steps, Stop, apart, watch
from .types import (
    MAX_IN_ALL,
    SIDES,
    Comparison,
    Dial,
    Event,
    Lens,
    LensContext,
    Request,
    Result,
    Shift,
    Side,
)


@dataclass(frozen=True)
class LocalLease(Lease):
    """`loaded` are the models, for the pool alone and for those who look into the weights."""

    pair: Pair
    loaded: Mapping[Side, Checkpoint]
    _release: Callable[[], None]
    _elsewhere: Callable[[Comparison, "LocalLease"], Steps[None, Result]]
    mixing: threading.Lock = field(default_factory=threading.Lock)  # held while a mix of the two takes memory
    kin: Kinship = field(default_factory=Kinship)
    most: int = MAX_IN_ALL
    count: Callable[[int], None] = lambda tokens: None
    wanted: Callable[[], bool] = lambda: False

    def side(self, side: Side) -> Card:
        return self.loaded[side].card

    def release(self) -> None:
        self._release()

    def audit(self, side: Side) -> Audit:
        return LocalAudit(self.loaded[side])

    def elsewhere(self, comparison: Comparison) -> Steps[None, Result]:
        return self._elsewhere(comparison, self)

    def write(
        self, requests: Mapping[Side, Request], emit: Callable[[Side, Event], None], dial: Dial | None = None
    ) -> Writing:
        writing = LocalWriting({})
        try:
            for side, request in requests.items():
                turned = dial if side == "post" else None
                writing.tickets[side] = self._submit(side, request, partial(emit, side), turned)
        except BaseException:
            writing.stop()
            raise
        return writing

    def _submit(self, side: Side, request: Request, emit: Emit, dial: Dial | None) -> Stoppable:
        if dial is None:
            return reading.submit(self.loaded[side].engine, request, emit)
        base, post = (self.loaded[each].engine for each in SIDES)
        if dial.space == "logits":
            return LogitsDial(base, post, dial.amount).submit(request, emit)
        room = partial(check_room_for_another, post)
        return WeightsDial(base, post, dial.amount, self.mixing, room).submit(request, emit)

    def read(
        self, comparison: Comparison, side: Side, reply_ids: Sequence[int], context: LensContext = "identical"
    ) -> Steps[tuple[Shift, ...], Lens]:
        self.kin.need_same_ids("The token lens")
        whole = [*comparison.prefill(side), *reply_ids]

        def prompts(stop: Stop) -> dict[Side, tuple[int, ...]]:
            framed = {each: each if context == "own" else side for each in SIDES}
            built = {each: self.prompt(comparison, each, stop.check).question for each in set(framed.values())}
            return {each: built[as_] for each, as_ in framed.items()}

        asked = yield from watch(apart(prompts), lambda step: ())
        ids = self._common(asked, whole)
        spelling = Spelling(self.side(side).tokenizer, asked[side], ids)
        luck = Luck(side, comparison.sampling, asked, ids)
        shifts: list[Shift] = []
        with ExitStack() as stack:
            readers: dict[Side, Reader] = {}
            for each in SIDES:  # base first: two lenses that wait for each other's second model would wait for ever
                reader = Reader(self.loaded[each].engine, (*asked[each], *ids), len(asked[each]))
                readers[each] = stack.enter_context(closing(reader))
                while not reader.started:
                    reader.wait()
                    yield ()
            while len(shifts) < len(ids):
                rows = min(reader.ready for reader in readers.values())
                if rows:
                    logits = {each: readers[each].take(rows) for each in SIDES}
                    fresh = shifts_of(luck, len(shifts), logits, spelling)
                    shifts += fresh
                    yield tuple(fresh)
                elif not next(reader for reader in readers.values() if not reader.ready).wait():
                    yield ()
        return Lens(side=side, context=context, shifts=tuple(shifts))

    def _common(self, asked: dict[Side, tuple[int, ...]], reply: Sequence[int]) -> tuple[int, ...]:
        """The reply as far as both models have its tokens: one that only its writer has may come last, as an end of turn does."""
        if not reply:
            raise UserError("This reply has no tokens to look at; choose another turn.")
        known = min(self.base.vocabulary, self.post.vocabulary)
        ids = tuple(reply[:-1] if reply[-1] >= known else reply)
        unknown = next((id for id in (*ids, *asked["base"], *asked["post"]) if id >= known), None)
        if unknown is not None or not ids:
            raise UserError(
                f"Token {unknown if ids else reply[-1]} is not in the vocabulary of both models; let the sibling read its own framing, or look at another turn."
            )
        return ids

    def logprobs(self, side: Side, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> tuple[float, ...]:
        if not prompt_ids or not continuation_ids:
            raise UserError("There is nothing to score; give a prompt and a continuation.")
        found: list[float] = []
        engine, whole = self.loaded[side].engine, (*prompt_ids, *continuation_ids)
        for rows in scoring.scored(engine, whole, len(prompt_ids)):
            found += scoring.at(rows, whole[len(prompt_ids) + len(found) :])
        return tuple(found)

    def alternatives(
        self, side: Side, prompt_ids: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[float, ...]:
        found = [0.0] * len(continuations)
        for beginning in dict.fromkeys(tuple(ids[:step]) for ids in continuations for step in range(len(ids))):
            step = len(beginning)
            going_on = [n for n, ids in enumerate(continuations) if len(ids) > step and tuple(ids[:step]) == beginning]
            ids = [continuations[n][step] for n in going_on]
            asked = (*prompt_ids, *beginning, max(ids))
            (row,) = scoring.scored(self.loaded[side].engine, asked, len(asked) - 1)
            for n, score in zip(going_on, row[0, ids].tolist(), strict=True):
                found[n] += score
        return tuple(found)

    def likeliest(
        self, side: Side, token_ids: Sequence[int], first: int, count: int, check: Callable[[], None]
    ) -> Iterator[tuple[float, list[tuple[int, float]]]]:
        for rows in scoring.scored(self.loaded[side].engine, token_ids, first, check):
            if bool(rows.sum().isnan()):
                raise UserError("The model's output is not a number here; try --dtype float32.")
            yield from zip(scoring.at(rows, token_ids[first:]), scoring.top(rows, count), strict=True)
            first += len(rows)

    def entropies(
        self, comparison: Comparison, side: Side, written: Written, check: Callable[[], None] = lambda: None
    ) -> tuple[float, ...]:
        self.check_weights(side, written)
        reply_ids = written.token_ids
        if not comparison.sampling.temperature:
            return (0.0,) * len(reply_ids)
        asked = self.prompt(comparison, side, check).token_ids
        luck = Luck(side, comparison.sampling, {side: asked}, reply_ids)
        found: list[float] = []
        for chunk in scoring.logits(self.loaded[side].engine, (*asked, *reply_ids), len(asked), check):
            for logits in chunk.split(max(1, scoring.BLOCK // chunk.shape[1])):
                if bool(logits.sum().isnan()):
                    raise UserError("A model's output is not a number here; try --dtype float32.")
                found += scoring.entropy(luck.warped(side, len(found), logits)).tolist()
        return tuple(found)


@dataclass(frozen=True)
class LocalAudit:
    """A look at a model of this process."""

    checkpoint: Checkpoint

    def weights_sha256(self) -> str:
        return weights_sha256(self.checkpoint.model)

    def gradients(self) -> int:
        return gradients(self.checkpoint.model)

    def bytes_per_pass(self) -> int:
        return bytes_per_pass(self.checkpoint.model)

    def bandwidth(self) -> float:
        return copy_bandwidth(self.checkpoint.engine.device)


@dataclass(frozen=True)
class LocalWriting:
    """Replies that engines of this process write."""

    tickets: dict[Side, Stoppable]

    def stop(self, *sides: Side) -> None:
        for side, ticket in self.tickets.items():
            if side in (sides or SIDES):
                ticket.cancel()
