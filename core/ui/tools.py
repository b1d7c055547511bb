"""MCP: what the page does as tools for agents, under /mcp, in the same line as the page and with the same limits.

The package mcp speaks the protocol; it is optional, so this file is imported where tools are asked for alone. A client that
hangs up stops what it asked for. Whether it may ask is known before it comes here (core/ui/logins.py).
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import copy_context
from typing import Annotated, Any, ClassVar, TypeVar

from mcp import types as protocol
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from pydantic import Field, ValidationError, create_model
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .. import __version__, canonical, receipts
from ..difference import detokenized, difference
from ..errors import UserError
from ..pool import Pool
from ..replay import replay
from ..steps import Steps, Stop, finish, watch
from ..study.plan import StudyPlan
from ..types import (
    DEFAULT_SAMPLING,
    SIDES,
    AnyReceipt,
    Comparison,
    Date,
    Framing,
    LensContext,
    Receipt,
    Sampling,
    Side,
    Text,
    Value,
    explain,
)
from . import api
from .line import Blocks, Place, served
from .requests import MAX_BODY_BYTES
from .room import MODELS

R = TypeVar("R", Receipt, AnyReceipt)

ABOUT = (
    "Same Seed compares a base model with its post-trained sibling: one prompt, one seed, both replies. "
    "The same arguments give the same replies. Begin with pairs, then compare; lens, replay and diff take the receipts that compare returns."
)


class Tool(Value):
    """What an agent may ask for: its fields are the arguments, its docstring is what the agent is told of it."""

    waits: ClassVar[bool] = True  # for the models

    def work(self, pool: Pool) -> Steps[object, Any]:
        """Ends in JSON data. Raises UserError when it cannot be done."""
        raise NotImplementedError


# As everywhere where nobody says otherwise.
_SAMPLING: Any = {
    name: (
        Annotated[field.annotation, *field.metadata],
        Field(getattr(DEFAULT_SAMPLING, name), description=field.description),
    )
    for name, field in Sampling.model_fields.items()
}
_Sampled: Any = create_model("_Sampled", __base__=Tool, **_SAMPLING)


class Compare(_Sampled):
    """Send one prompt to both models of a pair, the base and its post-trained sibling, under the same seed, and return both replies.

    The replies are under base.text and post.text; receipt proves the run, and is what lens, replay and diff take.
    """

    prompt: Text = Field(description="what both models are sent")
    pair: str | None = Field(
        None, description="the id of a pair that the tool pairs lists; the page's own where it is left out"
    )
    system: Text = Field("", description="a system prompt")
    framing_base: Framing = Field(
        "document",
        description="how the base model gets the prompt: as the bare text, as a transcript, or by its chat template",
    )
    framing_post: Framing = Field("chat", description="the same for the post-trained model")
    today: Date | None = Field(
        None, description="the date that a chat template may write; today's where it is left out"
    )

    def work(self, pool: Pool) -> Steps[object, Any]:
        answer = yield from api.compared(pool, Comparison.of(**{**dict(self), "pair": self.pair or pool.default.id}))
        said = {side: answer.side(side).model_dump(include={"text", "reasoning", "finish_reason"}) for side in SIDES}
        return {**said, "receipt": canonical.dump(answer.receipt)}


class Lens(Tool):
    """Read one reply of a receipt through both models, token by token: how likely each model finds each token, and what post-training changed there."""

    receipt: Receipt = Field(description="the receipt of a comparison")
    side: Side = Field("post", description="whose reply is read")
    context: LensContext = Field(
        "identical", description="what the sibling reads: the identical token ids, or its own framing"
    )

    def work(self, pool: Pool) -> Steps[object, Any]:
        return canonical.dump((yield from api.read(pool, _sound(self.receipt), self.side, self.context)))


class Replay(Tool):
    """Run a receipt again, from scratch, and say whether its replies are the same: identical, diverged (where, and by how much), or not replayable here."""

    receipt: AnyReceipt = Field(description="the receipt of a comparison, or of one side")

    def work(self, pool: Pool) -> Steps[object, Any]:
        return canonical.dump((yield from replay(pool, _sound(self.receipt))))


class Diff(Tool):
    """Say why two runs differ: every input that is not the same in two receipts, and the token at which each side's replies diverge."""

    waits: ClassVar[bool] = False
    first: AnyReceipt = Field(description="the receipt of a comparison, or of one side")
    second: AnyReceipt = Field(description="the receipt of another one")

    def work(self, pool: Pool) -> Steps[object, Any]:
        yield None
        first, second = map(_sound, (self.first, self.second))
        return canonical.dump(difference(first, second, (detokenized(pool, first), detokenized(pool, second))))


class Pairs(Tool):
    """List the pairs of models that can be asked here: the id of each, its title, and what its two models are."""

    waits: ClassVar[bool] = False

    def work(self, pool: Pool) -> Steps[object, Any]:
        yield None
        return api.listed(pool)


class Study(StudyPlan, Tool):
    """Ask many seeds, or many prompts, and count: rates of verdicts and of your own checks with their intervals, for each checkpoint.

    Returns the report, with the receipt of the whole study. It has all of the machine while nobody else asks, and takes long.
    """

    def work(self, pool: Pool) -> Steps[object, Any]:
        plan = StudyPlan.model_validate(dict(self))
        return canonical.dump((yield from api.studied(pool, plan)))


TOOLS: dict[str, type[Tool]] = {kind.__name__.lower(): kind for kind in (Compare, Lens, Replay, Diff, Pairs, Study)}


class Tools:
    """The route, and what runs while it is served. An ASGI application over the line of the page that it is part of."""

    def __init__(self, blocks: Blocks):
        self.blocks = blocks
        self.route = Route("/mcp", self)
        self._threads = ThreadPoolExecutor(MODELS["concurrency_limit"], "tools")
        server: Server[Any] = Server(
            "same-seed", version=__version__, instructions=ABOUT, on_list_tools=self._list, on_call_tool=self._call
        )
        self._manager = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=MAX_BODY_BYTES)

    def running(self) -> AbstractAsyncContextManager[None]:
        return self._manager.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)

    async def _list(self, context: Any, params: Any) -> protocol.ListToolsResult:
        return protocol.ListToolsResult(tools=[_described(name, kind) for name, kind in TOOLS.items()])

    async def _call(self, context: Any, params: protocol.CallToolRequestParams) -> protocol.CallToolResult:
        """Mistakes of whoever asks are results, as the protocol wants it: an agent reads them and asks better."""
        try:
            if params.name not in TOOLS:
                raise UserError(f"There is no tool {params.name[:40]!r} here; there are {', '.join(TOOLS)}.")
            found = await self._done(TOOLS[params.name].model_validate(params.arguments or {}), context)
        except ValidationError as error:
            return _said(str(explain(error)), is_error=True)
        except UserError as error:
            return _said(str(error), is_error=True)
        except HTTPException as error:  # no place in the line
            return _said(error.detail, is_error=True)
        return _said(canonical.text(found))

    async def _done(self, tool: Tool, context: Any) -> Any:
        stop, loop = Stop(), asyncio.get_running_loop()
        place = served(self.blocks, Place(context.request)) if tool.waits else nullcontext()
        try:
            async with place:
                work = watch(tool.work(self.blocks.pool), lambda step: None, stop)
                return await loop.run_in_executor(self._threads, copy_context().run, finish, work)
        finally:
            stop.press()


def _described(name: str, kind: type[Tool]) -> protocol.Tool:
    schema = kind.model_json_schema()
    return protocol.Tool(name=name, description=" ".join(schema.pop("description").split()), input_schema=schema)


def _said(text: str, is_error: bool = False) -> protocol.CallToolResult:
    return protocol.CallToolResult(content=[protocol.TextContent(type="text", text=text)], is_error=is_error)


def _sound(receipt: R) -> R:
    """Raises UserError where it was changed after it was made."""
    receipts.from_data(canonical.dump(receipt))
    return receipt
