"""A leased pair whose models are in a replica elsewhere: what is asked of them travels, numbers and events come back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from random import randrange
from typing import Any

from ..checkpoints.siblings import kinship
from ..errors import UserError
from ..lease import Card, Lease, Writing, Written
from ..run import Run
from ..steps import Steps
from ..types import SIDES, Comparison, Dial, Event, Lens, LensContext, Request, Result, Shift, Side
from . import wire
from .following import Counts, Following, Way, answers

AUDITED = 200  # one of so many finished comparisons is checked on another replica


def _never() -> bool:
    return False


class RemoteLease(Lease):
    """It holds nothing: a replica has the models for as long as it takes to answer."""

    def __init__(self, way: Way, cards: Mapping[Side, Card], most: int, count: Callable[[int], None]):
        self.way, self.pair, self._cards = way, way.pair, cards
        self.kin = kinship(cards["base"], cards["post"])
        self.most, self.count, self.wanted = most, count, _never

    def side(self, side: Side) -> Card:
        return self._cards[side]

    def release(self) -> None: ...

    def write(
        self, requests: Mapping[Side, Request], emit: Callable[[Side, Event], None], dial: Dial | None = None
    ) -> Writing:
        for side, request in requests.items():
            _check(self.side(side), request)
        return Following(self.way, requests, emit, dial, done=self._audit_some)

    def _audit_some(self, written: Following) -> None:
        """One of `AUDITED` comparisons is written once more, or read, by another replica, as though this one had been lost at its last token."""
        if len(SIDES) == len(written.whole) and not randrange(AUDITED):
            self.audit_reply(written)

    def audit_reply(self, written: Following, done: Callable[[bool], None] = lambda same: None) -> None:
        """Ask another replica for the same; `done` is told whether it gave the same."""
        way = replace(self.way, avoid=(written.replica,), counts=Counts(), patience=min(10.0, self.way.patience))
        counts = self.way.counts

        def heard(again: Following) -> None:
            more = any(len(again.shown[side]) > len(written.shown[side]) for side in SIDES)
            same = again.whole == written.whole and not more
            counts.broken += way.counts.broken + more
            counts.audited += same or way.counts.broken + more > 0
            done(same)

        requests = {side: request.model_copy(update={"gives_way": True}) for side, request in written.requests.items()}
        Following(way, requests, lambda side, event: None, written.dial, written.shown, heard)

    def audit(self, side: Side) -> "RemoteAudit":
        return RemoteAudit(self, side)

    def elsewhere(self, comparison: Comparison) -> Steps[None, Result]:
        """By another replica than the one that took the last ask."""
        way = replace(self.way, avoid=(self.way.last,), counts=Counts())
        run = yield from Run.begin(RemoteLease(way, self._cards, self.most, self.count), comparison)
        with closing(run.snapshots(lambda: 0.25)) as snapshots:
            for _ in snapshots:
                yield None
        return run.result()

    def read(
        self, comparison: Comparison, side: Side, reply_ids: Sequence[int], context: LensContext = "identical"
    ) -> Steps[tuple[Shift, ...], Lens]:
        self.kin.need_same_ids("The token lens")
        shifts: list[Shift] = []
        ask = wire.AskLens(comparison=comparison, side=side, reply_ids=tuple(reply_ids), context=context)
        with closing(answers(self.way, ask)) as told:
            for said in told:
                fresh = tuple(map(Shift.model_validate, said[1])) if said is not None and said[0] == "value" else ()
                shifts += fresh
                yield fresh
        return Lens(side=side, context=context, shifts=tuple(shifts))

    def likeliest(
        self, side: Side, token_ids: Sequence[int], first: int, count: int, check: Callable[[], None]
    ) -> Iterator[tuple[float, list[tuple[int, float]]]]:
        ask = wire.AskLikeliest(side=side, token_ids=tuple(token_ids), first=first, count=count)
        for logprob, top in self._values(ask, check):
            yield logprob, list(top)

    def alternatives(
        self, side: Side, prompt_ids: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[float, ...]:
        each = tuple(map(tuple, continuations))
        return self._numbers(wire.AskAlternatives(side=side, prompt_ids=tuple(prompt_ids), continuations=each))

    def logprobs(self, side: Side, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> tuple[float, ...]:
        ids = tuple(continuation_ids)
        return self._numbers(wire.AskLogprobs(side=side, prompt_ids=tuple(prompt_ids), continuation_ids=ids))

    def entropies(
        self, comparison: Comparison, side: Side, written: Written, check: Callable[[], None] = lambda: None
    ) -> tuple[float, ...]:
        self.check_weights(side, written)
        ask = wire.AskEntropies(
            comparison=comparison, side=side, token_ids=written.token_ids, weights_sha256=written.weights_sha256
        )
        return self._numbers(ask, check)

    def figure(self, ask: wire.AnyAsk) -> Any:
        """The one value that answers an ask."""
        (value,) = self._values(ask)
        return value

    def _numbers(self, ask: wire.AnyAsk, check: Callable[[], None] = lambda: None) -> tuple[float, ...]:
        (numbers,) = self._values(ask, check)
        return tuple(numbers)

    def _values(self, ask: wire.AnyAsk, check: Callable[[], None] = lambda: None) -> Iterator[Any]:
        with closing(answers(self.way, ask)) as told:
            for said in told:
                check()
                if said is not None and said[0] == "value":
                    yield said[1]


@dataclass(frozen=True)
class RemoteAudit:
    """An Audit of a model in whichever replica answers."""

    lease: RemoteLease
    side: Side

    def weights_sha256(self) -> str:
        return self.lease.figure(wire.AskAudit(side=self.side, figure="weights_sha256"))

    def gradients(self) -> int:
        return self.lease.figure(wire.AskAudit(side=self.side, figure="gradients"))

    def bytes_per_pass(self) -> int:
        return self.lease.figure(wire.AskAudit(side=self.side, figure="bytes_per_pass"))

    def bandwidth(self) -> float:
        return self.lease.figure(wire.AskAudit(side=self.side, figure="bandwidth"))


def _check(card: Card, request: Request) -> None:
    """As an engine refuses it before anything runs. Raises UserError."""
    prompt, reply = len(request.token_ids), request.sampling.max_new_tokens
    if prompt + reply > card.context:
        raise UserError(
            f"The prompt has {prompt:,} tokens and the reply may have {reply:,}, but the context holds {card.context:,}; shorten one of them."
        )
    unknown = next(
        (id for id in (max(request.token_ids), min(request.token_ids)) if not 0 <= id < card.vocabulary), None
    )
    if unknown is not None:
        raise UserError(
            f"Token {unknown} is not in this model's vocabulary of {card.vocabulary:,}; choose the pair that it was written with."
        )
