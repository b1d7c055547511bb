"""The vocabulary: every value that passes between the parts, frozen and validated.

The same classes validate the page, the command line, the API, links and receipts. This file knows
no tensors, no widgets and no files.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from core.errors import UserError

Side = Literal["base", "post"]
SIDES: tuple[Side, Side] = ("base", "post")

MAX_CHARACTERS = 400_000  # of any one text; the context length is the limit that people meet
MAX_SEED = 2**53 - 1  # what JSON numbers carry exactly, also in a browser

Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Date = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Value(BaseModel):
    """A frozen value that refuses unknown fields, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- what a person asks ---------------------------------------------------------------------


class Message(Value):
    role: Literal["system", "user", "assistant"]
    text: Text


class Turn(Value):
    """One finished exchange: what the person wrote and what each side replied."""

    prompt: Text
    base: Text
    post: Text

    def reply(self, side: Side) -> str:
        return self.base if side == "base" else self.post


class Conversation(Value):
    """The system prompt and every turn before this one. The whole of it is sent again on every turn."""

    system: Text = ""
    turns: tuple[Turn, ...] = ()

    def messages(self, side: Side) -> tuple[Message, ...]:
        """One side's own history: the person's words are shared, the replies are that side's alone."""
        head = (Message(role="system", text=self.system),) if self.system else ()
        body = (
            (Message(role="user", text=turn.prompt), Message(role="assistant", text=turn.reply(side)))
            for turn in self.turns
        )
        return head + tuple(message for pair in body for message in pair)


class Sampling(Value):
    """How one token is drawn from the logits. No field has a hidden default: a model's own generation_config fills nothing in.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 switch the warper off; `temperature` 0 is greedy.
    """

    seed: int = Field(ge=0, le=MAX_SEED)
    temperature: float = Field(ge=0, le=2)
    top_k: int = Field(ge=0, le=1_000_000)
    top_p: float = Field(gt=0, le=1)
    min_p: float = Field(ge=0, le=1)
    repetition_penalty: float = Field(ge=0.1, le=2)
    max_new_tokens: int = Field(ge=1, le=32_768)

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


class Comparison(Value):
    """Everything that can change the two replies. Nothing else is allowed to matter.

    `today` is the date that a chat template may inject (ISO 8601), pinned so that a replay next year
    sends the same tokens.
    """

    pair: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    conversation: Conversation = Conversation()
    prompt: Text
    sampling: Sampling
    framing_base: Framing = "document"
    framing_post: Framing = "chat"
    today: Date

    def framing(self, side: Side) -> Framing:
        return self.framing_base if side == "base" else self.framing_post


# --- what an engine is asked, and what it answers ----------------------------------------------


class Request(Value):
    """All that one engine sees: token ids, how to sample, where to stop. `reuse` allows prefill chunks kept from earlier requests."""

    token_ids: tuple[int, ...] = Field(min_length=1)
    sampling: Sampling
    stop_ids: frozenset[int]
    reuse: bool = True


FinishReason = Literal["eos", "length", "context", "stopped"]


class Queued(Value):
    """Waiting for a slot; `ahead` requests will get one first."""

    ahead: int


class Started(Value):
    """Has a slot and is reading the prompt."""


class Token(Value):
    """One generated token. `step` counts from 0; `logprob` is log-softmax of the unwarped logits (nats).

    `margin` is how far the winner was ahead of the runner-up when it was drawn, noise included (nats
    after warping): how much numeric drift the choice would survive. None when nothing else could be drawn.
    """

    step: int
    id: int
    logprob: float
    margin: float | None


class Usage(Value):
    """What one reply cost. Passes are forward passes of the model; a decode pass serves every slot at once."""

    prompt_tokens: int
    reused_tokens: int
    output_tokens: int
    prefill_passes: int
    decode_passes: int
    seconds_queued: float
    seconds_to_first_token: float  # from the start of reading; queueing not included
    seconds_decoding: float  # from the first token to the last


class Finish(Value):
    reason: FinishReason
    usage: Usage


class Failure(Value):
    message: str


Event = Queued | Started | Token | Finish | Failure


# --- what people see ------------------------------------------------------------------------------

Phase = Literal["idle", "queued", "reading", "writing", "done", "failed"]


class Reply(Value):
    """One side's reply, so far or finished."""

    phase: Phase = "idle"
    ahead: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    margins: tuple[float | None, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    seconds_to_first_token: float | None = None
    tokens_per_second: float | None = None
    error: str | None = None

    @property
    def settled(self) -> bool:
        return self.phase in ("done", "failed")

    @property
    def smallest_margin(self) -> float | None:
        known = [margin for margin in self.margins if margin is not None]
        return min(known, default=None)


class Snapshot(Value):
    """Both replies at one moment."""

    base: Reply
    post: Reply

    def reply(self, side: Side) -> Reply:
        return self.base if side == "base" else self.post

    @property
    def settled(self) -> bool:
        return self.base.settled and self.post.settled


class CheckpointInfo(Value):
    """Where the weights came from: a Hub id and its commit, or the name of a folder. No path of the machine."""

    name: str
    source: str
    revision: str | None
    parameters: int


class EngineInfo(Value):
    """The engine fingerprint: with the same one, and certified, the same request gives the same tokens."""

    sampler: str
    dtype: str
    attention: str
    slots: int
    lane_sizes: tuple[int, ...]
    chunk: int
    threads: int
    device: str
    versions: dict[str, str]
    certified: bool
    certification: str


class SideResult(Value):
    """What was sent to one side, by whom it was answered, and what came back."""

    checkpoint: CheckpointInfo
    weights_sha256: Digest
    engine: EngineInfo
    sampling: Sampling  # as sent: max_new_tokens may be shorter than asked, to fit the context
    prompt_text: str
    prompt_token_ids: tuple[int, ...]
    prompt_sha256: Digest
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float | None, ...]
    finish_reason: FinishReason
    usage: Usage


class Result(Value):
    """A finished comparison."""

    comparison: Comparison
    base: SideResult
    post: SideResult

    def side(self, side: Side) -> SideResult:
        return self.base if side == "base" else self.post


class SideReceipt(Value):
    """One side of a finished comparison, small enough to keep and enough to check a replay against."""

    checkpoint: CheckpointInfo
    weights_sha256: Digest
    engine: EngineInfo
    sampling: Sampling
    prompt_tokens: int
    prompt_sha256: Digest
    token_ids: tuple[int, ...]
    output_sha256: Digest
    finish_reason: FinishReason
    smallest_margin: float | None
    usage: Usage


class Record(Value):
    """A turn as the page keeps it: the inputs that were chosen for it and what came back.

    The history is not repeated in here: it is the records before this one. A side that failed has no
    receipt; its text is what it had written until then.
    """

    turn: Turn
    pair: str
    system: Text
    sampling: Sampling
    framing_base: Framing
    framing_post: Framing
    today: Date
    base: SideReceipt | None
    post: SideReceipt | None

    def comparison(self, before: tuple["Record", ...]) -> Comparison:
        """The comparison that this turn was, given the records before it."""
        conversation = Conversation(system=self.system, turns=tuple(record.turn for record in before))
        return Comparison(
            pair=self.pair,
            conversation=conversation,
            prompt=self.turn.prompt,
            sampling=self.sampling,
            framing_base=self.framing_base,
            framing_post=self.framing_post,
            today=self.today,
        )

    def receipt(self, side: Side) -> SideReceipt | None:
        return self.base if side == "base" else self.post


def explain(error: ValidationError) -> UserError:
    """The first thing that is wrong with a value, as a sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the value"
    reason = first["msg"]
    if first["type"] in ("string_unicode", "string_sub_type"):
        reason = "it holds half of a surrogate pair, which is not text; remove it"
    return UserError(f"{where}: {reason[0].lower()}{reason[1:]}.".replace("..", "."))
