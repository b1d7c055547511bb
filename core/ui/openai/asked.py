"""What OpenAI's API is asked, as far as it is honoured here, and what it means to us.

Every field is either honoured, or taken with the values alone that change nothing, or refused by its name.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from ... import canonical
from ...completions import Order, SidePrompt
from ...errors import UserError
from ...pairs import Pair
from ...types import (
    MAX_SEED,
    MAX_STOPS,
    MAX_TOKENS,
    SIDES,
    Comparison,
    Conversation,
    Date,
    Framing,
    Sampling,
    Side,
    StopString,
    Switches,
    Text,
    Turn,
    Value,
    explain,
)
from ..requests import MAX_BODY_BYTES

MAX_CHOICES = 64  # of one request: prompts times replies to each
MAX_TOP = 20
_LONGEST_REPLY = 32_768  # tokens
_DEFAULT_LENGTH = 16  # of a completion, as OpenAI has it; a chat goes on to the end of the context
_DRAWN_SEEDS = 2**32

_SHAPES = {
    "prompt": f"give a text, token ids, or a list of 1 to {MAX_CHOICES} texts or lists of token ids",
    "stop": f"give a text, or at most {MAX_STOPS} of them, each of 1 to 500 characters",
    "content": "give a text, or a list of parts whose type is text; other parts cannot be honoured here",
}

V = TypeVar("V", bound="Body")


class Refusal(UserError):
    """What is answered in place of what was asked: a sentence, the field that it is about, and a word and a status for programs."""

    def __init__(self, sentence: str, param: str | None = None, code: str = "invalid_value", status: int = 400):
        super().__init__(sentence)
        self.param, self.code, self.status = param, code, status


def _only(*neutral: Any) -> AfterValidator:
    """For a field that is taken with these values alone, which change nothing."""

    def check(value: Any) -> Any:
        if not any(value == each and type(value) in (type(each), int, float) for each in neutral):
            raise ValueError("this cannot be honoured here; leave it out")
        return value

    return AfterValidator(check)


_Label = Annotated[str, StringConstraints(max_length=512)]


class StreamOptions(Value):
    include_usage: bool = False
    include_obfuscation: Annotated[Any, _only(False)] = None


class Body(Value, ABC):
    """What both kinds of completion have in common."""

    model: Annotated[str, StringConstraints(max_length=600)]
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, ge=0.1, le=2)
    max_tokens: int | None = Field(default=None, ge=0, le=2**31)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    stop: StopString | Annotated[tuple[StopString, ...], Field(max_length=MAX_STOPS)] = ()
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    today: Date = Field(default_factory=lambda: date.today().isoformat())
    receipt: bool = False

    # These say who asks and why, and change nothing.
    user: _Label = ""
    safety_identifier: _Label = ""
    prompt_cache_key: _Label = ""
    metadata: dict[_Label, _Label] = Field(default={}, max_length=16)

    frequency_penalty: Annotated[Any, _only(0)] = None
    presence_penalty: Annotated[Any, _only(0)] = None
    logit_bias: Annotated[Any, _only({})] = None
    store: Annotated[Any, _only(False)] = None
    service_tier: Annotated[Any, _only("auto", "default")] = None

    @property
    def length(self) -> int | None:
        """How many tokens a reply may have."""
        return self.max_tokens

    @abstractmethod
    def side_prompts(self, pair: str, side: Side, sampling: Sampling) -> Sequence[SidePrompt]:
        """What is sent, prompt by prompt. Raises Refusal, or ValidationError."""

    @abstractmethod
    def more(self) -> dict[str, Any]:
        """What else is ordered, by the fields of an Order."""

    def order(self, pairs: Sequence[Pair]) -> tuple[str, Order]:
        """The id of a pair, and what one side of it is asked. A seed is drawn where none is given.

        Raises:
            Refusal: which names the field that it is about.
        """
        pair, side = find(pairs, self.model)
        seed = secrets.randbelow(_DRAWN_SEEDS) if self.seed is None else self.seed
        if seed + self.n - 1 > MAX_SEED:
            raise Refusal(f"seed: choice i of n is drawn with seed + i, and the largest seed is {MAX_SEED}.", "seed")
        try:
            sampling = Sampling(
                seed=seed,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                min_p=self.min_p,
                repetition_penalty=self.repetition_penalty,
                max_new_tokens=min(_LONGEST_REPLY, _LONGEST_REPLY if self.length is None else max(1, self.length)),
            )
            prompts = tuple(self.side_prompts(pair, side, sampling))
        except ValidationError as error:
            wrong = refused(error)
            wrong.param = wrong.param if wrong.param in type(self).model_fields else "messages"
            raise wrong from None
        if len(prompts) * self.n > MAX_CHOICES:
            raise Refusal(f"n: {len(prompts)} prompts with {self.n} replies to each are more than {MAX_CHOICES}; ask for fewer at once.", "n")  # fmt: skip
        if self.receipt and self.length == 0:
            raise Refusal(
                "receipt: with max_tokens 0 nothing is written, so there is nothing to have one of.", "receipt"
            )
        return pair, Order(
            side=side,
            prompts=prompts,
            sampling=sampling,
            replies=self.n,
            stops=(self.stop,) if isinstance(self.stop, str) else self.stop,
            writes=self.length != 0,
            receipts=self.receipt,
            **self.more(),
        )


def _prompts(value: str | tuple[Any, ...]) -> tuple[str | tuple[int, ...], ...]:
    """One or several, each as text or as token ids, all of them alike."""
    many = (value,) if isinstance(value, str) or (value and type(value[0]) is int) else value
    texts = all(isinstance(each, str) for each in many)
    if not 1 <= len(many) <= MAX_CHOICES or not (texts or all(map(_are_ids, many))):
        raise ValueError(_SHAPES["prompt"])
    return many if texts else tuple(map(tuple, many))


def _are_ids(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_TOKENS:
        return False
    return all(type(id) is int and 0 <= id < 2**32 for id in value)


class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: Annotated[str | tuple[Any, ...], AfterValidator(_prompts)]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP)
    echo: bool = False
    best_of: Annotated[Any, _only(1)] = None
    suffix: Annotated[Any, _only("")] = None

    @property
    def length(self) -> int | None:
        return _DEFAULT_LENGTH if self.max_tokens is None else self.max_tokens

    def side_prompts(self, pair: str, side: Side, sampling: Sampling) -> Sequence[SidePrompt]:
        def sent(prompt: str) -> Comparison:
            return Comparison(
                pair=pair,
                prompt=prompt,
                sampling=sampling,
                today=self.today,
                framing_base="document",
                framing_post="document",
            )

        return [
            SidePrompt(sent(each)) if isinstance(each, str) else SidePrompt(sent(""), tuple(each))
            for each in self.prompt
        ]

    def more(self) -> dict[str, Any]:
        return {"echo": self.echo, "logprobs": self.logprobs is not None, "top": self.logprobs or 0}


class Part(Value):
    """A part of a message; pictures and sounds are none that these models read."""

    type: Literal["text"]
    text: Text


class ChatMessage(Value):
    """A message as clients send it, or send back what an answer was."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | tuple[Part, ...]
    reasoning_content: Text = ""
    tool_calls: Annotated[Any, _only([])] = None
    annotations: Annotated[Any, _only([])] = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, max_length=2_001)
    max_completion_tokens: int | None = Field(default=None, ge=0, le=2**31)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_TOP)
    framing: Framing | None = None
    chat_template_kwargs: Switches = Field(default={})
    tools: Annotated[Any, _only([])] = None
    functions: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    parallel_tool_calls: Annotated[Any, _only(True, False)] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only(["text"])] = None

    @property
    def length(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def side_prompts(self, pair: str, side: Side, sampling: Sampling) -> Sequence[SidePrompt]:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise Refusal("max_tokens: max_completion_tokens says another number; leave one of them out.", "max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise Refusal("top_logprobs: ask for logprobs as well.", "top_logprobs")
        conversation, prompt = _conversation(self.messages)
        framing = self.framing or ("document" if side == "base" else "chat")
        comparison = Comparison(
            pair=pair,
            conversation=conversation,
            prompt=prompt,
            sampling=sampling,
            framing_base=framing,
            framing_post=framing,
            today=self.today,
            chat_template_kwargs=self.chat_template_kwargs,
        )
        return [SidePrompt(comparison)]

    def more(self) -> dict[str, Any]:
        return {"logprobs": self.logprobs, "top": self.top_logprobs}


def _conversation(messages: Sequence[ChatMessage]) -> tuple[Conversation, str]:
    """What was said before, and the prompt. Raises Refusal where messages do not take turns."""
    system = messages[0].text if messages[0].role in ("system", "developer") else ""
    said = messages[messages[0].role in ("system", "developer") :]
    roles = [message.role for message in said]
    if roles != ["user", "assistant"] * (len(said) // 2) + ["user"]:
        raise Refusal(
            "messages: after one system message, which may be left out, take turns of user and assistant, the last of them the user's; anything else cannot be honoured here.",
            "messages",
        )
    turns = tuple(_turn(asked.text, answer) for asked, answer in zip(said[:-1:2], said[1::2], strict=True))
    return Conversation(system=system, turns=turns), said[-1].text


def _turn(prompt: str, answer: ChatMessage) -> Turn:
    """One that only the side that is asked will see."""
    told, thought = answer.text, answer.reasoning_content
    return Turn(prompt=prompt, base=told, post=told, reasoning_base=thought, reasoning_post=thought)


def ids(pairs: Sequence[Pair]) -> list[tuple[str, Pair, Side]]:
    """Every checkpoint of every pair, by the id under which it is asked for."""
    return [(f"{pair.id}/{side}", pair, side) for pair in pairs for side in SIDES]


def find(pairs: Sequence[Pair], model: str) -> tuple[str, Side]:
    """The id of a pair and a side of it. Raises Refusal."""
    for id, pair, side in ids(pairs):
        if id == model:
            return pair.id, side
    raise Refusal(
        f"model: there is no {model[:100]!r} here; /v1/models lists those that are, such as {pairs[0].id}/base.", "model", "model_not_found", 404
    )  # fmt: skip


def read(kind: type[V], data: bytes) -> V:
    """The body of a request. A null is a field that is left out.

    Raises:
        Refusal: which names the field.
        UserError: it is no JSON, or too much.
    """
    found = canonical.parse(data, "request", MAX_BODY_BYTES)
    if isinstance(found, dict):
        found = _without_nulls(found)
        found |= {name: _without_nulls(found[name]) for name in ("stream_options",) if name in found}
        if isinstance(found.get("messages"), list):
            found["messages"] = [_without_nulls(each) for each in found["messages"]]
    try:
        return kind.model_validate_json(canonical.text(found), strict=True)
    except ValidationError as error:
        raise refused(error) from None


def _without_nulls(value: Any) -> Any:
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


def refused(error: ValidationError) -> Refusal:
    """The first thing that is wrong, by the name of its field."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:100]
    param = str(first["loc"][0])[:100] if first["loc"] else None
    if first["type"] == "extra_forbidden":
        return Refusal(f"{where}: this server does not honour it; leave it out.", param, "unsupported_parameter")
    if first["type"] == "missing":
        return Refusal(f"{where}: this is needed.", param, "missing_required_parameter")
    at = next((at for at, name in enumerate(first["loc"][:-1]) if name in _SHAPES), None)
    if at is not None and first["type"] != "string_too_long":
        name = first["loc"][at]
        return Refusal(f"{'.'.join(map(str, first['loc'][: at + 1]))}: {_SHAPES[str(name)]}.", param)
    return Refusal(str(explain(error)), param)
