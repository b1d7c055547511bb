"""The vocabulary: every value that passes between the parts, frozen and validated.

The same classes validate the page, the command line, the API, links and receipts. This file knows
no tensors, no widgets and no files.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from .errors import TooLong, UserError

Side = Literal["base", "post"]
SIDES: tuple[Side, Side] = ("base", "post")
SIDE_NAMES: Mapping[Side, str] = MappingProxyType({"base": "base", "post": "post-trained"})  # as people read them


def named(sides: Iterable[Side]) -> str:
    """Sides as a sentence names them: "base and the post-trained"."""
    return " and the ".join(SIDE_NAMES[side] for side in sides)


MAX_CHARACTERS = 400_000  # of any one text; the context length is the limit that people meet
MAX_TURNS = 1_000  # of a conversation
MAX_IN_ALL = 2_000_000  # characters of a conversation: its system prompt and everything in its turns
MAX_TOKENS = 2**18  # of any one list of token ids
MAX_SEED = 2**53 - 1  # what JSON numbers carry exactly, also in a browser


def _in_the_calendar(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError("use a date of the calendar, as 2026-01-31") from None
    return text


def _is_empty(value: Any) -> bool:
    return not value


Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Date = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_in_the_calendar)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A whole number that a stranger may hand over: one that every reader of JSON has exactly, and that can be computed with.
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]


class Value(BaseModel):
    """A frozen value that refuses unknown fields, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def in_common(value: Value, kind: type[Value]) -> dict[str, Any]:
    """The fields of a value that another kind of value has too, by name."""
    return {name: field for name, field in value if name in kind.model_fields}


class Renamed(Value):
    """A value with a field that is called otherwise in JSON than here: its published name stays."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


# --- what a person asks ---------------------------------------------------------------------


class Message(Value):
    role: Literal["system", "user", "assistant"]
    text: Text
    reasoning: Text = ""


class Turn(Value):
    """One finished exchange: what the person wrote and what each side replied, its reasoning apart where the template marks it."""

    prompt: Text
    base: Text
    post: Text
    reasoning_base: Text = Field(default="", exclude_if=_is_empty)
    reasoning_post: Text = Field(default="", exclude_if=_is_empty)

    @classmethod
    def of(cls, prompt: str, base: "Reply | SideResult", post: "Reply | SideResult") -> "Turn":
        """A prompt and what each side replied to it."""
        return cls(
            prompt=prompt,
            base=base.text,
            post=post.text,
            reasoning_base=base.reasoning,
            reasoning_post=post.reasoning,
        )

    def reply(self, side: Side) -> str:
        """The answer alone."""
        return self.base if side == "base" else self.post

    def reasoning(self, side: Side) -> str:
        return self.reasoning_base if side == "base" else self.reasoning_post

    @property
    def characters(self) -> int:
        return sum(map(len, (self.prompt, self.base, self.post, self.reasoning_base, self.reasoning_post)))

    def message(self, side: Side) -> Message:
        return Message(role="assistant", text=self.reply(side), reasoning=self.reasoning(side))


class _TooManyCharacters(ValueError): ...


class Conversation(Value):
    """The system prompt and every turn before this one. The whole of it is sent again on every turn.

    At most MAX_TURNS turns and MAX_IN_ALL characters, wherever it comes from.
    """

    system: Text = ""
    turns: Annotated[tuple[Turn, ...], FailFast(), Field(max_length=MAX_TURNS)] = ()

    @model_validator(mode="after")
    def _not_too_long(self) -> "Conversation":
        if self.characters > MAX_IN_ALL:
            raise _TooManyCharacters(
                f"it has {self.characters:,} characters, and at most {MAX_IN_ALL:,} fit; start a new chat"
            )
        return self

    @property
    def characters(self) -> int:
        return len(self.system) + sum(turn.characters for turn in self.turns)

    def messages(self, side: Side) -> tuple[Message, ...]:
        """One side's own history: the person's words are shared, the replies are that side's alone."""
        head = (Message(role="system", text=self.system),) if self.system else ()
        body = ((Message(role="user", text=turn.prompt), turn.message(side)) for turn in self.turns)
        return head + tuple(message for pair in body for message in pair)


SAMPLER_VERSION = "v1"  # of the rule by which tokens are drawn (core/engine/sampling.py)


class Sampling(Value):
    """How one token is drawn from the logits. No field has a hidden default: a model's own generation_config fills nothing in.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 switch the warper off; `temperature` 0 is greedy.
    """

    seed: int = Field(ge=0, le=MAX_SEED, description="of the noise that both models draw their tokens with")
    temperature: float = Field(ge=0, le=2, description="0 takes the likeliest token every time")
    top_k: int = Field(ge=0, le=1_000_000, description="draw among so many of the likeliest tokens; 0 switches it off")
    top_p: float = Field(
        gt=0, le=1, description="draw among the likeliest tokens that together have this probability; 1 switches it off"
    )
    min_p: float = Field(
        ge=0,
        le=1,
        description="draw among tokens with at least this share of the likeliest one's probability; 0 switches it off",
    )
    repetition_penalty: float = Field(ge=0.1, le=2, description="of tokens that are there already; 1 switches it off")
    max_new_tokens: int = Field(ge=1, le=32_768, description="longest reply, in tokens")

    @field_validator("temperature")
    @classmethod
    def _zero_or_sensible(cls, value: float) -> float:
        if 0 < value < 0.01:
            raise ValueError("use 0 (greedy) or at least 0.01")
        return value


DEFAULT_SAMPLING = Sampling(
    seed=1234, temperature=0.7, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, max_new_tokens=200
)

# How a conversation becomes tokens: the tokenizer's chat template, "User: ... / Assistant:" in plain
# text, or the bare text with turns joined by blank lines.
Framing = Literal["chat", "transcript", "document"]
FRAMINGS: tuple[Framing, ...] = ("chat", "transcript", "document")


# What a chat template is told beside the messages, by the names that it reads (`enable_thinking`, `reasoning_effort`).
Switch = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Switches = Annotated[
    dict[Switch, bool | int | float | Annotated[str, StringConstraints(max_length=200)]], Field(max_length=20)
]


TokenId = Annotated[int, Field(ge=0, lt=2**32)]  # what the library tokenizers can hold
# A million bad entries are one mistake.
TokenIds = Annotated[tuple[TokenId, ...], FailFast(), Field(max_length=MAX_TOKENS)]
Margins = Annotated[tuple[float | None, ...], FailFast(), Field(max_length=MAX_TOKENS)]

MAX_STOPS = 16
StopString = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Dial(Value):
    """How much of the post-training the post-trained side wears: 0 is the base model, 1 the post-trained one, more is too much.

    In the space of "logits" both models write in lock-step and each token is drawn from
    l_base + amount (l_post - l_base), as in proxy tuning (arXiv 2401.08565, section 2). In the space of
    "weights" one model is made of W_base + amount (W_post - W_base) (arXiv 2109.01903, section 2; 2212.04089).
    """

    amount: float = Field(ge=0, le=1.5)
    space: Literal["logits", "weights"] = "logits"


class Comparison(Value):
    """Everything that can change the two replies. Nothing else is allowed to matter.

    `today` is the date that a chat template may inject (ISO 8601), pinned so that a replay next year
    sends the same tokens. `prefill_base` and `prefill_post` are token ids with which a side's reply
    begins; that side goes on from there, under the noise of the steps that follow. `dial` turns the
    post-trained side towards the base or beyond itself. `chat_template_kwargs` are the switches that a chat
    template is given; a side that is not framed by one does not see them.
    """

    pair: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    conversation: Conversation = Conversation()
    prompt: Text
    sampling: Sampling
    framing_base: Framing = "document"
    framing_post: Framing = "chat"
    today: Date
    prefill_base: TokenIds = ()
    prefill_post: TokenIds = ()
    dial: Dial | None = None
    chat_template_kwargs: Switches = Field(default={}, exclude_if=_is_empty)

    @classmethod
    def of(cls, pair: str, prompt: str, *, system: str = "", today: str | None = None, **settings: Any) -> "Comparison":
        """A comparison in which only the pair and the prompt must be said: sampling is DEFAULT_SAMPLING, and the date is today's.

        Args:
            settings: other fields, those of `sampling` by their own names: `seed=7, framing_base="transcript"`.

        Raises:
            UserError: a field is unknown or cannot be what it is.
        """
        sampling = {name: settings.pop(name) for name in list(settings) if name in Sampling.model_fields}
        given = {"pair": pair, "prompt": prompt, "today": today or date.today().isoformat(), **settings}
        if system:
            given["conversation"] = {"system": system}
        try:
            return cls.model_validate({**given, "sampling": {**dict(DEFAULT_SAMPLING), **sampling}})
        except ValidationError as error:
            raise explain(error) from None

    @property
    def characters(self) -> int:
        """Of all its texts."""
        return self.conversation.characters + len(self.prompt)

    def framing(self, side: Side) -> Framing:
        return self.framing_base if side == "base" else self.framing_post

    def prefill(self, side: Side) -> TokenIds:
        return self.prefill_base if side == "base" else self.prefill_post


# --- what an engine is asked, and what it answers ----------------------------------------------


class Request(Value):
    """All that one engine sees: token ids, how to sample, where to stop. `reuse` allows prefill chunks kept from earlier requests.

    The last `prefilled` token ids are the beginning of the reply: the steps, and with them the noise,
    are counted from the first of them. `max_new_tokens` counts what is drawn.

    `expected` are the tokens that an earlier run drew; a DrawDivergence is reported wherever another one is
    drawn. They change nothing that is drawn. `reading` is for portable arithmetic, where reading them tells what writing would: "only" they
    are looked at, or ("on") what they are not is written behind them.

    One that `gives_way` runs while no other request waits for its slot; else it is begun again later, with another Started.
    """

    token_ids: tuple[int, ...] = Field(min_length=1)
    sampling: Sampling
    stop_ids: frozenset[int]
    reuse: bool = True
    prefilled: int = Field(default=0, ge=0)
    expected: tuple[int, ...] = ()
    reading: Literal["", "only", "on"] = ""
    gives_way: bool = False


class Deviation(Value):
    """How far the engine's log-probabilities were from those of the model itself when it was loaded.

    In nats: the largest difference of any log-probability, at the `token`-th of the tokens that were checked,
    and the bound, which is a multiple of what the dtype itself moves this model.
    """

    nats: float
    bound: float
    token: Whole

    def __str__(self) -> str:
        return f"log-probabilities within {self.nats:.2g} nats of a plain forward pass (bound {self.bound:.2g})"

    @property
    def within(self) -> bool:
        return self.nats <= self.bound


class EngineInfo(Value):
    """The engine fingerprint: with the same one, and certified, the same request gives the same tokens."""

    sampler: str
    dtype: str
    attention: str
    slots: Whole
    lane_sizes: tuple[Whole, ...]
    chunk: Whole
    threads: Whole
    device: str
    versions: dict[str, str]
    certified: bool
    certification: str
    # None where it was not measured, as in what was written before it was: there it is no field either.
    deviation: Deviation | None = Field(default=None, exclude_if=lambda measured: measured is None)
    # Whose logarithms the draw has: those of the machine's libraries, as before 0.2, or the same everywhere.
    draw: Literal["libm", "exact"] = Field(default="libm", exclude_if=lambda whose: whose == "libm")
    # "fast", or the version of the portable arithmetic with a digest of all that its forward pass reads.
    arithmetic: str = Field(default="fast", exclude_if=lambda which: which == "fast")
    computed_sha256: str | None = Field(default=None, exclude_if=lambda digest: digest is None)

    @property
    def is_portable(self) -> bool:
        """Whether its bits are the same on every machine."""
        return self.arithmetic != "fast"

    @property
    def deciding(self) -> tuple[str, ...]:
        """The names of what decides the bits: in portable arithmetic that, the model and the rule of the draw alone; else all but what was measured."""
        if self.is_portable:
            return ("sampler", "draw", "arithmetic", "computed_sha256")
        return tuple(name for name in type(self).model_fields if name != "deviation")

    def computes_as(self, other: "EngineInfo") -> bool:
        """Whether the same request gives the same tokens from both where nobody else is served."""
        return all(getattr(self, name) == getattr(other, name) for name in self.deciding)

    def same_bits(self, other: "EngineInfo") -> bool:
        """Whether it does whoever else is served: in fast arithmetic that hangs on the certification, too."""
        return self.computes_as(other) and (self.is_portable or self.certified)

    def texts(self) -> dict[str, str]:
        """What it says, by the names that people read. How it was checked is told in other words, so it is left out."""
        plain = {
            name.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in self
            if name not in ("versions", "certification", "deviation") and value is not None
        }
        return plain | self.versions


FinishReason = Literal["eos", "length", "context", "stopped"]


class Queued(Value):
    """Waiting for a slot; `ahead` requests will get one first, None where the whole machine is waited for."""

    ahead: int | None


class Started(Value):
    """Has a slot and is reading the prompt."""


class WrittenBy(Value):
    """Another engine writes the reply than the one that was asked, and this is its fingerprint."""

    engine: EngineInfo


class Token(Value):
    """One generated token. `step` counts from 0, a prefilled beginning included; `logprob` is log-softmax of the unwarped logits (nats).

    `margin` is how far the winner was ahead of the runner-up when it was drawn, noise included (nats
    after warping): how much numeric drift the choice would survive. None when nothing else could be drawn.
    """

    step: int
    id: int
    logprob: float
    margin: float | None


class DrawDivergence(Value):
    """A step at which the token drawn is not the expected one, and how close that was.

    `step` counts drawn tokens, without a prefilled beginning. Logits are as the model gave them, before any warping; None is not finite or
    not in the vocabulary. `behind` is how far the expected token was
    behind the drawn one when it was drawn (nats after warping, noise included); None when a warper had
    ruled it out.
    """

    step: int
    drawn: int
    expected: int
    drawn_logit: float | None
    expected_logit: float | None
    behind: float | None


class Usage(Value):
    """What one reply cost. Passes are forward passes of the model; a decode pass serves every slot at once."""

    prompt_tokens: Whole
    reused_tokens: Whole
    output_tokens: Whole
    prefill_passes: Whole
    decode_passes: Whole
    seconds_queued: float
    seconds_to_first_token: float  # from the start of reading; queueing not included
    seconds_decoding: float  # from the first token to the last

    @classmethod
    def of_nothing(cls, prompt_tokens: int) -> Self:
        """Of a request that ends before anything was computed."""
        nothing = dict.fromkeys(("reused_tokens", "output_tokens", "prefill_passes", "decode_passes"), 0)
        seconds = dict.fromkeys(("seconds_queued", "seconds_to_first_token", "seconds_decoding"), 0.0)
        return cls.model_validate({"prompt_tokens": prompt_tokens, **nothing, **seconds})


class Finish(Value):
    reason: FinishReason
    usage: Usage


class Failure(Value):
    message: str


Event = Queued | Started | WrittenBy | Token | DrawDivergence | Finish | Failure


# --- what people see ------------------------------------------------------------------------------

Phase = Literal["idle", "queued", "reading", "writing", "done", "failed"]


class Reply(Value):
    """One side's reply, so far or finished: `text` is the answer, `reasoning` what the template marks as thought before it.

    `written` is all of it as one text, marks that are text included. The first `reasoning_tokens` of `token_ids` are the reasoning with its marks.
    """

    phase: Phase = "idle"
    ahead: int | None = 0
    text: str = ""
    reasoning: str = ""
    reasoning_tokens: int = 0
    written: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    margins: tuple[float | None, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    seconds_to_first_token: float | None = None
    tokens_per_second: float | None = None
    error: str | None = None


class Snapshot(Value):
    """Both replies at one moment."""

    base: Reply
    post: Reply

    def reply(self, side: Side) -> Reply:
        return self.base if side == "base" else self.post


class CheckpointInfo(Value):
    """Where the weights came from: a Hub id and its commit, or the name of a folder or a file. No path of the machine.

    `left_out` names what is beside the model's text there and was not loaded, such as the tower that reads pictures.
    `quantization` says how the weights were stored where that is not as the numbers that they are: "GGUF Q4_K, Q6_K, F32", "fp8".
    """

    name: str
    source: str
    revision: str | None
    parameters: Whole
    left_out: tuple[str, ...] = Field(default=(), exclude_if=_is_empty)
    quantization: str = Field(default="", exclude_if=_is_empty)


class SideResult(Value):
    """What was sent to one side, by whom it was answered, and what came back.

    A prefilled beginning of the reply was sent, so it is at the end of the prompt's token ids;
    `token_ids` are those that were drawn, the first `reasoning_tokens` of them the reasoning with its marks.
    `text` is the whole answer, `reasoning` what was thought before it, where the chat template marks that.
    """

    checkpoint: CheckpointInfo
    weights_sha256: Digest
    engine: EngineInfo
    sampling: Sampling  # as sent: max_new_tokens may be shorter than asked, to fit the context
    prompt_text: str
    prompt_token_ids: tuple[int, ...]
    prompt_sha256: Digest
    text: str
    reasoning: str = Field(default="", exclude_if=_is_empty)
    reasoning_tokens: Whole = Field(default=0, exclude_if=_is_empty)
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float | None, ...]
    finish_reason: FinishReason
    usage: Usage

    @property
    def whole(self) -> str:
        """Reasoning and answer, where there is one text for both."""
        return "\n\n".join(filter(None, (self.reasoning.strip(), self.text)))


class Result(Value):
    """A finished comparison."""

    comparison: Comparison
    base: SideResult
    post: SideResult

    def side(self, side: Side) -> SideResult:
        return self.base if side == "base" else self.post


class SideReceipt(Value):
    """One side of a finished comparison, small enough to keep and enough to check a replay against.

    `sampling` is as sent: max_new_tokens may be shorter than asked, to fit the context. `margins` has one
    entry for each token, or none at all where a conversation was kept before margins were. The first
    `reasoning_tokens` of `token_ids` are reasoning.
    """

    checkpoint: CheckpointInfo
    weights_sha256: Digest
    engine: EngineInfo
    sampling: Sampling
    prompt_tokens: Whole
    prompt_sha256: Digest
    token_ids: TokenIds
    output_sha256: Digest
    reasoning_tokens: Whole = Field(default=0, exclude_if=_is_empty)
    finish_reason: FinishReason
    smallest_margin: float | None
    margins: Margins = ()
    usage: Usage


class Receipt(Value):
    """A finished comparison that anyone can check: what was asked, who answered, and the tokens of both replies.

    `seals` holds a short digest of every field by its path, so that a change can be named; `sha256` is
    over everything else in here (see core/receipts.py).
    """

    schema_version: Literal[1]
    app_version: str
    comparison: Comparison
    base: SideReceipt
    post: SideReceipt
    seals: dict[str, str]
    sha256: Digest

    sides: ClassVar[tuple[Side, ...]] = SIDES
    prompt_ids: ClassVar[TokenIds] = ()
    stops: ClassVar[tuple[StopString, ...]] = ()

    def side(self, side: Side) -> SideReceipt:
        return self.base if side == "base" else self.post

    @property
    def engines(self) -> dict[Side, EngineInfo]:
        return {"base": self.base.engine, "post": self.post.engine}


class OneSidedReceipt(Value):
    """A reply of one side (`writer`) that was asked alone, as programs ask: its half of the comparison was sent, or `prompt_ids` as they are,
    and then the comparison's prompt is empty.

    A reply ends at the token that completes one of the stop strings, with "stopped" for its `finish_reason`. `seals` and `sha256` are as in a Receipt.
    """

    schema_version: Literal[2]
    app_version: str
    writer: Side
    comparison: Comparison
    prompt_ids: TokenIds = Field(default=(), exclude_if=_is_empty)
    stops: tuple[StopString, ...] = Field(default=(), max_length=MAX_STOPS, exclude_if=_is_empty)
    reply: SideReceipt
    seals: dict[str, str]
    sha256: Digest

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.writer,)

    def side(self, side: Side) -> SideReceipt:
        assert side == self.writer, "the other side was not asked"
        return self.reply

    @property
    def engines(self) -> dict[Side, EngineInfo]:
        return {self.writer: self.reply.engine}


AnyReceipt = Receipt | OneSidedReceipt


class Answer(Result):
    """A finished comparison with its receipt, as the command line and the API give it."""

    receipt: Receipt


# --- checking a receipt ----------------------------------------------------------------------------

Outcome = Literal["identical", "diverged", "not replayable"]


class Choice(Value):
    """What was written at the step where two runs diverge: a token and its raw logit here. No id: the reply had ended."""

    id: int | None
    text: str
    logit: float | None


class Divergence(Value):
    """The first step at which a replay differs from its receipt.

    `recorded_margin` is how far the recorded token was ahead when it was recorded, `replayed_margin` how
    far the replayed one was ahead of the recorded one here. `shift`, their sum, is how far the two runs'
    numbers must have moved against each other; it is held against `allowance`, what different hardware or
    libraries may do in this arithmetic (see core/verdict.py). All in nats after warping; None is unknown.
    """

    step: int
    recorded: Choice
    replayed: Choice
    recorded_margin: float | None
    replayed_margin: float | None
    shift: float | None
    allowance: float
    within_drift: bool | None


class SideVerdict(Value):
    """One side of a replay. `drift` is the largest change of a margin over the tokens that agree (nats); 0 is bit for bit."""

    tokens: int
    drift: float | None
    divergence: Divergence | None


class Verdict(Value):
    """Whether a receipt replays here. `reasons` say why it cannot; `warnings` what differs but need not matter."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    base: SideVerdict | None = None
    post: SideVerdict | None = None
    # Whether both runs were in the same portable arithmetic, on the same numbers.
    portable: bool = Field(default=False, exclude_if=lambda portable: not portable)

    def side(self, side: Side) -> SideVerdict | None:
        return self.base if side == "base" else self.post


# --- what the page keeps ----------------------------------------------------------------------------

Mark = Literal["base", "post", "tie", "neither"]  # which reply of a turn the person found better


class Record(Value):
    """A turn as the page keeps it: the inputs that were chosen for it and what came back.

    The history is not repeated in here: it is the records before this one. A side that failed has no
    receipt; its text is what it had written until then. A turn that came with a link has none either:
    its texts are known, how they were made is not. `blind` is the side that stood first, where the models were not
    named until one reply was marked.
    """

    turn: Turn
    pair: str
    system: Text
    sampling: Sampling
    framing_base: Framing
    framing_post: Framing
    today: Date
    prefill_base: TokenIds = ()
    prefill_post: TokenIds = ()
    dial: Dial | None = None
    chat_template_kwargs: Switches = Field(default={}, exclude_if=_is_empty)
    base: SideReceipt | None
    post: SideReceipt | None
    mark: Mark | None = None
    blind: Side | None = Field(default=None, exclude_if=lambda first: first is None)

    @classmethod
    def of(cls, comparison: Comparison, turn: Turn, base: SideReceipt | None, post: SideReceipt | None) -> "Record":
        """What is kept of a comparison: its inputs, without the history."""
        return cls(turn=turn, system=comparison.conversation.system, base=base, post=post, **in_common(comparison, cls))

    def comparison(self, before: tuple["Record", ...]) -> Comparison:
        """The comparison that this turn was, given the records before it. Raises TooLong where these are more than a conversation holds."""
        try:
            conversation = Conversation(system=self.system, turns=tuple(record.turn for record in before))
        except ValidationError as error:
            raise explain(error) from None
        return Comparison(conversation=conversation, prompt=self.turn.prompt, **in_common(self, Comparison))

    def receipt(self, side: Side) -> SideReceipt | None:
        return self.base if side == "base" else self.post

    @property
    def hidden(self) -> bool:
        """Whether the models are still not named."""
        return self.blind is not None and self.mark is None


Chat = tuple[Record, ...]  # the finished turns of a conversation, as the page keeps them


# --- the token lens ---------------------------------------------------------------------------------

# Against which prompt the sibling scores a reply: the very token ids that its writer was sent, so that
# only the weights differ, or the sibling's own framing of the same conversation.
LensContext = Literal["identical", "own"]
ShiftClass = Literal["unshifted", "marginal", "shifted"]
SHIFT_CLASSES: tuple[ShiftClass, ...] = ("unshifted", "marginal", "shifted")


class LensChoice(Value):
    """Which reply of a comparison is looked at, and what the sibling reads."""

    side: Side
    context: LensContext


class Candidate(Value):
    """A token that could come next. `logprob` is log-softmax of the unwarped logits (nats)."""

    id: int
    text: str
    logprob: float


class Shift(Value):
    """One token of a reply under both models, given everything before it.

    Ranks count from 1, the model's first choice; `first_choice_rank` is the rank under the sibling of the
    token that the writer finds likeliest here, whether or not it was drawn. `kl` is KL(post || base) and `js` the Jensen-Shannon
    divergence of the two distributions over the whole vocabulary, in nats. `drawn_base` and
    `drawn_post` are what each would draw here with the reply's own settings and noise, and `agreement`
    is the probability that two such draws are equal when both get the same noise (common random numbers).
    """

    step: int
    id: int
    text: str
    rank_base: int
    rank_post: int
    first_choice_rank: int
    logprob_base: float
    logprob_post: float
    kl: float
    js: float
    agreement: float
    drawn_base: Candidate
    drawn_post: Candidate
    top_base: tuple[Candidate, ...]
    top_post: tuple[Candidate, ...]

    @property
    def log_ratio(self) -> float:
        """By how many nats post-training raised this token."""
        return self.logprob_post - self.logprob_base

    @property
    def agreed(self) -> bool:
        """Both models draw the same token here."""
        return self.drawn_base.id == self.drawn_post.id

    @property
    def shift_class(self) -> ShiftClass:
        """What the sibling thinks of the writer's first choice: its own, its second or third, or beyond (arXiv 2312.01552, section 2).

        The paper reads greedy replies. A token that was drawn from the tail is unlikely for both models
        and says nothing about what training changed, so it is the first choice that counts at every temperature.
        """
        rank = self.first_choice_rank
        return "unshifted" if rank == 1 else "marginal" if rank <= 3 else "shifted"


class Shares(Value):
    """How many tokens of a reply are of each class, as shares of 1."""

    unshifted: float
    marginal: float
    shifted: float


class Summary(Renamed):
    """What a lens says about a whole reply. KL and JS in nats; `mean_kl_first_5` is over its first five tokens.

    `expected_agreement` is the share of tokens on which the models should agree under common random numbers,
    from the distributions alone, and `observed_agreement` the share on which they do under this reply's noise.
    At `first_divergence` the sibling would first have written something else; None: nowhere.
    """

    tokens: int
    shares: Shares
    mean_kl: float
    mean_kl_first_5: float
    mean_js: float
    expected_agreement: float
    observed_agreement: float
    first_divergence: int | None = Field(validation_alias="first_parting", serialization_alias="first_parting")


class Lens(Value):
    """A finished reply of `side`, token by token, under its writer and under its sibling."""

    side: Side
    context: LensContext
    shifts: tuple[Shift, ...]

    def summary(self) -> Summary:
        """What the tokens say together. All zero for a reply without tokens."""
        classes = [shift.shift_class for shift in self.shifts]
        return Summary(
            tokens=len(self.shifts),
            shares=Shares.model_validate({name: _mean([each == name for each in classes]) for name in SHIFT_CLASSES}),
            mean_kl=_mean([shift.kl for shift in self.shifts]),
            mean_kl_first_5=_mean([shift.kl for shift in self.shifts[:5]]),
            mean_js=_mean([shift.js for shift in self.shifts]),
            expected_agreement=_mean([shift.agreement for shift in self.shifts]),
            observed_agreement=_mean([shift.agreed for shift in self.shifts]),
            first_divergence=next((shift.step for shift in self.shifts if not shift.agreed), None),
        )


class LensReport(Value):
    """A lens with the comparison that it belongs to: enough to make it again."""

    comparison: Comparison
    summary: Summary
    lens: Lens


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def explain(error: ValidationError) -> UserError:
    """The first thing that is wrong with a value, as a sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the value"  # a field's name may be a stranger's
    reason, turns = first["msg"].removeprefix("Value error, "), where.endswith("turns")
    if first["type"] == "int_from_float":
        reason = "use a whole number"
    if first["type"] == "too_long":
        reason = f"there are more than {first['ctx']['max_length']:,}; {'start a new chat' if turns else 'use fewer'}"
    if first["type"] in ("string_unicode", "string_sub_type"):
        reason = "it holds half of a surrogate pair, which is not text; remove it"
    characters = isinstance(first.get("ctx", {}).get("error"), _TooManyCharacters)
    too_long = characters or (first["type"] == "too_long" and turns)
    kind = TooLong if too_long else UserError
    return kind(f"{where[:100]}: {reason[0].lower()}{reason[1:]}.".replace("..", "."))
