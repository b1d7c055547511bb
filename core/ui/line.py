"""Those who wait for the models, in the order of their turns (core/turns.py), and how many may.

Gradio takes the first of a list; this is that list. A session has so many places, and where all places are taken,
whoever has the most of them gives up the last one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import gradio as gr
from gradio.queueing import Event, EventQueue, Queue
from gradio.server_messages import ProcessCompletedMessage
from starlette.exceptions import HTTPException

from ..turns import Who, asking, in_turn
from .requests import address, declared
from .room import MODELS
from .stream import Stream, stream

MAX_WAITING = 256
MAX_BYTES = 128_000_000  # of what those who wait have sent
MAX_OF_SESSION = 16  # running and waiting
TOO_MANY = f"You have {MAX_OF_SESSION} requests under way here; wait until one has ended, then ask again."
FULL = "Too many people ask here at the moment; ask again in a minute."


class Line(list[Event]):
    def __init__(self, queue: Queue, header: str):
        super().__init__()
        self.queue, self.header = queue, header

    def __getitem__(self, at: Any) -> Any:
        self[:] = in_turn(list(self), map(self._who, self._running()), self._who)
        return super().__getitem__(at)

    def append(self, event: Event) -> None:
        """Raises HTTPException where there is no place for it."""
        if sum(each.session_hash == event.session_hash for each in (*self, *self._running())) >= MAX_OF_SESSION:
            self._refuse(event, 429, TOO_MANY)
        super().append(event)
        while len(self) > MAX_WAITING or sum(declared(each.request.headers) for each in self) > MAX_BYTES:
            last: Event = self[-1]
            self.remove(last)
            if last is event:
                self._refuse(event, 429, FULL)
            if isinstance(last, Place):
                last.refuse()
            told = {"error": FULL}
            self.queue.send_message(last, ProcessCompletedMessage(output=told, success=False, title="Error"))
            self.queue.event_ids_to_events.pop(last._id, None)

    def _refuse(self, event: Event, status: int, sentence: str) -> NoReturn:
        self.queue.event_ids_to_events.pop(event._id, None)
        ids = self.queue.pending_event_ids_session.get(event.session_hash, set())
        ids.discard(event._id)
        if not ids:
            self.queue.pending_event_ids_session.pop(event.session_hash, None)
        raise HTTPException(status, sentence)

    def _running(self) -> list[Event]:
        return [event for job in self.queue.active_jobs if job for event in job if event.fn.concurrency_id == _ID]

    def _who(self, event: Event) -> Who:
        return Who(address(event.request, self.header), PROGRAMS if isinstance(event, Place) else event.session_hash)


_ID = MODELS["concurrency_id"]
PROGRAMS = "/v1"  # the session of all programs at one address, whose requests have no other


class _Work:
    """What Gradio wants to know of an event's function."""

    _id, concurrency_id, batch, connection, time_limit = PROGRAMS, _ID, False, "sse", None


class Place(Event):
    """A place in the line for a request that Gradio does not answer: it is told nothing, and holds its turn until it is over."""

    def __init__(self, request: Any):
        super().__init__(None, _Work(), request, None)  # type: ignore[arg-type]
        self.alive = False
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()

    def refuse(self) -> None:
        if not self.turn.done():
            self.turn.set_exception(HTTPException(429, FULL))

    def leave(self) -> None:
        """Wait no longer."""
        self.turn.cancel()

    async def hold(self) -> None:
        """In Gradio's place, while it is this one's turn."""
        if not self.turn.done():
            self.turn.set_result(None)
            await self.over.wait()


@asynccontextmanager
async def served(blocks: "Blocks", place: Place) -> AsyncIterator[None]:
    """Waits for the turn of this place, and has the models know for whom they work until it is left.

    Raises:
        HTTPException: there is no place, or somebody who has fewer took it.
        CancelledError: it was left (`Place.leave`).
    """
    line: Any = blocks._queue.event_queue_per_concurrency_id[_ID].queue
    line.append(place)
    try:
        await place.turn
        asking.set(line._who(place))
        yield
    finally:
        place.over.set()
        place.leave()
        if place in list(line):
            line.remove(place)


class Blocks(gr.Blocks):
    """gr.Blocks whose visitors take turns."""

    header = ""
    pool: Any = None  # of this page

    def take_turns(self, header: str) -> None:
        """After `queue`; `header` is as in `requests.address`."""
        self.header = header
        line = EventQueue(_ID, MODELS["concurrency_limit"])
        line.queue = Line(self._queue, header)
        self._queue.event_queue_per_concurrency_id[_ID] = line
        process = self._queue.process_events

        async def in_place(events: list[Event], *given: Any) -> None:
            if isinstance(events[0], Place):
                await events[0].hold()
            stream.set(Stream(self._queue, events[0]))
            await process(events, *given)  # which finds no event that is alive, and gives the turn on

        self._queue.process_events = in_place  # type: ignore[assignment,method-assign]

    async def call_function(  # of every event, and of every step of one that goes on
        self, block_fn: Any, processed_input: Any, iterator: Any = None, requests: Any = None, *given: Any, **named: Any
    ) -> Any:
        request = requests[0] if isinstance(requests, list) else requests
        if request is not None:
            asking.set(Who(address(request, self.header), str(request.session_hash)))
        return await super().call_function(block_fn, processed_input, iterator, requests, *given, **named)

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """Too few values are whoever asks' mistake. Gradio tells them of objects in memory, and the log a traceback."""
        if (got := len(inputs)) < (needed := len(block_fn.inputs)):
            raise gr.Error(f"This takes {needed} values and got {got}; send all of them.", print_exception=False)
