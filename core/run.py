"""One comparison on a leased pair: two requests, one stream of snapshots, and the result at the end.

The events of both sides go into one queue, so a slow side never stalls the other. Closing the
stream, for whatever reason, cancels both requests. This file knows no engines and no widgets.
"""

import threading
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from . import canonical
from .errors import TooLong, UserError
from .lease import Card, Lease
from .prompts import Prompt, of_ids
from .reasoning import ReplyReader, Split
from .steps import Steps, Stop, Stopped, apart
from .types import (
    SIDE_NAMES,
    SIDES,
    Comparison,
    DrawDivergence,
    EngineInfo,
    Event,
    Failure,
    Finish,
    Queued,
    Reply,
    Request,
    Result,
    Sampling,
    Side,
    SideReceipt,
    SideResult,
    Snapshot,
    Started,
    Token,
    WrittenBy,
)

Period = Callable[[], float]  # seconds between two snapshots, asked for anew each time


@dataclass
class Writer:
    """Folds one side's events into its reply, text as it becomes readable."""

    checkpoint: Card
    prompt: Prompt
    sampling: Sampling
    stop_ids: frozenset[int]
    phase: str = "queued"
    ahead: int | None = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    margins: list[float | None] = field(default_factory=list)
    divergence: DrawDivergence | None = None
    finish: Finish | None = None
    error: str | None = None
    written_by: EngineInfo | None = None  # where it is not the checkpoint's own
    started_at: float | None = None
    first_at: float | None = None
    last_at: float | None = None

    @property
    def settled(self) -> bool:
        return self.phase in ("done", "failed")

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        """With nothing but what the reply was given to begin with."""
        self.ids, self.logprobs, self.margins = [], [], []
        self.divergence = self.first_at = self.last_at = None
        self._reader = ReplyReader(
            self.checkpoint.tokenizer, self.prompt.question, self.prompt.marks, begun=self.prompt.reasons
        )
        self._read(*self.prompt.prefill)

    def take(self, event: Event, at: float | None = None) -> None:
        """`at`: when it came, by `monotonic`; now where none is given."""
        at = monotonic() if at is None else at
        match event:
            case Queued(ahead=ahead):
                self.phase, self.ahead = "queued", ahead
            case Started():
                if self.ids:  # it gave way to somebody
                    self._begin()
                self.phase, self.ahead, self.started_at = "reading", 0, at
            case WrittenBy():
                self.written_by = event.engine
            case Token():
                self.phase, self.last_at = "writing", at
                self.first_at = self.first_at or self.last_at
                self.ids.append(event.id)
                self.logprobs.append(event.logprob)
                self.margins.append(event.margin)
                self._read(event.id)
            case DrawDivergence():
                self.divergence = self.divergence or event
            case Finish():
                self.phase, self.finish = "done", event
                self._reader.end()
            case Failure():
                self.phase, self.error = "failed", event.message

    def _read(self, *ids: int) -> None:
        self._reader.take(*(id for id in ids if id not in self.stop_ids))

    @property
    def reasoning_tokens(self) -> int:
        """Of those that were drawn."""
        return max(0, self._reader.reasoning_tokens - len(self.prompt.prefill))

    def split(self) -> Split:
        return self._reader.split

    def reply(self) -> Reply:
        split = self.split()
        return Reply.model_construct(
            phase=self.phase,
            ahead=self.ahead,
            text=split.answer,
            reasoning=split.reasoning,
            reasoning_tokens=self.reasoning_tokens,
            written=split.whole,
            token_ids=tuple(self.ids),
            logprobs=tuple(self.logprobs),
            margins=tuple(self.margins),
            finish_reason=self.finish.reason if self.finish else None,
            usage=self.finish.usage if self.finish else None,
            seconds_to_first_token=self._seconds_to_first_token(),
            tokens_per_second=self._tokens_per_second(),
            error=self.error,
        )

    @property
    def engine(self) -> EngineInfo:
        """The fingerprint of the engine that writes it."""
        return self.written_by or self.checkpoint.engine

    @property
    def request(self) -> Request:
        """What the engine is asked for it."""
        return Request(
            token_ids=self.prompt.token_ids,
            sampling=self.sampling,
            stop_ids=self.stop_ids,
            prefilled=self.prompt.prefilled,
        )

    def result(self) -> SideResult:
        """What was sent, by which engine it was answered, and what came back, once it has finished."""
        assert self.finish is not None, "asked for a result before the reply was finished"
        split = self.split()
        return SideResult(
            checkpoint=self.checkpoint.info,
            weights_sha256=self.checkpoint.weights_sha256,
            engine=self.engine,
            sampling=self.sampling,
            prompt_text=self.prompt.text,
            prompt_token_ids=self.prompt.token_ids,
            prompt_sha256=self.prompt.sha256,
            text=split.answer,
            reasoning=split.reasoning,
            reasoning_tokens=self.reasoning_tokens,
            token_ids=tuple(self.ids),
            logprobs=tuple(self.logprobs),
            margins=tuple(self.margins),
            finish_reason=self.finish.reason,
            usage=self.finish.usage,
        )

    def _seconds_to_first_token(self) -> float | None:
        return self.first_at - self.started_at if self.first_at and self.started_at else None

    def _tokens_per_second(self) -> float | None:
        return speed(len(self.ids), self.last_at - self.first_at if self.first_at and self.last_at else 0.0)


def speed(tokens: int, seconds: float) -> float | None:
    """Tokens per second of decoding, None where no clock could measure it. The first token belongs to reading the prompt, so it is not counted."""
    return (tokens - 1) / seconds if seconds >= 1e-9 else None


class Run:
    """A comparison that is under way.

    Args:
        lease: the loaded pair; the caller releases it.
        sides: whom to ask; only a run of both has a result.
        prompt_ids: these token ids are sent as they are, in place of the comparison's half.
        recorded: what an earlier run sent and got, for a replay: the same settings are sent, everything is
            computed from scratch, and the first token that differs is reported (`divergence`).
        read: which of the recorded replies are read, not written again; the same in portable arithmetic.
        shared: replies that somebody says came of this; in portable arithmetic they are read as far as they are the models',
            and only what differs is written.
        gives_way: whether its replies are begun again later where somebody else waits for their slots.
        check: is called between the pieces of the work on the prompts; what it raises ends it.

    Raises:
        UserError: a prompt does not fit or cannot be built, or the dial needs a pair with the same tokens. Nothing has been started then.
    """

    def __init__(
        self,
        lease: Lease,
        comparison: Comparison,
        *,
        sides: tuple[Side, ...] = SIDES,
        prompt_ids: tuple[int, ...] = (),
        recorded: Mapping[Side, SideReceipt] | None = None,
        read: Collection[Side] = (),
        shared: Mapping[Side, tuple[int, ...]] | None = None,
        gives_way: bool = False,
        check: Callable[[], None] = lambda: None,
    ):
        self.comparison = comparison
        self._count = lease.count
        self._writers: dict[Side, Writer] = {}
        for side in sides:
            checkpoint = lease.side(side)
            prompt = of_ids(prompt_ids, checkpoint.tokenizer) if prompt_ids else lease.prompt(comparison, side, check)
            sampling = recorded[side].sampling if recorded else _fitted(lease, comparison, side, prompt)
            self._writers[side] = Writer(checkpoint, prompt, sampling, lease.stop_ids(side))
        dial = comparison.dial
        if dial is not None and "post" in sides:
            lease.kin.need_same_ids("The dial")
        self._events: SimpleQueue[tuple[Side, Event, float]] = SimpleQueue()
        self._open = set(sides)  # those whose last event has not come
        self._over = threading.Event()
        requests: dict[Side, Request] = {}
        for side, writer in self._writers.items():
            how: dict[str, Any] = {"reuse": recorded is None, "gives_way": gives_way}
            if recorded:
                how |= {"expected": recorded[side].token_ids, "reading": "only" if side in read else ""}
            elif shared and writer.checkpoint.engine.is_portable and (dial is None or side == "base"):
                how |= {"expected": shared[side], "reading": "on"}
            requests[side] = writer.request.model_copy(update=how)
        self._writing = lease.write(requests, self._hear, dial)

    @classmethod
    def begin(cls, lease: Lease, comparison: Comparison, **how: Any) -> Steps[None, "Run"]:
        """The same, with all but `check`, for those who may leave while its prompts are built: closed, the work on them ends, and nothing runs."""

        def make(stop: Stop) -> Run:
            run = cls(lease, comparison, **how, check=stop.check)
            stop.also(run.stop)
            return run

        return apart(make)

    def _hear(self, side: Side, event: Event) -> None:
        if isinstance(event, WrittenBy):  # it may be asked for before anybody looks at the events
            self._writers[side].take(event)
            return
        self._events.put((side, event, monotonic()))
        if isinstance(event, Finish | Failure):
            self._open.discard(side)
            if not self._open:
                self._over.set()

    def prompt(self, side: Side) -> Prompt:
        return self._writers[side].prompt

    def checkpoint(self, side: Side) -> Card:
        return self._writers[side].checkpoint

    def sampling(self, side: Side) -> Sampling:
        """As sent: max_new_tokens may be shorter than asked, to fit the context."""
        return self._writers[side].sampling

    def engine(self, side: Side) -> EngineInfo:
        """The fingerprint of the engine that writes this side."""
        return self._writers[side].engine

    def divergence(self, side: Side) -> DrawDivergence | None:
        """In a replay: where this side first drew another token than was recorded."""
        return self._writers[side].divergence

    def stop(self, *sides: Side) -> None:
        """Stop these sides (or both) at their next step; what they have written stands. Safe from any thread."""
        self._writing.stop(*sides)

    def snapshot(self) -> Snapshot:
        replies = {side: writer.reply() for side, writer in self._writers.items()}
        return Snapshot.model_construct(base=replies.get("base", Reply()), post=replies.get("post", Reply()))

    def snapshots(self, period: Period = lambda: 1 / 16) -> Generator[Snapshot, None, None]:
        """Snapshots until both sides have settled, the last one complete; at most one in `period` seconds."""
        try:
            yield self.snapshot()
            due = monotonic() + period()
            while not self._settled():
                changed = self._take_until(due)
                if changed:
                    yield self.snapshot()
                due = monotonic() + period()
        finally:
            self.stop()

    def _take_until(self, due: float) -> bool:
        """Sleep until `due`, or until both sides have sent their last event; then fold what has come. True when there was any."""
        self._over.wait(max(0.0, due - monotonic()))
        changed = False
        while True:
            try:
                side, event, at = self._events.get_nowait()
            except Empty:
                return changed
            self._writers[side].take(event, at)
            if isinstance(event, Finish):
                self._count(event.usage.output_tokens)
            changed = True

    def _settled(self) -> bool:
        return all(writer.settled for writer in self._writers.values())

    def result(self) -> Result:
        """What was sent and what came back.

        Raises:
            UserError: a side failed; the sentence is the engine's.
        """
        return Result(comparison=self.comparison, base=self.side_result("base"), post=self.side_result("post"))

    def side_result(self, side: Side) -> SideResult:
        """What was sent to one side and what came back, once it has finished.

        Raises:
            UserError: it failed; the sentence is the engine's.
        """
        writer = self._writers[side]
        if writer.error is not None:
            raise UserError(f"The {SIDE_NAMES[side]} side failed: {writer.error}")
        return writer.result()


def fit(sampling: Sampling, prompt: Prompt, checkpoint: Card) -> Sampling:
    """The settings with max_new_tokens shortened to what the context leaves.

    Raises:
        UserError: the prompt alone fills the context; it is never cut silently.
    """
    room = checkpoint.context - len(prompt.token_ids)
    if room < 1:
        raise TooLong(
            f"The conversation is {len(prompt.token_ids):,} tokens for {checkpoint.info.name}, and its context holds {checkpoint.context:,}; start a new chat, take a turn away or shorten the prompt."
        )
    return sampling.model_copy(update={"max_new_tokens": min(room, sampling.max_new_tokens)})


def _fitted(lease: Lease, comparison: Comparison, side: Side, prompt: Prompt) -> Sampling:
    """`fit` for whoever writes this side: the dial asks both models."""
    sampling = fit(comparison.sampling, prompt, lease.side(side))
    return fit(sampling, prompt, lease.base) if comparison.dial is not None and side == "post" else sampling


def identity(lease: Lease, comparison: Comparison, side: Side) -> str:
    """A digest of all that a side's reply hangs on, and how it reads: the model, its engine, what is sent, what ends it. No dial.

    Where two are equal so are the replies, whatever the pairs are.

    Raises:
        UserError: as `Run`.
    """
    checkpoint, prompt = lease.side(side), lease.prompt(comparison, side)
    told = [
        checkpoint.weights_sha256,
        *map(canonical.dump, (checkpoint.info, checkpoint.engine, fit(comparison.sampling, prompt, checkpoint))),
        *(prompt.text, prompt.token_ids, prompt.prefilled, repr(prompt.marks), prompt.reasons),
        sorted(lease.stop_ids(side)),
    ]
    return canonical.sha256(told)


def compare(lease: Lease, comparison: Comparison) -> Result:
    """Run a comparison to its end.

    Raises:
        UserError: it cannot be run, or a side failed.
    """
    run = Run(lease, comparison)
    for _ in run.snapshots(lambda: 1.0):
        pass
    return run.result()


def write(lease: Lease, comparison: Comparison, side: Side, stop: Stop, shared: tuple[int, ...] = ()) -> SideResult:
    """Write one side of a comparison to its end, for those who write many at once and give way to others.

    Args:
        shared: a reply that somebody says came of this, as `Run` takes one.

    Raises:
        Stopped: `stop` was pressed, or the reply was stopped otherwise, so that it is not whole.
        UserError: it cannot be run, or failed.
    """
    known = {side: shared} if shared else None
    run = Run(lease, comparison, sides=(side,), shared=known, gives_way=True, check=stop.check)
    with closing(run.snapshots(lambda: 0.25)) as snapshots:
        for _ in snapshots:
            stop.check()
    result = run.side_result(side)
    if result.finish_reason == "stopped":  # its engine was closed
        raise Stopped("Stopped.")
    return result
