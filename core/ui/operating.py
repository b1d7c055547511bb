"""For whoever runs the server: whether it is ready, and figures in the text format of Prometheus. Neither has anybody's name or words.

/ready asks for no password, since what looks after a container has none. /metrics does where the page does: that of any
login, as HTTP Basic authentication.
"""

import binascii
import logging
import secrets
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Mapping
from time import time
from typing import Any, Protocol

import psutil
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from .room import MODELS

_STARTING = "The models are being loaded, or the server ends."
_PASSWORD = {"www-authenticate": 'Basic realm="Same Seed"'}
Figure = tuple[str, str, str, float]  # name, type, help, value


class Models(Protocol):
    """What a pool knows."""

    @property
    def ready(self) -> bool: ...
    @property
    def written(self) -> int: ...
    @property
    def figures(self) -> Mapping[str, tuple[str, int]]: ...


class Errors(logging.Handler):
    """Counts what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.number = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.number += 1


class Operating:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, models: Models, errors: Errors):
        self.app, self.models, self.errors = app, models, errors
        self.visitors, self.answered = 0, Counter[int]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "/ready":
            ready = self.models.ready
            told = {"ready": True} if ready else {"ready": False, "why": _STARTING}
            await JSONResponse(told, 200 if ready else 503)(scope, receive, send)
        elif path == "/metrics":
            await self._metrics(scope)(scope, receive, send)
        else:
            await self._counted(path, scope, receive, send)

    def _metrics(self, scope: Scope) -> PlainTextResponse:
        if scope["app"].auth is not None and not scope.get("logged_in") and not _knows(scope["app"].auth, scope):
            return PlainTextResponse("This takes the name and password of a login.", 401, _PASSWORD)
        return PlainTextResponse(
            "".join(_lines(self._figures(scope["app"].get_blocks()))), media_type="text/plain; version=0.0.4"
        )

    async def _counted(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answered[message["status"] // 100] += 1
            await send(message)

        page = path.startswith("/gradio_api/heartbeat/")  # open for as long as a page is
        self.visitors += page
        try:
            await self.app(scope, receive, counted)
        finally:
            self.visitors -= page

    def _figures(self, blocks: Any) -> Iterator[Figure]:
        line, process, held = (
            blocks._queue.event_queue_per_concurrency_id[MODELS["concurrency_id"]],
            psutil.Process(),
            blocks.state_holder,
        )
        yield f'info{{version="{__version__}"}}', "gauge", "The version that runs.", 1
        yield "ready", "gauge", "Whether /ready says so.", int(self.models.ready)
        yield "pages", "gauge", "Pages that are open.", self.visitors
        yield "connections", "gauge", "Connections, open pages among them.", len(blocks.server.server_state.connections)
        yield "sessions", "gauge", "Sessions that are held.", len(held.session_data)
        yield "sessions_bytes", "gauge", "Their conversations, as JSON.", held.bytes_held
        yield "requests_waiting", "gauge", "Requests that wait for the models.", len(line.queue)
        yield "requests_running", "gauge", "Requests that the models work for.", line.current_concurrency
        yield "tokens_total", "counter", "Tokens of replies that have ended.", self.models.written
        yield (
            "errors_total",
            "counter",
            "Errors in the log, those that were only counted there too.",
            self.errors.number,
        )
        for name, (help, value) in self.models.figures.items():
            yield f"cluster_{name}_total", "counter", help, value
        for kind in range(2, 6):
            yield f'answers_total{{status="{kind}xx"}}', "counter", "Answers by their status.", self.answered[kind]
        yield "memory_bytes", "gauge", "Memory that the process has.", process.memory_info().rss
        yield "cpu_seconds_total", "counter", "Seconds of processors that it took.", sum(process.cpu_times()[:2])
        yield "uptime_seconds", "gauge", "Seconds since it was started.", time() - process.create_time()


def _lines(figures: Iterator[Figure]) -> Iterator[str]:
    said = ""
    for name, kind, help, value in figures:
        plain = f"same_seed_{name.partition('{')[0]}"
        if plain != said:
            yield f"# HELP {plain} {help}\n# TYPE {plain} {kind}\n"
        said = plain
        yield f"same_seed_{name} {value:.15g}\n"


def _knows(logins: dict[str, str], scope: Scope) -> bool:
    """Whether a request has the name and the password of a login."""
    kind, _, said = Headers(scope=scope).get("authorization", "").partition(" ")
    try:
        user, _, password = b64decode(said, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return False
    right = logins.get(user, "")
    return kind.lower() == "basic" and bool(right) and secrets.compare_digest(right.encode(), password.encode())
