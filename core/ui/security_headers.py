"""What the server refuses and which headers it sends: no outside requests, no proxying, no framing by strangers."""

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, NoReturn
from urllib.parse import urlsplit

import gradio as gr
from gradio import processing_utils
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import is_loopback
from . import memory
from .bodies import Bodies, uploads
from .faults import Faults
from .logins import Logins
from .operating import Errors, Models, Operating
from .requests import MAX_BODY_BYTES

# Gradio's own scripts need 'unsafe-inline' and 'unsafe-eval'; nothing may come from another host.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "frame-src 'none'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
FRAMED_BY = ("'self'", "https://huggingface.co", "https://*.hf.space")  # where the operator names nobody
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
# The routes that the page and its clients use. Gradio has many more: some fetch addresses, some tell tokens.
ROUTES = re.compile(
    r"/|/(ready|metrics)|/(config|login|logout|theme\.css|favicon\.ico|robots\.txt)/?|/(assets|static|svelte)/.*"
    r"|/gradio_api/(app_id|cancel|info|queue/(join|data)|reset|startup-events|upload|upload_progress)/?"
    r"|/gradio_api/(call/(?!v2/)|heartbeat/|run/).*|/v1/.*|/mcp/?"
)


class Hardened:
    """ASGI middleware: only routes that are needed, only for the page's own origin, and the headers.

    `embed_in` are the origins of pages that may show this one in a frame.
    """

    def __init__(self, app: ASGIApp, address: str = "", embed_in: Sequence[str] = ()):
        self.app, self.address = app, address
        policy = f"{CONTENT_SECURITY_POLICY}; frame-ancestors {' '.join(embed_in or FRAMED_BY)}"
        headers = {"content-security-policy": policy, **HEADERS}
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not ROUTES.fullmatch(scope["path"].removeprefix(scope.get("root_path", ""))):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
            return

        if not is_own_origin(Headers(scope=scope), self.address):
            said = "Another page may not ask this one. Behind a proxy, let it pass on the name that it was asked by (Host)."
            await PlainTextResponse(said, 403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def is_own_origin(headers: Mapping[str, str], address: str = "") -> bool:
    """Whether a request comes from the page that it asks, as far as its browser says from where it comes.

    A page elsewhere can choose neither of the names that are compared: for X-Forwarded-Host its browser would ask first.
    """
    origin = headers.get("origin")
    if origin is None:
        return True
    names = (headers.get("host", ""), headers.get("x-forwarded-host", "").split(",")[0], urlsplit(address).netloc)
    return _host(urlsplit(origin).netloc) in {_host(name) for name in names if name.strip()}


def _host(name: str) -> str:
    return re.sub(r":(80|443)$", "", name.strip().lower())


async def _not_downloaded(url: str, *_: object, **__: object) -> NoReturn:
    raise gr.Error(
        "This page takes files, not addresses; save the file on your machine and drop it here.", print_exception=False
    )


def no_downloads() -> None:
    """Gradio downloads the address in any file value, whatever the component; from now on it refuses.

    Every download of Gradio goes through these two, and a test calls every event of the page with an address.
    """
    for name in ("async_ssrf_protected_download", "async_ssrf_protected_get"):
        assert hasattr(processing_utils, name), f"Gradio downloads in another way now: {name} is gone"
        setattr(processing_utils, name, _not_downloaded)


def asked_here(headers: Mapping[str, str]) -> bool:
    """Whether a request names a loopback address and says of no proxy that passed it on. A page of another host that has
    its name point to this machine fails the first."""
    passed_on = any(name in headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host"))
    return not passed_on and is_loopback(re.sub(r":\d+$", "", headers.get("host", "")))


def app_kwargs(
    models: Models,
    address: str = "",
    header: str = "",
    key: str = "",
    embed_in: Sequence[str] = (),
    routes: Sequence[BaseRoute] = (),
    running: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
) -> dict[str, Any]:
    """For gr.Blocks.launch, made anew for each launch: Gradio writes into it.

    `address` is the page's, where it is set; `header` as in `requests.address`; `key` as in `Logins`; `embed_in` as in `Hardened`;
    `routes` come before Gradio's own, and `running` is entered for as long as they are served.
    """
    errors = Errors()

    @asynccontextmanager
    async def served(app: Any) -> AsyncIterator[None]:
        logging.getLogger().addHandler(errors)
        try:
            async with uploads(app), memory.returned(), running():
                yield
        finally:
            logging.getLogger().removeHandler(errors)

    return {
        "middleware": [
            Middleware(Hardened, address=address, embed_in=embed_in),
            Middleware(Faults),
            Middleware(Bodies, header=header),
            Middleware(Logins, header=header, key=key),
            Middleware(Operating, models=models, errors=errors),
        ],
        "routes": list(routes),
        "max_body_size": MAX_BODY_BYTES,
        "lifespan": served,
        "openapi_url": None,
        "docs_url": None,
        "redoc_url": None,
    }
