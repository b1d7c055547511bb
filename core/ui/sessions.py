"""What the server holds of its visitors: so many sessions and so many bytes, of which those that were used longest ago are forgotten.

Gradio keeps for every session whatever was ever sent to it or shown of it, and every result that nobody comes for. Here
a session holds its gr.States and nothing else. To forget one loses nothing for its visitor: the browser keeps the
conversation, and whatever it asks next brings it along (visitor.py).
"""

import asyncio
import pickle
from collections import OrderedDict
from collections.abc import Iterable
from copy import copy
from datetime import datetime
from time import monotonic
from typing import Any

from gradio import Blocks, State, route_utils, routes
from gradio.queueing import Queue
from gradio.state_holder import SessionState, StateHolder

MAX_SESSIONS = 2000
MAX_BYTES = 200_000_000  # of all conversations, as JSON; in memory they take up to five times as much
MAX_UNREAD = 64  # sessions that have results for which nobody comes
SECONDS_UNREAD = 5
SECONDS_IDLE = 7200
_MAX_UPLOADS = 64  # of which Gradio remembers how far they are


class Held(SessionState):
    """What Gradio needs of a session, without a copy of all that the page has shown and was sent."""

    def __init__(self, blocks: Blocks):
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = SECONDS_IDLE
        self._bytes: dict[int, int] = {}

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(self.blocks_config.blocks.get(key), State):
            self.state_data[key] = value
            self._bytes[key] = 0 if hasattr(value, "bytes_held") else len(pickle.dumps(value))
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None: ...

    def _update_value_in_config(self, key: int, value: Any) -> None: ...

    @property
    def bytes_held(self) -> int:
        """What changes in place says itself how much it is."""
        own = (getattr(value, "bytes_held", 0) for value in list(self.state_data.values()))
        return sum(own) + sum(list(self._bytes.values()))


class Sessions(StateHolder):
    """All of them, the one that was used longest ago first; Gradio calls `delete_all_expired_state` once a second."""

    session_data: OrderedDict[str, Held]  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self._leaving: set[asyncio.Task[None]] = set()
        self._unread: dict[
            str, tuple[object, float]
        ] = {}  # session -> its first message that is not read, and since when

    def __getitem__(self, session: str) -> Held:
        with self.lock:
            if session not in self.session_data:
                self.session_data[session] = Held(self.blocks)
            self.session_data.move_to_end(session)
            self.time_last_used[session] = datetime.now()
            return self.session_data[session]

    @property
    def bytes_held(self) -> int:
        return sum(session.bytes_held for session in list(self.session_data.values()))

    def delete_all_expired_state(self) -> None:
        queue = self.blocks._queue
        busy = {event.session_hash for event in queue.event_ids_to_events.values()}
        with self.lock:
            for session in self._surplus(busy):
                del self.session_data[session]
                self.time_last_used.pop(session, None)
        for session in list(queue.pending_event_ids_session):
            if session not in busy and session not in queue.pending_messages_per_session:
                queue.pending_event_ids_session.pop(session, None)
        for session in self._nobody_comes_for(queue):
            leaving = asyncio.get_running_loop().create_task(_leave(queue, session))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        self._forget_what_has_ended(queue)

    def _surplus(self, busy: Iterable[str]) -> list[str]:
        """Those who go now: nobody for whom something is done."""
        now, going = datetime.now(), []
        held = {session: state.bytes_held for session, state in self.session_data.items()}
        number, size = len(held), sum(held.values())
        for session, own in held.items():
            idle = (now - self.time_last_used[session]).total_seconds()
            if idle <= SECONDS_IDLE and number <= MAX_SESSIONS and size <= MAX_BYTES:
                break
            if session not in busy:
                going.append(session)
                number, size = number - 1, size - own
        return going

    def _nobody_comes_for(self, queue: Queue) -> list[str]:
        """The sessions whose results are dropped: of those that nobody has read for a while, all but the last few."""
        before, self._unread, now = self._unread, {}, monotonic()
        for session, messages in queue.pending_messages_per_session.items():
            if not messages.empty():
                first, seen = messages._queue[0], before.get(session)
                self._unread[session] = seen if seen is not None and seen[0] is first else (first, now)
        late = [session for session, (_, since) in self._unread.items() if now - since >= SECONDS_UNREAD]
        return late[: max(0, len(late) - MAX_UNREAD)]

    def _forget_what_has_ended(self, queue: Queue) -> None:
        app = self.blocks.app
        app.iterators_to_reset &= queue.event_ids_to_events.keys()
        uploads = routes.file_upload_statuses
        for of in (uploads._statuses, uploads._signals):
            for name in list(of)[: max(0, len(of) - _MAX_UPLOADS)]:
                of.pop(name, None)


async def _leave(queue: Queue, session: str) -> None:
    """As when whoever waits hangs up: what is done for the session ends, and what it was told is dropped."""
    await queue.clean_events(session_hash=session)
    queue.pending_messages_per_session.pop(session, None)
    queue.pending_event_ids_session.pop(session, None)


def hold_little() -> None:
    """From now on Gradio holds sessions as this file does."""
    for module, name, own in ((routes, "StateHolder", Sessions), (route_utils, "SessionState", Held)):
        assert hasattr(module, name), f"Gradio holds sessions in another way now: {name} is gone"
        setattr(module, name, own)
