"""What answers in a replica: asks come in as plain data, and what the models say to them goes out in batches.

Knows a pool and its leases, and an event loop on which whoever carries the batches waits; not who that is. Every ask has a thread of its own, for
the models' answers are waited for, and a lease for as long as it takes, so that the pool decides what stays in memory.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any, NamedTuple
from weakref import ref

from ..errors import UserError
from ..lease import Lease
from ..local import LocalLease
from ..pairs import Pair, find_pair
from ..pool import Pool
from ..steps import Stop, Stopped, finish, watch
from ..types import SIDES, Event, Failure, Finish, Side
from . import wire
from .cards import card_of
from .fingerprint import fingerprint
from .wire import Call, Said, SaidBatch

log = logging.getLogger(__name__)

PERIOD = 0.04  # seconds between two batches
HEARTBEAT = 1.0  # seconds after which one that has nothing to say says so

END: Said = ("end",)


class Misfit(Exception):
    """This replica must not join the others."""


class _News:
    """What threads say, for the loop that passes it on."""

    def __init__(self) -> None:
        self._said: list[Said] = []
        self._lock = threading.Lock()
        self._awake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def put(self, *said: Said) -> None:
        with self._lock:
            self._said += said
        with suppress(RuntimeError):  # the loop has ended, and nobody listens
            self._loop.call_soon_threadsafe(self._awake.set)

    async def batch(self) -> list[Said]:
        """All that was said since the last one; nothing, where nothing was for a heartbeat."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), HEARTBEAT)
        self._awake.clear()
        with self._lock:
            batch, self._said = self._said, []
        return batch


class _Job:
    """An ask under way: how it is stopped, one side or all of it."""

    def __init__(self) -> None:
        self.stop = Stop()
        self._stopped: set[Side] = set()
        self._writing: Any = None
        self._lock = threading.Lock()

    def stop_sides(self, sides: Collection[Side]) -> None:
        with self._lock:
            self._stopped.update(sides)
            if self._writing is not None:
                self._writing.stop(*sides)

    def began(self, writing: Any) -> None:
        with self._lock:
            self._writing = writing
            if self._stopped:
                writing.stop(*self._stopped)
        self.stop.also(writing.stop)


class _Known(NamedTuple):
    """A fingerprint, and whose: models that are loaded again are tried again."""

    models: tuple[Any, ...]
    fingerprint: str


class Responder:
    """The pairs of one replica.

    Args:
        name: of the replica.
        pins: the fingerprints that pairs must have, by their ids.
    """

    def __init__(self, pool: Pool, name: str, pins: Mapping[str, str] | None = None):
        self.pool, self.name, self.pins = pool, name, dict(pins or {})
        self._jobs: dict[str, _Job] = {}
        self._known: dict[str, _Known] = {}
        self._trying = threading.Lock()

    # --- called by whoever carries the batches ----------------------------------------------------------

    async def answer(self, call: Call) -> AsyncGenerator[SaidBatch, None]:
        """Batches, one at least every `HEARTBEAT` seconds. Closed, it ends what was asked, and slots are free at the models' next step."""
        news, job = _News(), _Job()
        self._jobs[call.key] = job
        threading.Thread(target=self._work, args=(call, news, job), name="responder", daemon=True).start()
        try:
            yield [("at", self.name)]
            while True:
                batch = await news.batch()
                yield batch
                if batch and batch[-1] == END:
                    return
                await asyncio.sleep(PERIOD)
        finally:
            job.stop.press()
            del self._jobs[call.key]

    def stop(self, key: str, sides: Collection[Side]) -> None:
        """Stop these sides of what was asked under this key, where it is here."""
        if (job := self._jobs.get(key)) is not None:
            job.stop_sides(sides)

    def load(self, id: str) -> None:
        """Have a pair in memory, tried. Raises UserError where it cannot be loaded, Misfit where it is not what is pinned."""
        with finish(self.pool.bring(find_pair(self.pool.pairs, id))) as lease:
            found = self._fingerprint(lease)
        if self.pins.get(id, found) != found:
            engines = {side: lease.side(side).engine.texts() for side in SIDES}
            raise Misfit(
                f"{id}: its fingerprint is {found} here, and {self.pins[id]} is pinned; its engines: {engines}"
            )

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the places that were tried here."""
        return {place: known.fingerprint for place, known in self._known.items()}

    @property
    def under_way(self) -> int:
        return len(self._jobs)

    def check(self) -> None:
        """Raises Misfit where steps of its models hang again and again: another process may do better."""
        if self.pool.stuck:
            raise Misfit("two steps of its models did not end")

    # --- in the thread of an ask --------------------------------------------------------------------------

    def _work(self, call: Call, news: _News, job: _Job) -> None:
        try:
            ask, pair = wire.asks.validate_python(call.asked), Pair.model_validate(call.pair)
            bringing = watch(
                self.pool.bring(pair), lambda step: news.put(("progress", step.text, step.fraction)), job.stop
            )
            with finish(bringing) as lease:
                found = self._fingerprint(lease)
                if call.wanted not in ("", found) or self.pins.get(pair.id, found) != found:
                    news.put(("foreign", found))
                else:
                    self._answer(lease, ask, found, news, job)
        except Stopped:
            pass
        except UserError as error:
            news.put(wire.refusal(error))
        except Exception as error:
            log.exception("an ask failed")
            news.put(wire.refusal(UserError(f"The models could not be asked ({type(error).__name__}).")))
        finally:
            news.put(END)

    def _answer(self, lease: Lease, ask: wire.AnyAsk, found: str, news: _News, job: _Job) -> None:
        if isinstance(ask, wire.AskWrite):
            self._write(lease, ask, news, job)
            return
        for value in _values(lease, ask, found, job.stop):
            news.put(("value", value))

    def _write(self, lease: Lease, ask: wire.AskWrite, news: _News, job: _Job) -> None:
        """To the end of both sides."""
        open, ended = set(ask.requests), threading.Event()

        def emit(side: Side, event: Event) -> None:
            news.put(wire.packed(side, event))
            if isinstance(event, Finish | Failure):
                open.discard(side)
                if not open:
                    ended.set()

        job.began(lease.write(ask.requests, emit, ask.dial))
        ended.wait()

    def _fingerprint(self, lease: LocalLease) -> str:
        """Found out when a pair is first asked since it was loaded."""
        place, models = wire.place_of(lease.pair), tuple(lease.loaded[side] for side in SIDES)
        with self._trying:
            known = self._known.get(place)
            if known is None or any(of() is not model for of, model in zip(known.models, models, strict=True)):
                known = self._known[place] = _Known(tuple(map(ref, models)), fingerprint(lease))
        return known.fingerprint


class ReadReply(NamedTuple):
    """What is known here of a reply whose entropies are asked: Lease.entropies asks for no more."""

    token_ids: tuple[int, ...]
    weights_sha256: str


def _values(lease: Lease, ask: wire.AnyAsk, found: str, stop: Stop) -> Iterator[Any]:
    """The answer to all that is not written, in pieces of plain data; one that waits asks `stop` again and again.

    Raises:
        Stopped: it was pressed.
    """
    match ask:
        case wire.AskCard():
            yield {"fingerprint": found, **{side: card_of(lease.side(side)) for side in SIDES}}
        case wire.AskLens():
            reading = lease.read(ask.comparison, ask.side, ask.reply_ids, ask.context)
            with closing(watch(reading, lambda shifts: shifts, stop)) as steps:
                for shifts in steps:
                    if shifts:
                        yield [shift.model_dump() for shift in shifts]
        case wire.AskLikeliest():
            yield from lease.likeliest(ask.side, ask.token_ids, ask.first, ask.count, stop.check)
        case wire.AskAlternatives():
            yield lease.alternatives(ask.side, ask.prompt_ids, ask.continuations)
        case wire.AskLogprobs():
            yield lease.logprobs(ask.side, ask.prompt_ids, ask.continuation_ids)
        case wire.AskEntropies():
            yield lease.entropies(ask.comparison, ask.side, ReadReply(ask.token_ids, ask.weights_sha256), stop.check)
        case wire.AskAudit():
            yield getattr(lease.audit(ask.side), ask.figure)()
