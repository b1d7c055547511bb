"""The routes under /v1: a request, its place among those whom the models serve, and its answer, whole or as it is written.

A client that hangs up stops what it asked for. Whether it may ask is known before it comes here (core/ui/logins.py).
"""

import asyncio
import json
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from contextvars import copy_context
from time import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...completions import Broken, Completion, Delta, Order
from ...errors import TooLong, UserError
from ...pairs import Pair, label
from ...pool import RESTARTING, Pool
from ...steps import Stop, Stopped, watch
from ...types import Side
from ..line import Place, served
from ..room import MODELS
from . import answers
from .answers import Answer, Json
from .asked import Body, ChatBody, CompletionBody, Refusal, ids, read

_BODIES: dict[str, type[Body]] = {"completions": CompletionBody, "chat/completions": ChatBody}
_PERIODS = {
    True: 1 / 16,
    False: 0.25,
}  # seconds between two looks at what is written, for one that is streamed and one that is not
_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx passes on what it gets
]
_END = object()
Work = Generator[Completion | list[Delta] | None, None, None]


def route(pool: Pool) -> Route:
    """All of them."""
    return Route("/v1/{path:path}", OpenAI(pool))


class OpenAI:
    """ASGI application, over the line of the page that it is part of."""

    def __init__(self, pool: Pool):
        self.pool, self.began = pool, int(time())
        self._threads = ThreadPoolExecutor(MODELS["concurrency_limit"], "programs")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            await self._answer(request, send)
        except Stopped:
            return  # whoever asked has hung up
        except HTTPException as error:
            await _said(answers.error(error.detail, error.status_code), error.status_code, request, send)
        except Refusal as refusal:
            await _said(answers.of_refusal(refusal), refusal.status, request, send)
        except UserError as error:
            body, status = _mistake(error)
            await _said(body, status, request, send)

    async def _answer(self, request: Request, send: Send) -> None:
        path = request.path_params["path"].rstrip("/")
        if path in _BODIES:
            _only_by("POST", request)
            body = await self._apart(read, _BODIES[path], await request.body())
            await self._complete(body, request, send)
        elif path == "models":
            _only_by("GET", request)
            listed = [self._model(*each) for each in ids(self.pool.pairs)]
            await _said({"object": "list", "data": listed}, 200, request, send)
        elif path.startswith("models/"):
            _only_by("GET", request)
            found = [self._model(*each) for each in ids(self.pool.pairs) if each[0] == path.removeprefix("models/")]
            if not found:
                raise Refusal("model: there is no such model here; /v1/models lists those that are.", "model", "model_not_found", 404)  # fmt: skip
            await _said(found[0], 200, request, send)
        else:
            raise Refusal(
                "This server has /v1/models, /v1/completions and /v1/chat/completions.", None, "unknown_url", 404
            )

    def _model(self, id: str, pair: Pair, side: Side) -> Json:
        return {
            "id": id,
            "object": "model",
            "created": self.began,
            "owned_by": "same-seed",
            "source": label(pair.spec(side)),
        }

    async def _complete(self, body: Body, request: Request, send: Send) -> None:
        pair, order = body.order(self.pool.pairs)
        stop, place = Stop(), Place(request)
        stop.also(place.leave)
        watching = asyncio.create_task(_hung_up(request, stop))
        try:
            async with served(request.app.get_blocks(), place):
                work = self._work(pair, order, stop, _PERIODS[body.stream])
                try:
                    await self._written(body, work, request, send)
                finally:
                    stop.press()
                    with suppress(ValueError):  # a step of it goes on, and ends at the stop
                        work.close()
        except asyncio.CancelledError:
            if watching.done():
                raise Stopped("Stopped.") from None
            raise
        finally:
            watching.cancel()

    async def _apart(self, do: Callable[..., Any], *given: Any) -> Any:
        """In another thread, and for whoever asks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, do, *given)

    def _work(self, pair: str, order: Order, stop: Stop, period: float) -> Work:
        """First nothing, while models are loaded; then the completion, and what is new of it."""
        with (yield from watch(self.pool.open(pair), lambda step: None, stop)) as lease:
            completion = Completion(lease, order, stop.check)
            yield completion
            with closing(completion.deltas(stop, period)) as deltas:
                yield from deltas

    async def _written(self, body: Body, work: Work, request: Request, send: Send) -> None:
        answer: Answer | None = None
        try:
            while (step := await self._apart(next, work, _END)) is not _END:
                if isinstance(step, Completion):
                    answer = Answer(body, step)
                    if body.stream:
                        await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
                elif answer is not None and step and body.stream:
                    for chunk in answer.chunks(step):
                        await _event(send, chunk)
        except Stopped:
            raise
        except UserError as error:
            if answer is None or not body.stream:
                raise
            await _event(send, _mistake(error)[0])
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        assert answer is not None
        if not body.stream:
            await _said(answer.whole(), 200, request, send)
            return
        if body.stream_options.include_usage:
            await _event(send, answer.usage_chunk())
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


async def _hung_up(request: Request, stop: Stop) -> None:
    """Ends when nobody waits for the answer any more, and with it what was asked for."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stop.press()


async def _event(send: Send, data: Json) -> None:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})


async def _said(body: Json, status: int, request: Request, send: Send) -> None:
    await JSONResponse(body, status)(request.scope, request.receive, send)


def _mistake(error: UserError) -> tuple[Json, int]:
    """What is told of it, and the status: whoever may try again is told by 503."""
    if isinstance(error, Broken) or str(error) == RESTARTING:
        return answers.error(str(error), 503), 503
    code = "context_length_exceeded" if isinstance(error, TooLong) else None
    return answers.error(str(error), 400, code=code), 400


def _only_by(method: str, request: Request) -> None:
    if request.method != method:
        raise HTTPException(405, f"This takes {method} alone.")
