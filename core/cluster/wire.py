"""What crosses between a page server and a replica, as plain data: numbers, texts, lists. Every bit of a float is kept.

It is validated where it arrives, so that what another version of the app says is refused and never misread. Knows no models and no network.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, TypeAdapter

from .. import errors
from ..canonical import dump, sha256
from ..errors import UserError
from ..pairs import Pair
from ..types import Comparison, Dial, Event, LensContext, Request, Side, Token, TokenIds, Value

# --- what is asked of a replica ------------------------------------------------------------------------


class AskCard(Value):
    """What is known of both models."""

    what: Literal["card"] = "card"


class AskWrite(Value):
    """One call for both sides, so that they are in one place: Lease.write."""

    what: Literal["write"] = "write"
    requests: dict[Side, Request]
    dial: Dial | None = None


class AskLens(Value):
    """Lease.read."""

    what: Literal["lens"] = "lens"
    comparison: Comparison
    side: Side
    reply_ids: TokenIds
    context: LensContext


class AskLikeliest(Value):
    """Lease.likeliest."""

    what: Literal["likeliest"] = "likeliest"
    side: Side
    token_ids: TokenIds
    first: int
    count: int


class AskAlternatives(Value):
    """Lease.alternatives."""

    what: Literal["alternatives"] = "alternatives"
    side: Side
    prompt_ids: TokenIds
    continuations: tuple[TokenIds, ...]


class AskLogprobs(Value):
    """Lease.logprobs."""

    what: Literal["logprobs"] = "logprobs"
    side: Side
    prompt_ids: TokenIds
    continuation_ids: TokenIds


class AskEntropies(Value):
    """Lease.entropies."""

    what: Literal["entropies"] = "entropies"
    comparison: Comparison
    side: Side
    token_ids: TokenIds
    weights_sha256: str


class AskAudit(Value):
    """One figure of Lease.audit, by its name."""

    what: Literal["audit"] = "audit"
    side: Side
    figure: Literal["weights_sha256", "gradients", "bytes_per_pass", "bandwidth"]


AnyAsk = AskCard | AskWrite | AskLens | AskLikeliest | AskAlternatives | AskLogprobs | AskEntropies | AskAudit
asks: TypeAdapter[AnyAsk] = TypeAdapter(Annotated[AnyAsk, Field(discriminator="what")])


class Call(NamedTuple):
    """An ask on its way, as plain data.

    `key` names it from then on (`stop`). `place` names its models, `wanted` the fingerprint that must answer; "" is any. `avoid` are replicas
    that were lost under it, or that gave another answer.
    """

    key: str
    pair: dict[str, Any]
    asked: dict[str, Any]
    place: str
    wanted: str = ""
    avoid: tuple[str, ...] = ()


def place_of(pair: Pair) -> str:
    """A short name of two models and their arithmetic, whatever their pair is called."""
    return sha256([pair.base, pair.post, pair.arithmetic])[:16]


def eligible(told: Mapping[str, str | None], wanted: str, avoid: Collection[str]) -> list[list[str]]:
    """Which replicas may be asked: those that have the models first, then those that may load them; none that is known to have another fingerprint.

    Args:
        told: of each replica its fingerprint in this place, None where it has not loaded the models.
    """
    left = {name: found for name, found in told.items() if name not in avoid}
    there = [name for name, found in left.items() if found is not None and wanted in ("", found)]
    may = [name for name, found in left.items() if found is None]
    return [group for group in (there, may) if group]


# --- what a replica says -------------------------------------------------------------------------------

# All in tuples whose first item says which: ("at", replica), ("progress", text, fraction), ("event", side, ...), ("value", data), ("refused", kind, sentence),
# ("foreign", fingerprint), ("end",). Nothing at all is said in an empty batch, but that somebody is there.
Said = tuple[Any, ...]
SaidBatch = Sequence[Said]

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


def packed(side: Side, event: Event) -> Said:
    if isinstance(event, Token):
        return ("event", side, event.step, event.id, event.logprob, event.margin)
    return ("event", side, type(event).__name__, event.model_dump())


def unpacked(said: Said) -> tuple[Side, Event]:
    """The side and the event. Raises ValidationError or KeyError for what is neither."""
    _, side, *rest = said
    if len(rest) == 4:
        step, id, logprob, margin = rest
        return side, Token(step=step, id=id, logprob=logprob, margin=margin)
    name, fields = rest
    return side, _KINDS[name].model_validate(fields)


def refusal(error: UserError) -> Said:
    return ("refused", type(error).__name__, str(error))


def refused(said: Said) -> UserError:
    """The error that a replica told, as it was there where its kind is known."""
    _, name, sentence = said
    kind: Callable[..., UserError] = getattr(errors, name, UserError)
    return kind(sentence)


def plain(ask: AnyAsk) -> dict[str, Any]:
    return ask.model_dump()


def plain_pair(pair: Pair) -> dict[str, Any]:
    return dict(dump(pair))
