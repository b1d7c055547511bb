"""Why did it change? Two receipts side by side: the inputs that differ, and where each side's replies first diverge.

If no input differs the outputs must be equal; when they are not, that is a contradiction, and it is said.
No model is run. This file knows receipts, not how they are shown.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field

from . import prompts
from .errors import UserError
from .receipts import engine_changes
from .types import SIDE_NAMES, SIDES, AnyReceipt, Comparison, Renamed, Side, SideReceipt, Turn, Value

if TYPE_CHECKING:
    from .pool import Pool

_V = TypeVar("_V")

MAX_WORD_PAIRS = 1_000_000  # beyond, a text counts as rewritten as a whole: comparing word by word takes too long
CONTEXT_CHARACTERS = 60  # of an unchanged stretch that are shown beside a change

Kind = Literal["same", "removed", "added"]


class Stretch(Value):
    """A stretch of text that both have, that only the first has, or that only the second has."""

    kind: Kind
    text: str


class InputDifference(Value):
    """One input that is not the same. `stretches` is a word-by-word diff where the input is a text of some length."""

    name: str
    first: str
    second: str
    stretches: tuple[Stretch, ...] = ()


class ReplyDivergence(Value):
    """The first step at which one side's two replies differ; an id is None where that reply had ended.

    The tokens as text are None where they are not known: a receipt holds ids, and the tokenizer is not here.
    """

    side: Side
    step: int
    first_id: int | None
    second_id: int | None
    first_text: str | None = Field(default=None, exclude_if=lambda text: text is None)
    second_text: str | None = Field(default=None, exclude_if=lambda text: text is None)
    first_margin: float | None
    second_margin: float | None


class Difference(Renamed):
    """`sent` is a diff of the whole texts that were sent, by side, where both could be rebuilt and they differ.

    `unexplained`: an output differs although no input does.
    """

    inputs: tuple[InputDifference, ...]
    sent: dict[Side, tuple[Stretch, ...]]
    divergences: tuple[ReplyDivergence, ...] = Field(validation_alias="partings", serialization_alias="partings")
    unexplained: bool


@dataclass(frozen=True)
class Detokenized:
    """What the tokenizers of a receipt's pair tell of it: the whole text that was sent to each side, and a token of a
    side as text. Both are missing where they are not here."""

    texts: Mapping[Side, str] = field(default_factory=dict)
    token: Callable[[Side, int], str | None] = lambda side, id: None

    @classmethod
    def of(cls, receipt: AnyReceipt, tokenizers: Mapping[Side, prompts.Tokenizer]) -> "Detokenized":
        """Raises UserError when these cannot be asked this."""
        sides = () if receipt.prompt_ids else receipt.sides
        texts = prompts.texts(receipt.comparison, sides, tokenizers)
        return cls(texts, lambda side, id: prompts.token_text(tokenizers[side], id))


UNKNOWN = Detokenized()


def detokenized(pool: "Pool", receipt: AnyReceipt) -> Detokenized:
    """What the tokenizers of a receipt's pair tell of it, where they are in memory."""
    lease = pool.peek(receipt.comparison.pair) if receipt.comparison.pair in {pair.id for pair in pool.pairs} else None
    if lease is None:
        return UNKNOWN
    with lease:
        try:
            return Detokenized.of(receipt, {side: lease.side(side).tokenizer for side in SIDES})
        except UserError:  # a conversation that this pair cannot be asked: then its parts are compared
            return UNKNOWN


def difference(
    first: AnyReceipt, second: AnyReceipt, read: tuple[Detokenized, Detokenized] = (UNKNOWN, UNKNOWN)
) -> Difference:
    """What differs between two receipts, on the sides that both are of.

    Raises:
        UserError: there is no such side.
    """
    sides = [side for side in first.sides if side in second.sides]
    if not sides:
        raise UserError("One of these receipts is of the base side alone and the other of the post-trained one; choose two of one side.")  # fmt: skip
    inputs = tuple(_inputs(first, second, sides))
    divergences = tuple(found for side in sides if (found := _divergence(first, second, side, read)))
    a, b = (each.texts for each in read)
    sent = {
        side: tuple(stretches(a[side], b[side])) for side in SIDES if side in a and side in b and a[side] != b[side]
    }
    return Difference(inputs=inputs, sent=sent, divergences=divergences, unexplained=bool(divergences) and not inputs)


# --- inputs ------------------------------------------------------------------------------------------


def _inputs(first: AnyReceipt, second: AnyReceipt, sides: Sequence[Side]) -> Iterator[InputDifference]:
    for side in sides:
        a, b = first.side(side), second.side(side)
        if a.weights_sha256 != b.weights_sha256:
            yield from _plain(f"weights ({SIDE_NAMES[side]})", _weights(a), _weights(b))
    yield from _comparison(first.comparison, second.comparison, sides)
    yield from _plain("stop strings", list(first.stops), list(second.stops))
    yield from _engines(first, second)
    yield from _sent(first, second, sides)


def _plain(name: str, first: object, second: object) -> Iterator[InputDifference]:
    if first != second:
        yield InputDifference(name=name, first=str(first), second=str(second))


def _text(name: str, first: str, second: str) -> Iterator[InputDifference]:
    if first != second:
        yield InputDifference(name=name, first=first, second=second, stretches=tuple(stretches(first, second)))


def _weights(side: SideReceipt) -> str:
    return f"{side.checkpoint.name}, {side.weights_sha256[:16]}"


_OWN_WORDS = {"conversation", "prompt", "sampling"}  # fields of a comparison that are told apart below


def _comparison(first: Comparison, second: Comparison, sides: Sequence[Side]) -> Iterator[InputDifference]:
    yield from _text("system prompt", first.conversation.system, second.conversation.system)
    yield from _history(first.conversation.turns, second.conversation.turns, sides)
    yield from _text("prompt", first.prompt, second.prompt)
    for name, value in first.sampling:
        yield from _plain(name.replace("_", " "), value, getattr(second.sampling, name))
    for name, value in first:
        if name not in _OWN_WORDS and not (name.endswith(("_base", "_post")) and name[-4:] not in sides):
            yield from _plain(_FIELD_NAMES.get(name, name.replace("_", " ")), value, getattr(second, name))


_FIELD_NAMES = {"framing_base": "framing (base)", "framing_post": "framing (post-trained)", "today": "date"}


def _history(first: tuple[Turn, ...], second: tuple[Turn, ...], sides: Sequence[Side]) -> Iterator[InputDifference]:
    for number, (a, b) in enumerate(zip(first, second, strict=False), 1):
        yield from _text(f"history, turn {number}, prompt", a.prompt, b.prompt)
        for side in sides:
            yield from _text(f"history, turn {number}, {SIDE_NAMES[side]} reply", a.reply(side), b.reply(side))
    yield from _plain("history, number of turns", len(first), len(second))


def _engines(first: AnyReceipt, second: AnyReceipt) -> Iterator[InputDifference]:
    """What differs between the engine fingerprints; a change that both sides share is told once."""
    for (name, before, after), sides in engine_changes(first.engines, second.engines).items():
        where = " and ".join(SIDE_NAMES[side] for side in sides)
        yield InputDifference(name=f"engine ({where}), {name}", first=before or "none", second=after or "none")


def _sent(first: AnyReceipt, second: AnyReceipt, sides: Sequence[Side]) -> Iterator[InputDifference]:
    """Token ids or limits that differ although everything they are made of is the same: another tokenizer, template or context; or ids that were given."""
    for side in sides:
        a, b = first.side(side), second.side(side)
        same_words = first.comparison == second.comparison
        if same_words and a.prompt_sha256 != b.prompt_sha256:
            yield InputDifference(
                name=f"token ids sent ({SIDE_NAMES[side]})",
                first=f"{a.prompt_tokens} tokens, {a.prompt_sha256[:16]}",
                second=f"{b.prompt_tokens} tokens, {b.prompt_sha256[:16]}",
            )
        if same_words:
            yield from _plain(
                f"max new tokens as sent ({SIDE_NAMES[side]})", a.sampling.max_new_tokens, b.sampling.max_new_tokens
            )
        if "stopped" in (a.finish_reason, b.finish_reason):
            yield from _plain(f"Stop ({SIDE_NAMES[side]})", a.finish_reason, b.finish_reason)


# --- outputs -----------------------------------------------------------------------------------------


def first_divergence(first: Sequence[int], second: Sequence[int]) -> int | None:
    """The first step at which two replies differ, None when they are the same. One that ends earlier differs where it ends."""
    same = _common(first, second)
    return None if same == len(first) == len(second) else same


def _divergence(
    first: AnyReceipt, second: AnyReceipt, side: Side, read: tuple[Detokenized, Detokenized]
) -> ReplyDivergence | None:
    a, b = first.side(side), second.side(side)
    step = first_divergence(a.token_ids, b.token_ids)
    if step is None:
        return None
    ids = _at(a.token_ids, step), _at(b.token_ids, step)
    texts = [None if id is None else each.token(side, id) for id, each in zip(ids, read, strict=True)]
    return ReplyDivergence(
        side=side,
        step=step,
        first_id=ids[0],
        second_id=ids[1],
        first_text=texts[0],
        second_text=texts[1],
        first_margin=_at(a.margins, step),
        second_margin=_at(b.margins, step),
    )


def _at(values: tuple[_V, ...], index: int) -> _V | None:
    return values[index] if index < len(values) else None


# --- texts -------------------------------------------------------------------------------------------

_WORDS = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")


def stretches(first: str, second: str) -> Iterator[Stretch]:
    """A word-by-word diff of two texts. Joined, what is not "added" is the first text and what is not "removed" the second."""
    a, b = _WORDS.findall(first), _WORDS.findall(second)
    head = _common(a, b)
    tail = _common(a[head:][::-1], b[head:][::-1])
    middle_a, middle_b = a[head : len(a) - tail], b[head : len(b) - tail]
    yield from _stretch("same", a[:head])
    if len(middle_a) * len(middle_b) > MAX_WORD_PAIRS:
        yield from _stretch("removed", middle_a)
        yield from _stretch("added", middle_b)
    else:
        for tag, i, j, k, end in SequenceMatcher(None, middle_a, middle_b).get_opcodes():
            yield from _stretch("same" if tag == "equal" else "removed", middle_a[i:j])
            yield from _stretch("added", middle_b[k:end] if tag != "equal" else [])
    yield from _stretch("same", a[len(a) - tail :])


def _stretch(kind: Kind, words: list[str]) -> Iterator[Stretch]:
    if words:
        yield Stretch(kind=kind, text="".join(words))


def _common(a: Sequence[object], b: Sequence[object]) -> int:
    """How many leading items are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def shorten(text: str, at: Literal["start", "middle", "end"]) -> str:
    """An unchanged stretch with its inside left out, so that the change beside it is in sight."""
    if len(text) <= 3 * CONTEXT_CHARACTERS:
        return text
    head = "" if at == "start" else text[:CONTEXT_CHARACTERS]
    tail = "" if at == "end" else text[-CONTEXT_CHARACTERS:]
    return f"{head} [... {len(text) - len(head) - len(tail):,} characters ...] {tail}".strip()
