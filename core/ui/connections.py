"""The connections of the server: how many there may be, and how long a client may take for what it sends and reads.

A browser takes milliseconds for the head of a request; who opens connections and says nothing, byte by byte or not at
all, or reads no answer, is cut off. Where there is no place left, whoever has the most of them gives up one.
"""

import logging
from collections import Counter
from typing import Any

import h11
from gradio import http_server
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 4000
_OTHER_FILES = 200  # that a process has open beside its connections
SECONDS_FOR_HEAD = 10.0
SECONDS_FOR_BODY = 20.0  # and a second more for each of so many bytes that have come
BYTES_A_SECOND = 16_384
SECONDS_UNREAD = 60.0  # that an answer may lie here because its client reads nothing
_TICKS = 10  # of uvicorn, a tenth of a second each


class Connection(H11Protocol):
    """uvicorn's own, which knows what it waits for and since when."""

    config: Any  # with `most_connections`
    phase, since, received = "head", 0.0, 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > self.config.most_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    def look(self, now: float) -> None:
        """Cut it off if its client takes too long."""
        phase = self._phase()
        if phase != self.phase:
            self.phase, self.since, self.received = phase, now, 0
        late = {
            "head": SECONDS_FOR_HEAD,
            "body": SECONDS_FOR_BODY + self.received / BYTES_A_SECOND,
            "unread": SECONDS_UNREAD,
        }.get(phase)
        if late is not None and now - self.since > late:
            self.transport.abort()

    def _phase(self) -> str:
        """What is waited for: "head", "body", that the client reads ("unread"), or the "answer" from here."""
        if self.flow.write_paused:
            return "unread"
        if self.cycle is None or self.cycle.response_complete:
            return "head"
        return "body" if self.conn.their_state is h11.SEND_BODY else "answer"

    def _make_room(self) -> None:
        """Of the address that has the most, the connection that has waited for its client the longest, else the oldest."""
        others = [each for each in self.connections if isinstance(each, Connection) and not each.transport.is_closing()]
        if len(others) <= self.config.most_connections:
            return
        others.remove(self)
        [(most, _)] = Counter(each.address for each in others).most_common(1)
        own = [each for each in others if each.address == most]
        min(own, key=lambda each: (each._phase() == "answer", each.since)).transport.abort()


class Server(http_server.Server):
    """Gradio's own, with these connections. It logs as the app does."""

    def __init__(self, config: Any, *given: Any, **named: Any):
        config.http, config.ws, config.access_log = Connection, "none", False
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            logger = logging.getLogger(name)
            logger.propagate = True
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
        config.most_connections = max(20, min(MOST, open_files() - _OTHER_FILES))
        super().__init__(config, *given, **named)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.look(connection.loop.time())
        return await super().on_tick(counter)


def open_files() -> int:
    """How many files and connections this process may have open, after it has asked for as many as it may."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(MOST + _OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MOST + _OTHER_FILES if soft == resource.RLIM_INFINITY else soft


def serve_in_bounds() -> None:
    """From now on Gradio serves by `Server`."""
    assert hasattr(http_server, "Server"), "Gradio serves in another way now"
    vars(http_server)["Server"] = Server
