"""A conversation and a framing -> the exact text, the exact token ids, and whose words are where.

Text that a person typed, or that a model wrote, never becomes a control token: it is cut inside every
marker that it happens to spell, so that the marker is read as plain characters. This file knows
tokenizers, not models; the tokenizer is an argument.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

from core.errors import UserError
from core.types import Comparison, Message, Side


class Tokenizer(Protocol):
    """What is used of transformers' PreTrainedTokenizerFast."""

    chat_template: Any

    @property
    def added_tokens_decoder(self) -> dict[int, Any]: ...

    def __call__(self, text: Any, **options: Any) -> Any: ...
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...
    def convert_ids_to_tokens(self, ids: int) -> Any: ...


Origin = Literal["template", "system", "history", "new"]

# Two characters that Unicode reserves for use inside a program (noncharacters): they mark where a
# message begins and ends while the template is rendered, and are gone before anything is encoded.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"


@dataclass(frozen=True)
class Piece:
    """A run of the text that was sent. `control` pieces are single control tokens."""

    text: str
    origin: Origin
    control: bool = False


@dataclass(frozen=True)
class Prompt:
    """What one model is sent. `resent` counts the leading tokens that carry earlier turns and the system prompt."""

    pieces: tuple[Piece, ...]
    token_ids: tuple[int, ...]
    resent: int

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def sha256(self) -> str:
        return digest(self.token_ids)


def digest(token_ids: Sequence[int]) -> str:
    """Sha256 of token ids, written in decimal with commas."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()


def build(comparison: Comparison, side: Side, tokenizer: Tokenizer, templates: Tokenizer) -> Prompt:
    """The prompt of one side.

    Args:
        tokenizer: of the model that is asked.
        templates: whose chat template the chat framing uses when `tokenizer` has none (the
            post-trained sibling's; the vocabulary is the same).

    Raises:
        UserError: the chat template is missing or refuses this conversation.
    """
    messages = (*comparison.conversation.messages(side), Message(role="user", text=comparison.prompt))
    framing = comparison.framing(side)
    if framing == "chat":
        chooser = tokenizer if tokenizer.chat_template else templates
        runs = _chat(messages, chooser, date.fromisoformat(comparison.today))
        return _encode(runs, chooser, bos=False)
    runs = _document(messages) if framing == "document" else _transcript(messages)
    return _encode(runs, tokenizer, bos=True)


# --- framings: runs of text with their origin --------------------------------------------------


def _origins(messages: Sequence[Message]) -> list[Origin]:
    last = len(messages) - 1
    return [
        "system" if message.role == "system" else "new" if i == last else "history"
        for i, message in enumerate(messages)
    ]


def _document(messages: Sequence[Message]) -> list[Piece]:
    """The bare text. A reply continues its prompt directly; turns are parted by a blank line."""
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


def _chat(messages: Sequence[Message], tokenizer: Tokenizer, today: date) -> list[Piece]:
    """The tokenizer's chat template, with the date pinned."""
    if not tokenizer.chat_template:
        raise UserError("These models have no chat template; choose the document or the transcript framing.")
    plain = _render(messages, tokenizer, today)
    marked = _render([_marked(message) for message in messages], tokenizer, today)
    if marked.replace(_OPEN, "").replace(_CLOSE, "") != plain or any(
        mark in message.text for message in messages for mark in (_OPEN, _CLOSE)
    ):
        raise UserError(
            "This chat template rewrites messages in a way that cannot be shown exactly; choose the document or the transcript framing."
        )
    return _cut(marked, messages)


def _render(messages: Sequence[Message], tokenizer: Tokenizer, today: date) -> str:
    chat = [{"role": message.role, "content": message.text} for message in messages]
    try:
        return tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, strftime_now=today.strftime
        )
    except TemplateError as error:
        raise UserError(
            f"The chat template refuses this conversation ({error}); clear the system prompt or choose another framing."
        ) from error


def _marked(message: Message) -> Message:
    """The message with marks inside its outer white space, which templates may strip."""
    core = message.text.strip()
    if not core:
        return message
    start = message.text.index(core)
    return Message.model_construct(
        role=message.role, text=message.text[:start] + _OPEN + core + _CLOSE + message.text[start + len(core) :]
    )


def _cut(marked: str, messages: Sequence[Message]) -> list[Piece]:
    """Rendered text with marks -> runs. A template that drops the beginning of a message (say, its reasoning) leaves only the closing mark."""
    origins = [origin for message, origin in zip(messages, _origins(messages), strict=True) if message.text.strip()]
    texts = [message.text.strip() for message in messages if message.text.strip()]
    pieces: list[Piece] = []
    *spans, tail = marked.split(_CLOSE)
    for span in spans:
        before, opened, inside = span.partition(_OPEN)
        which = next((i for i, text in enumerate(texts) if text.endswith(inside if opened else before[-1:])), 0)
        if not opened:
            kept = _common_suffix(before, texts[which])
            before, inside = before[: len(before) - kept], before[len(before) - kept :]
        pieces += [Piece(before, "template"), Piece(inside, origins[which])]
        del texts[: which + 1], origins[: which + 1]
    return [piece for piece in (*pieces, Piece(tail.replace(_OPEN, ""), "template")) if piece.text]


def _common_suffix(a: str, b: str) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[-1 - count] == b[-1 - count]:
        count += 1
    return count


# --- encoding -------------------------------------------------------------------------------------


def control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Texts that must not come from a person: special tokens, and added tokens that the chat template itself writes."""
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    return {
        token.content: id
        for id, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (token.special or token.content in template)
    }


def _encode(runs: list[Piece], tokenizer: Tokenizer, *, bos: bool) -> Prompt:
    """Encode the runs as one text, cut only where somebody's words spell a control token."""
    control = control_tokens(tokenizer)
    text = "".join(run.text for run in runs)
    new_from = _start_of_new(runs)
    prefix = _prefix_ids(tokenizer) if bos else []
    ids, resent = list(prefix), len(prefix) if new_from else 0
    start = 0
    for end in (*_cuts(runs, control), len(text)):
        part = tokenizer(text[start:end], add_special_tokens=False, return_offsets_mapping=True)
        ids += part["input_ids"]
        resent += sum(start + offset[0] < new_from for offset in part["offset_mapping"])
        start = end
    if not ids:
        raise UserError("There is nothing to send: type a prompt, or choose a framing that adds some text.")
    pieces = [Piece(tokenizer.convert_ids_to_tokens(id), "template", control=True) for id in prefix]
    for run in runs:
        pieces += _mark_control(run, control) if run.origin == "template" else [run]
    return Prompt(tuple(pieces), tuple(ids), resent)


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
    bare, dressed = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    at = next(i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
    return dressed[:at]


def _cuts(runs: list[Piece], control: dict[str, int]) -> list[int]:
    """Offsets one character into every control token that the words of a person or a model spell."""
    cuts, offset = set(), 0
    for run in runs:
        if run.origin != "template":
            for marker in control:
                at = run.text.find(marker)
                while at >= 0:
                    cuts.add(offset + at + 1)
                    at = run.text.find(marker, at + 1)
        offset += len(run.text)
    return sorted(cuts)


def _mark_control(run: Piece, control: dict[str, int]) -> list[Piece]:
    """A run of the template, split at its control tokens."""
    pieces, rest = [], run.text
    while rest:
        at, marker = min(
            ((rest.find(marker), marker) for marker in control if marker in rest),
            key=lambda found: (found[0], -len(found[1])),
            default=(len(rest), ""),
        )
        pieces += [Piece(rest[:at], run.origin), Piece(marker, run.origin, control=True)]
        rest = rest[at + len(marker) :]
    return [piece for piece in pieces if piece.text]
