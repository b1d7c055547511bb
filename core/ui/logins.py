"""Where the page asks for a password: whose a session is, how fast a password can be guessed, and what ends a login.

Gradio knows a session, its streams and what is cancelled by a name that the browser chose, whoever has logged in. Here
every login has names of its own: what it calls x is another session than what any other login calls x.
"""

import asyncio
import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .requests import address as whose

_API = "/gradio_api/"
_FOR_PROGRAMS = re.compile(r"/v1/.*|/mcp/?")
_ONLY_FOR_LOGINS = re.compile(_API + r"(cancel|reset|heartbeat)(/.*)?")  # Gradio asks nobody for a login there
_WITH_SESSION = re.compile(_API + r"(cancel|queue/join|(call|run)/.+)/?")
_ANSWER = re.compile(_API + r"call/[^/]+/([^/]+)/?")
_SLOWEST = 30.0  # seconds that a guess waits at most
_FORGET = 900.0  # seconds after which failures are forgotten
_AT_ONCE = 4  # guesses of one address that may wait
_ADDRESSES = 1000  # that are remembered


class Logins:
    """ASGI middleware, for a page with passwords. Programs that ask under /v1 or /mcp have no login: they bring `key`, if there is one."""

    def __init__(self, app: ASGIApp, header: str = "", key: str = ""):
        self.app, self.guesses, self.key = app, Guesses(header=header), key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["app"].auth is None and not self.key):
            await self.app(scope, receive, send)
            return
        path, headers = scope["path"].removeprefix(scope.get("root_path", "")), Headers(scope=scope)
        if _FOR_PROGRAMS.fullmatch(path):
            if self.key and _brings(self.key, headers):
                await self.app(scope, receive, send)
            else:
                await self.guesses.guess(_no_key if self.key else _no_programs, scope, receive, send)
            return
        if scope["app"].auth is None:
            await self.app(scope, receive, send)
            return
        login = _login(scope["app"], headers)
        if path.rstrip("/") == "/login":
            await self.guesses.guess(self.app, scope, receive, send)
        elif path == "/logout" and not _is_navigation(headers):
            await PlainTextResponse("Open this address to log out.", 403)(scope, receive, send)
        elif path == "/metrics" and login is None and "authorization" in headers:  # it is a guess as well
            await self.guesses.guess(self.app, scope, receive, send)
        elif login is None:
            if _ONLY_FOR_LOGINS.fullmatch(path):
                await JSONResponse({"detail": "Not authenticated"}, 401)(scope, receive, send)
            else:
                await self.app(scope, receive, send)
        else:
            await self._own(login, path, scope, receive, send)

    async def _own(self, login: str, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """The request, with the names that it uses made this login's own."""
        asked: str | None = None  # an event
        scope = {**scope, "logged_in": True}
        if path.startswith(_API + "heartbeat/"):
            scope = {**scope, "path": scope["path"] + login}
        elif path.rstrip("/") == _API + "queue/data":
            query = [
                (key, value + login if key == "session_hash" else value)
                for key, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            ]
            scope = {**scope, "query_string": urlencode(query).encode()}
        elif scope["method"] == "POST" and _WITH_SESSION.fullmatch(path):
            body = await _body(receive)
            if isinstance(body, dict):
                session = body.get("session_hash")
                if isinstance(session, str) or path.startswith(_API + "call/"):
                    body["session_hash"] = f"{session or secrets.token_hex(8)}{login}"
                asked = str(body.get("event_id")) if path.startswith(_API + "cancel") else None
            scope, receive = _with_body(scope, receive, body)
        elif found := _ANSWER.fullmatch(path):
            asked = found[1]
        if asked is not None and not _session(scope["app"], asked).endswith(login):
            await JSONResponse({"detail": "There is no such event."}, 404)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class Guesses:
    """Each wrong password makes the next guess from its address wait twice as long. `header` is as in `requests.address`."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, header: str = "") -> None:
        self._sleep, self._header = sleep, header
        self._of: OrderedDict[str, _Address] = OrderedDict()

    async def guess(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        address = self._address(whose(HTTPConnection(scope), self._header))
        if address.waiting >= _AT_ONCE:
            await JSONResponse({"detail": "Too many tries; wait a minute."}, 429)(scope, receive, send)
            return
        address.waiting += 1
        try:
            async with address.turn:
                await self._sleep(address.pause())
                await app(scope, receive, address.listening(send))
        finally:
            address.waiting -= 1

    def _address(self, name: str) -> "_Address":
        address = self._of.setdefault(name, _Address())
        self._of.move_to_end(name)
        while len(self._of) > _ADDRESSES:
            self._of.popitem(last=False)
        return address


class _Address:
    def __init__(self) -> None:
        self.waiting, self.failures, self.last = 0, 0, 0.0
        self.turn = asyncio.Lock()

    def pause(self) -> float:
        """Seconds until the next guess."""
        if monotonic() - self.last > _FORGET:
            self.failures = 0
        return min(_SLOWEST, 0.25 * 2.0**self.failures) if self.failures else 0.0

    def listening(self, send: Send) -> Send:
        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start":
                right = message["status"] < 400
                self.failures, self.last = 0 if right else min(self.failures + 1, 30), monotonic()
            await send(message)

        return heard


def _brings(key: str, headers: Headers) -> bool:
    """Whether a request has the key, as a bearer token or, where a proxy wants that header for itself, as X-API-Key."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    said = [headers.get("x-api-key", ""), token.strip() if kind.lower() == "bearer" else ""]
    return any(secrets.compare_digest(key.encode(), each.encode()) for each in said)


def _unauthorized(sentence: str) -> ASGIApp:
    told = {"message": sentence, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    return JSONResponse({"error": told}, 401)


_no_key = _unauthorized("This takes the key of this server as a bearer token.")
_no_programs = _unauthorized(
    "This page asks for a login, and programs have no key here; whoever runs it can set SAME_SEED_API_KEY."
)


def _login(app: Any, headers: Headers) -> str | None:
    """What is added to the names of this login; None where nobody has logged in."""
    cookies = cookie_parser(headers.get("cookie", ""))
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    token = next((cookies[name] for name in names if cookies.get(name)), None)
    if token is None or app.tokens.get(token) is None:
        return None
    return "." + hashlib.sha256(token.encode()).hexdigest()[:24]


def _is_navigation(headers: Headers) -> bool:
    """Whether somebody opens an address of this page; browsers that do not say so ask for a document alone then."""
    mode, site = headers.get("sec-fetch-mode"), headers.get("sec-fetch-site")
    if mode is None or site is None:
        return headers.get("accept", "").startswith("text/html")
    document = headers.get("sec-fetch-dest") in (None, "document")
    return mode == "navigate" and document and site in ("same-origin", "none")


def _session(app: Any, event: str) -> str:
    """The session of an event, running or ended; "" where there is none."""
    queue = app.get_blocks()._queue
    running = queue.event_ids_to_events.get(event)
    if running is not None:
        return str(running.session_hash)
    return next((name for name, events in queue.pending_event_ids_session.items() if event in events), "")


async def _body(receive: Receive) -> Any:
    """The JSON that a request brings, or its bytes where it is none."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    whole = b"".join(parts)
    try:
        return json.loads(whole)
    except (ValueError, RecursionError):
        return whole


def _with_body(scope: Scope, rest: Receive, body: Any) -> tuple[Scope, Receive]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    given = iter([{"type": "http.request", "body": text, "more_body": False}])

    async def receive() -> Message:
        return next(given, None) or await rest()

    return {**scope, "headers": [*headers, (b"content-length", str(len(text)).encode())]}, receive
