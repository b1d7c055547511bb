"""A conversation and a framing -> the exact text, the exact token ids, and whose words are where.

Text that a person typed never becomes a control token: it is cut inside every marker that it happens to
spell, so that the marker is read as plain characters. Of a reply only what a model writes as a token and
keeps in its text (<think>) stays one. This file knows
tokenizers, not models; the tokenizer is an argument.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice, pairwise
from operator import itemgetter
from threading import BoundedSemaphore
from typing import Any, Protocol

from . import apart, chat_template, reasoning
from .detokenizer import Detokenizer
from .errors import UserError
from .reasoning import Marks
from .rendering import Origin, Rendering, Span, render
from .types import Comparison, Message, Side

_AT_ONCE = 1_000  # parts of a text that are encoded in one call


class Tokenizer(Protocol):
    """What is used of transformers' PreTrainedTokenizerFast."""

    chat_template: Any
    unk_token_id: Any

    @property
    def special_tokens_map(self) -> dict[str, Any]: ...

    @property
    def backend_tokenizer(self) -> Any: ...

    @property
    def added_tokens_decoder(self) -> dict[int, Any]: ...

    def __call__(self, text: Any, **options: Any) -> Any: ...
    def __len__(self) -> int: ...
    def get_vocab(self) -> dict[str, int]: ...
    def convert_ids_to_tokens(self, ids: int) -> Any: ...
    def decode(self, token_ids: list[int]) -> Any: ...


@dataclass(frozen=True)
class Piece:
    """A run of the text that was sent. `control` pieces are single control tokens."""

    text: str
    origin: Origin
    control: bool = False


@dataclass(frozen=True)
class Prompt:
    """What one model is sent.

    `resent` counts the leading tokens that carry earlier turns and the system prompt, `prefilled` the
    last ones, which are the beginning of the reply. `notes` are sentences about what a chat template did
    to the conversation that nobody would expect. `marks` are those of reasoning in the reply, and where
    the prompt has begun it, the reply `reasons` from its first token on; `remembers` says whether the
    reasoning of earlier replies is sent again.
    """

    pieces: tuple[Piece, ...]
    token_ids: tuple[int, ...]
    resent: int
    prefilled: int = 0
    notes: tuple[str, ...] = ()
    marks: Marks | None = None
    reasons: bool = False
    remembers: str = ""

    @property
    def question(self) -> tuple[int, ...]:
        """The token ids before the reply."""
        return self.token_ids[: len(self.token_ids) - self.prefilled]

    @property
    def prefill(self) -> tuple[int, ...]:
        """The token ids with which the reply begins."""
        return self.token_ids[len(self.token_ids) - self.prefilled :]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def sha256(self) -> str:
        return digest(self.token_ids)


def digest(token_ids: Sequence[int]) -> str:
    """Sha256 of token ids, written in decimal with commas."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()


@apart.one_budget()
def build(
    comparison: Comparison,
    side: Side,
    tokenizer: Tokenizer,
    templates: Tokenizer,
    check: Callable[[], None] = lambda: None,
) -> Prompt:
    """The prompt of one side. The work is linear in its characters, and a few prompts are built at once in a process.

    Args:
        tokenizer: of the model that is asked.
        templates: whose chat template the chat framing uses when `tokenizer` has none (the
            post-trained sibling's; the vocabulary is the same).
        check: is called while it waits and between the pieces of the work; what it raises ends it.

    Raises:
        UserError: the chat template is missing or refuses this conversation.
    """
    with _turn(comparison, check):
        return _built(comparison, side, tokenizer, templates, check)


# Short prompts never wait for long ones. These are built one at a time, since each takes seconds and up to a gigabyte.
_LONG = 50_000  # characters
_DOORS = (BoundedSemaphore(8), BoundedSemaphore(1))


@contextmanager
def _turn(comparison: Comparison, check: Callable[[], None]) -> Iterator[None]:
    """Waits until another prompt may be built."""
    door = _DOORS[comparison.characters > _LONG]
    while not door.acquire(timeout=0.1):
        check()
    try:
        yield
    finally:
        door.release()


def _built(
    comparison: Comparison, side: Side, tokenizer: Tokenizer, templates: Tokenizer, check: Callable[[], None]
) -> Prompt:
    prompt = _question(comparison, side, tokenizer, templates, check)
    prefill = comparison.prefill(side)
    unknown = next((id for id in dict.fromkeys(prefill) if not has_token(tokenizer, id)), None)
    if unknown is not None:
        raise UserError(
            f"The reply was to begin with token {unknown}, which this model does not have; choose the pair that it was written with."
        )
    if not prefill:
        return prompt
    detokenizer = Detokenizer(tokenizer, prompt.token_ids)
    detokenizer.take(*prefill)
    beginning = Piece(detokenizer.text, "prefill")
    return replace(
        prompt,
        pieces=(*prompt.pieces, beginning),
        token_ids=(*prompt.token_ids, *prefill),
        prefilled=len(prefill),
    )


def has_token(tokenizer: Tokenizer, id: int) -> bool:
    """Whether the tokenizer has this id. There may be gaps, so the number of its tokens does not tell."""
    return 0 <= id < 2**32 and tokenizer.backend_tokenizer.id_to_token(id) is not None


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """A token as text; ids that the tokenizer does not have are shown as numbers."""
    return str(tokenizer.decode([id])) if has_token(tokenizer, id) else f"(no such token: {id})"


def _question(
    comparison: Comparison, side: Side, tokenizer: Tokenizer, templates: Tokenizer, check: Callable[[], None]
) -> Prompt:
    """The prompt up to where the reply begins."""
    messages = (*comparison.conversation.messages(side), Message(role="user", text=comparison.prompt))
    framing = comparison.framing(side)
    if framing != "chat":
        runs = _document(messages) if framing == "document" else _transcript(messages)
        return _encode(runs, _template_spans(runs), tokenizer, check, bos=True)
    chooser = tokenizer if tokenizer.chat_template else templates
    prompt = _chat(messages, chooser, comparison, check)
    unknown = next((id for id in dict.fromkeys(prompt.token_ids) if not has_token(tokenizer, id)), None)
    if unknown is not None:
        raise UserError(
            f"This model has no token {chooser.convert_ids_to_tokens(unknown)!r}, which its sibling's chat template writes; choose the document or the transcript framing."
        )
    return prompt


def texts(comparison: Comparison, sides: Sequence[Side], tokenizers: Mapping[Side, Tokenizer]) -> dict[Side, str]:
    """The whole text that each of these sides is sent. Raises UserError as `build` does."""
    return {side: build(comparison, side, tokenizers[side], tokenizers["post"]).text for side in sides}


def of_ids(token_ids: tuple[int, ...], tokenizer: Tokenizer) -> Prompt:
    """Token ids that are sent as they are. Raises UserError where the tokenizer lacks one."""
    unknown = next((id for id in dict.fromkeys(token_ids) if not has_token(tokenizer, id)), None)
    if unknown is not None:
        raise UserError(f"Token {unknown} is not in this model's vocabulary; encode the prompt with its own tokenizer.")
    detokenizer = Detokenizer(tokenizer)
    detokenizer.take(*token_ids)
    return Prompt((Piece(detokenizer.text, "new"),), token_ids, resent=0)


# --- framings: runs of text with their origin --------------------------------------------------


def _origins(messages: Sequence[Message]) -> list[Origin]:
    last = len(messages) - 1
    return [
        "system" if message.role == "system" else "new" if i == last else "history"
        for i, message in enumerate(messages)
    ]


def _document(messages: Sequence[Message]) -> list[Piece]:
    """The bare text. A reply continues its prompt directly; a blank line separates turns."""
    pieces: list[Piece] = []
    for message, origin in zip(messages, _origins(messages), strict=True):
        if pieces and message.role == "user":
            pieces.append(Piece("\n\n", "template"))
        pieces.append(Piece(message.text, origin))
    return pieces


def _transcript(messages: Sequence[Message]) -> list[Piece]:
    """Plain text that looks like the transcript of a conversation, up to "Assistant:"."""
    pieces = []
    for message, origin in zip(messages, _origins(messages), strict=True):
        if message.role == "system":
            pieces += [Piece(message.text, origin), Piece("\n\n", "template")]
        elif message.role == "user":
            pieces += [Piece("User: ", "template"), Piece(message.text, origin), Piece("\nAssistant:", "template")]
        else:
            pieces += [Piece(message.text, origin), Piece("\n", "template")]
    return pieces


def _chat(
    messages: Sequence[Message], tokenizer: Tokenizer, comparison: Comparison, check: Callable[[], None]
) -> Prompt:
    """The tokenizer's chat template, with the date pinned."""
    if not chat_template.of(tokenizer):
        raise UserError("These models have no chat template; choose the document or the transcript framing.")
    marks = reasoning.marks(tokenizer)
    rendering = render(
        [_told(message, marks) for message in messages],
        tokenizer,
        date.fromisoformat(comparison.today),
        control_tokens(tokenizer),
        [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special],
        comparison.chat_template_kwargs,
        marks.key if marks else "",
        check,
    )
    runs = [Piece(text, origin) for text, origin in rendering.runs]
    prompt = _encode(runs, rendering.sure, tokenizer, check, bos=False)
    before_reply = runs[-1].text if runs and runs[-1].origin == "template" else ""
    return replace(
        prompt,
        notes=_notes(rendering),
        marks=marks,
        reasons=marks is not None and marks.begun_by(before_reply),
        remembers=_remembers(messages, rendering),
    )


def _told(message: Message, marks: Marks | None) -> Message:
    """A message as the template reads it: the reasoning of a reply apart, or with its marks in the text."""
    if not message.reasoning or (marks and marks.key):
        return message
    return Message(role=message.role, text=marks.spelled(message.reasoning, message.text) if marks else message.text)


def _remembers(messages: Sequence[Message], rendering: Rendering) -> str:
    """What becomes of the reasoning of earlier replies, as a sentence; empty where they have none."""
    sent = [text for text, origin in rendering.runs if origin == "history" or not rendering.exact]
    said = [message.text for message in messages[:-1] if message.role != "system"]
    thought = [message.reasoning.strip() for message in messages if message.reasoning.strip()]
    # Answers may hold the same words.
    there = [sum(text.count(words) for text in sent) > sum(text.count(words) for text in said) for words in thought]
    if not there:
        return ""
    what = "leaves out" if not any(there) else "sends again" if all(there) else "leaves out some of"
    return f"This chat template {what} the reasoning of earlier replies."


def _notes(rendering: Rendering) -> tuple[str, ...]:
    notes = [
        f"This chat template leaves out {'all' if wholly else 'a part'} of {who}."
        for who, wholly in rendering.lost.items()
    ]
    if not rendering.exact:
        notes.append("This chat template rewrites messages, so whose words are whose cannot be shown.")
    return tuple(notes)


# --- encoding -------------------------------------------------------------------------------------


def control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Texts that must not come from a person: special tokens, and added tokens that the chat template itself writes."""
    template = chat_template.of(tokenizer)
    return {
        token.content: id
        for id, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (token.special or token.content in template)
    }


def _encode(
    runs: list[Piece], template: Sequence[Span], tokenizer: Tokenizer, check: Callable[[], None], *, bos: bool
) -> Prompt:
    """Encode the runs as one text, cut only where a control token reaches out of what the template says for certain."""
    control = control_tokens(tokenizer)
    never_typed = set(control.values()) - {tokenizer.unk_token_id}
    text = "".join(run.text for run in runs)
    new_from = _start_of_new(runs)
    prefix = _prefix_ids(tokenizer) if bos else []
    ids, resent = list(prefix), len(prefix) if new_from else 0
    spans = [*pairwise((0, *_cuts(text, template, control), len(text)))]
    parts = [text[start:end] for start, end in spans]
    half_new = {part for part, (start, end) in zip(parts, spans, strict=True) if start < new_from < end}

    def located(part: str, ids: list[int]) -> bool:
        return part in half_new or not never_typed.isdisjoint(ids)

    first = _tokens(parts[:1], located, tokenizer, check, continues=False)
    others = _tokens(parts[1:], located, tokenizer, check, continues=True)
    for part, (start, end) in zip(parts, spans, strict=True):
        found, offsets = (others if start else first)[part]
        for id, offset in zip(found, offsets, strict=False):
            if id in never_typed and not _within(template, start + offset, start + offset + 1):
                raise UserError(
                    f"This model's tokenizer cannot read {tokenizer.convert_ids_to_tokens(id)!r} as plain text; take it out of the conversation."
                )
        ids += found
        resent += sum(start + offset < new_from for offset in offsets) if start < new_from < end else 0
        resent += len(found) if end <= new_from else 0
    if not ids:
        raise UserError("There is nothing to send: type a prompt, or choose a framing that adds some text.")
    pieces = [Piece(tokenizer.convert_ids_to_tokens(id), "template", control=True) for id in prefix]
    pieces += [piece for piece in _pieces(runs, text, template, control) if piece.text]
    return Prompt(tuple(pieces), tuple(ids), resent)


def _tokens(
    parts: Sequence[str],
    located: Callable[[str, list[int]], bool],
    tokenizer: Tokenizer,
    check: Callable[[], None],
    *,
    continues: bool,
) -> dict[str, tuple[list[int], list[int]]]:
    """The token ids of each part of a text, with their offsets in it where these are `located`. Equal parts are encoded once.

    A text that continues another is encoded behind a line break, which is then taken off again: some
    tokenizers put a space before whatever comes first.
    """
    lead = _plain_ids("\n", tokenizer) if continues else []
    found: dict[str, tuple[list[int], list[int]]] = {}
    glued = []  # whose line break became one token with what follows
    each = iter(dict.fromkeys(parts))
    while some := [*islice(each, _AT_ONCE)]:
        check()
        texts = ["\n" * bool(lead) + part for part in some]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for part, whole, encoding in zip(some, encoded["input_ids"], encoded.encodings, strict=True):
            if whole[: len(lead)] != lead:
                glued.append(part)
                continue
            ids = whole[len(lead) :]
            offsets = encoding.offsets[len(lead) :] if located(part, ids) else []
            found[part] = ids, [start - bool(lead) for start, _ in offsets]
    return found | (_tokens(glued, located, tokenizer, check, continues=False) if glued else {})


def _plain_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _start_of_new(runs: list[Piece]) -> int:
    """Offset in the text where this turn begins: behind the last run that belongs to the history or the system prompt."""
    offset, new_from = 0, 0
    for run in runs:
        offset += len(run.text)
        if run.origin in ("system", "history"):
            new_from = offset
    return new_from


def _prefix_ids(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer itself puts before a text (BOS or nothing)."""
    bare, dressed = _plain_ids("a", tokenizer), tokenizer("a")["input_ids"]
    at = next(i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
    return dressed[:at]


def _template_spans(runs: list[Piece]) -> list[Span]:
    """Where in the text the template speaks: offsets of beginning and end, neighbouring runs as one."""
    spans: list[Span] = []
    offset = 0
    for run in runs:
        end = offset + len(run.text)
        if run.origin == "template":
            start = spans.pop()[0] if spans and spans[-1][1] == offset else offset
            spans.append((start, end))
        offset = end
    return spans


def _within(spans: Sequence[Span], start: int, end: int) -> bool:
    before = bisect_right(spans, start, key=itemgetter(0))
    return before > 0 and end <= spans[before - 1][1]


def _cuts(text: str, template: Sequence[Span], control: dict[str, int]) -> list[int]:
    """Offsets one character into every control token that the template did not write by itself."""
    cuts = set()
    for marker in control:
        at = text.find(marker)
        while at >= 0:
            if not _within(template, at, at + len(marker)):
                cuts.add(at + 1)
            at = text.find(marker, at + 1)
    return sorted(cuts)


def _pieces(runs: Sequence[Piece], text: str, template: Sequence[Span], control: Mapping[str, int]) -> Iterator[Piece]:
    """The runs of `text`, split at the control tokens that the template writes."""
    written = sorted((marker for marker in control if marker in text), key=len, reverse=True)
    markers = re.compile("|".join(map(re.escape, written)) or "(?!)")
    end = 0
    for run in runs:
        at, end = end, end + len(run.text)
        for found in markers.finditer(text, at, end) if run.origin == "template" else ():
            if _within(template, *found.span()):
                yield Piece(text[at : found.start()], run.origin)
                yield Piece(found.group(), run.origin, control=True)
                at = found.end()
        yield Piece(text[at:end], run.origin)
