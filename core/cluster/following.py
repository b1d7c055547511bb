"""A reply that is written elsewhere, followed to its end whoever writes it: when a replica dies or says nothing, another one goes on.

What was shown is never taken back and nothing is spliced. In portable arithmetic the next replica reads the tokens that were shown, in passes of many, and
writes on behind them; in fast arithmetic it writes them again. Either way every one is held against what was shown, to the last bit, and a reply that
differs fails in a sentence. Knows streams of batches and events; no Ray, no models.
"""

import asyncio
import logging
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ..errors import UserError
from ..pairs import Pair
from ..types import SIDES, Dial, Event, Failure, Finish, Queued, Request, Side, Started, Token, Usage
from . import wire
from .wire import Call, Said, SaidBatch

log = logging.getLogger(__name__)

RETRIES = 4  # replicas that a reply may lose
STALL = 6.0  # seconds without a word after which a replica counts as lost; it says something every second
LATE = 0.3  # seconds after which whoever waits is told so
TO_STOP = 2.0  # seconds that a replica has to say how a reply was stopped
BUSY = "All models are busy with other visitors; wait a moment and ask again."
GONE = "The machine that worked for this was lost, and no other one took over; ask again."
BROKEN = "Another machine went on with this reply and wrote other tokens, which must not happen, so it ends here; please report it."


class Lost(Exception):
    """Nothing more comes from this replica."""


class Foreign(Lost):
    """It has another fingerprint than the one that was asked for."""


class Full(Exception):
    """Too many wait already."""


class Cluster(Protocol):
    """The way to the replicas, asked on one event loop."""

    def ask(self, call: Call) -> AsyncGenerator[SaidBatch, None]:
        """What one replica says, from the moment that it has it; closed, it is told to stop. Raises Lost or Full."""
        ...

    def stop(self, key: str, sides: Collection[Side]) -> None:
        """Tell whoever has it to stop these sides."""

    def close(self) -> None: ...


@dataclass
class Counts:
    """What went wrong, and how often: of the replicas under one page server. `HELP` says what each is."""

    lost: int = 0
    resumed: int = 0
    broken: int = 0
    foreign: int = 0
    busy: int = 0
    audited: int = 0


HELP = {
    "lost": "Replicas that were lost under what they were asked.",
    "resumed": "Replies that went on in another replica.",
    "broken": "Replies that another replica wrote otherwise, which must not happen.",
    "foreign": "Replicas with another fingerprint than the one that was asked for.",
    "busy": "Asks that no replica took in time, or for which there was no place to wait.",
    "audited": "Finished comparisons that another replica was asked for once more.",
}


class Loop:
    """The one event loop of this process that talks to the replicas, on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True).start()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def soon(self, act: Callable[..., object], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(act, *arguments)


@dataclass
class Way:
    """How the models of one lease are reached: where they are, which fingerprint must answer, how long anybody waits for it."""

    cluster: Cluster
    loop: Loop
    pair: Pair
    wanted: str = ""
    portable: bool = False
    patience: float = 60.0
    counts: Counts = field(default_factory=Counts)
    avoid: tuple[str, ...] = ()
    last: str = ""  # who took the last ask
    stale: bool = False  # nobody answers under this fingerprint any more, as far as was seen


class _Course:
    """One ask, on whichever replica answers: those that were lost under it are not asked again."""

    def __init__(self, way: Way):
        self.way, self.key, self.replica = way, secrets.token_hex(8), ""
        self.lost, self._left, self._avoid = 0, 0, list(way.avoid)

    async def batches(self, ask: wire.AnyAsk) -> AsyncGenerator[list[Said], None]:
        """What one replica says, without what is told here: where it is, refusals, its end.

        Raises:
            Lost: it died, or fell silent.
            UserError: nobody takes it, or it was refused.
        """
        way, self.replica = self.way, ""
        call = Call(
            key=self.key,
            pair=wire.plain_pair(way.pair),
            asked=wire.plain(ask),
            place=wire.place_of(way.pair),
            wanted=way.wanted,
            avoid=tuple(self._avoid),
        )
        async with aclosing(way.cluster.ask(call)) as stream:
            while True:
                try:
                    batch = await asyncio.wait_for(anext(stream), STALL if self.replica else way.patience)
                except StopAsyncIteration:
                    raise Lost("it ended without an end") from None
                except Full:
                    way.counts.busy += 1
                    raise UserError(BUSY) from None
                except TimeoutError:
                    if self.replica:
                        raise Lost("it says nothing") from None
                    way.counts.busy += 1
                    way.stale = True
                    raise UserError(GONE if self.lost else BUSY) from None
                told = [said for said in batch if not self._heard(said)]
                yield told
                if batch and batch[-1][0] == "end":
                    return

    def _heard(self, said: Said) -> bool:
        match said:
            case ("at", replica):
                self.replica = self.way.last = replica
            case ("refused", *_):
                raise wire.refused(said)
            case ("foreign", found):
                self.way.counts.foreign += 1
                raise Foreign(f"it has the fingerprint {found[:12]}, and {self.way.wanted[:12]} was asked for")
            case ("end",):
                pass
            case _:
                return False
        return True

    def again(self, error: Lost) -> None:
        """Go elsewhere. Raises UserError where that was tried often enough."""
        log.warning("a replica is left for another one: %s", error)
        lost = not isinstance(error, Foreign)
        self.lost, self._left = self.lost + lost, self._left + 1
        self.way.counts.lost += lost
        self._avoid += [self.replica] if self.replica else []
        if self._left > RETRIES:
            raise UserError(GONE)


# --- answers -------------------------------------------------------------------------------------------


def answers(way: Way, ask: wire.AnyAsk) -> Generator[Said | None, None, None]:
    """What is said to an ask that writes nothing, each ("value", data) or ("progress", text, fraction) once; None ten times a second in between.

    Where a replica is lost another one is asked the same, and what was told already is left out. Closed, it ends the work.

    Raises:
        UserError: it was refused, or nobody answers.
    """
    news: SimpleQueue[Said | Exception] = SimpleQueue()
    course = _Course(way)
    task: list[asyncio.Task[None]] = []

    async def follow() -> None:
        task.append(asyncio.ensure_future(_answers(course, ask, news.put)))
        try:
            await task[0]
            news.put(("end",))
        except Exception as error:
            news.put(error)

    way.loop.start(follow())
    try:
        while True:
            try:
                said = news.get(timeout=0.1)
            except Empty:
                yield None
                continue
            if isinstance(said, UserError):
                raise said
            if isinstance(said, Exception):
                raise UserError(f"The models could not be asked ({type(said).__name__}).") from said
            if said == ("end",):
                return
            yield said
    finally:
        way.loop.soon(lambda: [each.cancel() for each in task])


async def _answers(course: _Course, ask: wire.AnyAsk, put: Callable[[Said], None]) -> None:
    told = 0
    while True:
        known = 0
        try:
            async with aclosing(course.batches(ask)) as batches:
                async for batch in batches:
                    for said in batch:
                        known += said[0] == "value"
                        if said[0] != "value" or known > told:
                            put(said)
                        told = max(told, known)
            return
        except Lost as error:
            course.again(error)


# --- replies -------------------------------------------------------------------------------------------


class Following:
    """A comparison, or one side of it, that is being written elsewhere. It is `Writing` to whoever asked for it.

    Args:
        shown: tokens that an earlier writer gave; they are held against what comes, and not told again.
        done: is called at the end, on the loop.
    """

    def __init__(
        self,
        way: Way,
        requests: Mapping[Side, Request],
        emit: Callable[[Side, Event], None],
        dial: Dial | None = None,
        shown: Mapping[Side, list[Token]] | None = None,
        done: Callable[["Following"], None] = lambda following: None,
    ):
        self.way, self.requests, self.dial = way, dict(requests), dial
        self._emit, self._done = emit, done
        self.shown: dict[Side, list[Token]] = {side: list((shown or {}).get(side, ())) for side in requests}
        self.whole: set[Side] = set()  # sides that ended by themselves
        self._open, self._written = set(requests), dict.fromkeys(requests, 0)
        self._begun: set[Side] = set()  # sides that were told that they are read
        self._here: set[Side] = set()  # and those that the replica of now has begun
        self._stopping: set[Side] = set()
        self._course = _Course(way)
        self._task: asyncio.Task[None] | None = None
        way.loop.start(self._run())

    @property
    def replica(self) -> str:
        """Who has it, or had it last; empty where nobody took it yet."""
        return self._course.replica

    def stop(self, *sides: Side) -> None:
        """Stop these sides, or both; what they have written stands. Safe from any thread, any number of times."""
        self.way.loop.soon(self._stop, sides or SIDES)

    # --- on the loop ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._task = asyncio.ensure_future(self._follow())
        waiting = asyncio.get_running_loop().call_later(LATE, self._say_that_it_waits)
        try:
            await self._task
        except UserError as error:
            self._fail(str(error))
        except asyncio.CancelledError:  # everything was stopped
            self._fail(GONE)
        except Exception as error:
            log.exception("a reply elsewhere could not be followed")
            self._fail(f"The model failed on this request: {type(error).__name__}.")
        finally:
            waiting.cancel()
            self._done(self)

    async def _follow(self) -> None:
        while self._open:
            try:
                await self._hear_one()
                self.way.counts.resumed += self._course.lost > 0 and bool(self.whole)
            except Lost as error:
                if not self._open:
                    return
                self._course.again(error)
                for side in self._open & self._stopping:
                    self._end_stopped(side)
                self._written, self._here = dict.fromkeys(self.requests, 0), set()
                self._course.replica = ""
                self._say_that_it_waits()

    async def _hear_one(self) -> None:
        """One replica, to the end of all that is open, or until it is lost."""
        ask, taken = self._ask(), False
        async with aclosing(self._course.batches(ask)) as batches:
            async for batch in batches:
                if not taken and (stopped := ask.requests.keys() - self._open):  # while it waited for a replica
                    self.way.cluster.stop(self._course.key, sorted(stopped))
                taken = True
                for said in batch:
                    if said[0] == "event":
                        self._take(*wire.unpacked(said))
                if not self._open:
                    return
        raise Lost("it ended before the reply did")

    def _ask(self) -> wire.AskWrite:
        requests = {side: self._resumed(side) for side in SIDES if side in self._open}
        return wire.AskWrite(requests=requests, dial=self.dial)

    def _resumed(self, side: Side) -> Request:
        """The request, or what has the tokens that were shown read and the rest written, where reading gives the bits of writing."""
        request, ids = self.requests[side], tuple(token.id for token in self.shown[side])
        plain = not (request.expected or request.reading) and (side == "base" or self.dial is None)
        if not (ids and plain and self.way.portable):
            return request
        return request.model_copy(update={"expected": ids, "reading": "on"})

    def _take(self, side: Side, event: Event) -> None:
        if side not in self._open:
            return
        shown = self.shown[side]
        match event:
            case Started():
                if side in self._here:  # it gave way there, and is begun again
                    shown.clear()
                    self._written[side] = 0
                if side not in self._begun or side in self._here:
                    self._emit(side, event)
                self._begun.add(side)
                self._here.add(side)
            case Token():
                self._written[side] += 1
                if self._written[side] > len(shown):
                    shown.append(event)
                    self._emit(side, event)
                elif event != shown[self._written[side] - 1]:
                    self._break(side)
            case Finish():
                if event.reason == "stopped" and side not in self._stopping and self.requests[side].reading != "only":
                    raise Lost("its models were closed")
                if event.reason == "stopped":
                    usage = event.usage.model_copy(update={"output_tokens": len(shown)})
                    self._end(side, Finish(reason="stopped", usage=usage))
                elif self._written[side] < len(shown):
                    self._break(side)
                else:
                    self.whole.add(side)
                    self._end(side, event)
            case Failure():
                self._end(side, event)
            case _ if self._written[side] >= len(shown):
                self._emit(side, event)

    def _break(self, side: Side) -> None:
        """What comes is not what was shown."""
        self.way.counts.broken += 1
        log.error(
            "a replica wrote other tokens than the one before, of a pair with the fingerprint %s", self.way.wanted[:12]
        )
        self._end(side, Failure(message=BROKEN))
        self.way.cluster.stop(self._course.key, [side])

    def _end(self, side: Side, event: Event) -> None:
        self._open.discard(side)
        self._emit(side, event)

    def _fail(self, sentence: str) -> None:
        for side in sorted(self._open):
            self._end(side, Failure(message=sentence))

    def _say_that_it_waits(self) -> None:
        if not self.replica:
            for side in sorted(self._open):
                self._emit(side, Queued(ahead=None))

    def _stop(self, sides: Collection[Side]) -> None:
        asked = self._open.intersection(sides)
        self._stopping |= asked
        if self.replica:
            if asked:
                self.way.cluster.stop(self._course.key, sorted(asked))
                asyncio.get_running_loop().call_later(TO_STOP, self._end_all_stopped)
        else:
            self._end_all_stopped()

    def _end_all_stopped(self) -> None:
        """Of what was stopped and has not said so."""
        for side in self._open & self._stopping:
            self._end_stopped(side)
        if not self._open and self._task is not None:
            self._task.cancel()

    def _end_stopped(self, side: Side) -> None:
        usage = Usage.of_nothing(len(self.requests[side].token_ids))
        usage = usage.model_copy(update={"output_tokens": len(self.shown[side])})
        self._end(side, Finish(reason="stopped", usage=usage))
