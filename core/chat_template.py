"""A conversation -> the text that a chat template makes of it, and whose every character is.

A chat template is somebody else's program. It trims, moves, repeats and drops what people and models wrote,
and it looks for words in it (most often for the marks around a reply's reasoning). So it is run as it stands,
and then once more on a conversation in which every character is replaced by a private one of its own for each
author. Where both runs wrote the same, the second one tells who wrote what, to the character. Words that the
template looks for are left as they are when it wrote something else without them.

A control token that somebody spelled is hidden from the template by replacing its first character alike. Only
in a reply, and only where the template reads it there, it is the template's: a reply's reasoning ends where
the template finds its end.

transformers has `apply_chat_template(..., sanitize_control_tokens=True)` for the same purpose. It does not
see tokens that are formed across a border, and it does not tell whose words are whose.
"""

import re
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache, lru_cache
from itertools import chain, groupby, islice
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

from .errors import UserError
from .types import Message

Origin = Literal["template", "system", "history", "new", "prefill"]
Span = tuple[int, int]
_Group = tuple[str, int]  # of messages that share private characters: who wrote them, and a number

# The library hands no functions to templates, so a macro takes the place of its strftime_now. The line break
# at its end is trimmed, and the template begins at the start of a line as it would without it.
_PIN_DATE = (
    "{% macro strftime_now(format) %}{% set pinned = namespace(text=format) %}"
    "{% for directive, value in pinned_date.items() %}"
    "{% set pinned.text = pinned.text.replace(directive, value) %}"
    "{% endfor %}{{ pinned.text }}{% endmacro %}\n"
)
_FAULTS = (TemplateError, LookupError, TypeError, ValueError, AttributeError)  # a template is somebody else's program
_LITERAL = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_PARTS = re.compile(r"""['"]type['"]: ?['"]text['"]""")  # a list that was written as it is, not read
_PRIVATE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))  # planes that Unicode gives to nobody
_NEIGHBOURS = 16  # so many messages of one kind have characters of their own before the first one's are used again


class HasTemplate(Protocol):
    """What is used of transformers' PreTrainedTokenizerFast."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Rendering:
    """What a template wrote, as runs of one author.

    `sure` holds the spans in which the template speaks for certain; the control tokens that reach out of
    them are somebody's words. Where the template rewrites words, so that whose they are cannot be told,
    `exact` is False and all runs are the template's. `lost` names whose words are not all in it, and whether
    none are.
    """

    runs: tuple[tuple[str, Origin], ...]
    sure: tuple[Span, ...]
    exact: bool = True
    lost: Mapping[str, bool] = field(default_factory=dict)


def of(tokenizer: HasTemplate) -> str:
    """The chat template; of several by name, the one that the library takes."""
    template = tokenizer.chat_template
    return (template.get("default") if isinstance(template, dict) else template) or ""


def render(messages: Sequence[Message], tokenizer: HasTemplate, today: date, control: Collection[str]) -> Rendering:
    """The conversation up to where the reply begins, the date pinned.

    A template gets each message as a string. Where it refuses that, or nothing of a message is left, it gets
    lists of parts, which some templates read alone.

    Args:
        control: texts that stand for control tokens.

    Raises:
        UserError: the template is missing or refuses this conversation, or drops all of the prompt or of
            the system prompt.
    """
    refusal, found = None, None
    try:
        found = _Conversation(messages, tokenizer, today, control, in_parts=False).rendering()
    except UserError as error:
        refusal = error
    if found is None or any(found.lost.values()):
        with suppress(UserError):
            in_parts = _Conversation(messages, tokenizer, today, control, in_parts=True).rendering()
            if not any(in_parts.lost.values()) and not _PARTS.search("".join(text for text, _ in in_parts.runs)):
                return in_parts
    if found is None:
        assert refusal is not None
        raise refusal
    gone = next((who for who in (_SYSTEM, _NEW) if found.lost.get(who)), None)
    if gone is not None:
        raise UserError(
            f"This chat template leaves out {gone} altogether; choose the document or the transcript framing."
        )
    return found


def end_of_reply(tokenizer: HasTemplate, control: Collection[str]) -> str | None:
    """The control token that the template writes right behind a reply, unless it ends the reasoning before it, too (as gpt-oss')."""
    asked = {"role": "user", "content": "Question?"}
    answered = {"role": "assistant", "content": "Answer.", "reasoning_content": "Reasoning."}
    with suppress(*_FAULTS):
        ended, thought = (
            _apply(tokenizer, chat, date.min, add_generation_prompt=False)
            for chat in ([asked, answered, asked], [asked, answered])
        )
        behind = ended.partition("Answer.")[2].lstrip()
        found = max((marker for marker in control if behind.startswith(marker)), key=len, default=None)
        between = thought.partition("Reasoning.")[2].partition("Answer.")[0]
        return found if found and found not in between else None
    return None


_SYSTEM, _NEW, _EARLIER, _REPLY = "the system prompt", "your prompt", "an earlier prompt", "an earlier reply"


class _Conversation:
    """One conversation with one template, to be rendered in several disguises."""

    def __init__(
        self, messages: Sequence[Message], tokenizer: HasTemplate, today: date, control: Collection[str], in_parts: bool
    ):
        self._messages, self._tokenizer, self._in_parts = messages, tokenizer, in_parts
        self._texts = [message.text for message in messages]
        self._template = of(tokenizer)
        self._date = today
        said = "\0".join(self._texts)
        self._control = [marker for marker in control if marker in said]
        self._all_control = control
        self._who = [self._kind(i) for i in range(len(messages))]
        # Messages of one kind share private characters when there are very many of them.
        self._group = [(kind, i // 2 % _NEIGHBOURS) for i, kind in enumerate(self._who)]
        self._private = self._alphabet()
        self._plain = {ord(private): chr(code) for table in self._private.values() for code, private in table.items()}
        self._owner = {private: group for group, table in self._private.items() for private in table.values()}

    def _kind(self, i: int) -> str:
        message = self._messages[i]
        if message.role == "system":
            return _SYSTEM
        return _REPLY if message.role == "assistant" else _NEW if i == len(self._messages) - 1 else _EARLIER

    def _alphabet(self) -> dict[_Group, dict[int, str]]:
        """For every group a private character in place of each that its messages hold, white space apart."""
        held: dict[_Group, set[str]] = {}
        for group, text in zip(self._group, self._texts, strict=True):
            held.setdefault(group, set()).update(text)
        used = set(self._template).union(*held.values())
        free = (chr(code) for code in chain(*_PRIVATE) if chr(code) not in used)
        coded = {group: [ord(char) for char in sorted(chars) if not char.isspace()] for group, chars in held.items()}
        if sum(map(len, coded.values())) > sum(map(len, _PRIVATE)) - len(used):
            raise _cannot_be_shown()
        return {group: dict(zip(codes, free, strict=False)) for group, codes in coded.items()}

    def rendering(self) -> Rendering:
        read = self._read_in_replies()
        spelled = [self._spans(i, [m for m in self._control if m not in self._left(i, read)]) for i in self._indices]
        base = self._render([self._hidden(i, (), spelled[i], firsts=True) for i in self._indices])
        text = self._unhidden(base)
        for shown in self._disguises(read):
            spans = [self._spans(i, shown(i)) for i in self._indices]
            with suppress(UserError):
                disguised = self._render([self._hidden(i, spans[i], spelled[i]) for i in self._indices])
                if self._unhidden(disguised) == text:
                    return self._exact(disguised, spans, read)
        return self._inexact(base, text)

    @property
    def _indices(self) -> range:
        return range(len(self._messages))

    # --- what the template sees ---------------------------------------------------------------------------

    def _read_in_replies(self) -> list[str]:
        """Control tokens that the template reads in replies: without any one of them it writes something else."""
        spelled = [
            m for m in self._control if any(m in self._texts[i] for i in self._indices if self._who[i] == _REPLY)
        ]
        if not spelled:
            return []

        def without(*hidden: str) -> str | None:
            spans = [self._spans(i, hidden if self._who[i] == _REPLY else self._control) for i in self._indices]
            with suppress(UserError):
                return self._unhidden(self._render([self._hidden(i, (), spans[i], firsts=True) for i in self._indices]))
            return None

        whole = without()
        return [] if whole is None else [marker for marker in spelled if without(marker) != whole]

    def _left(self, i: int, read: list[str]) -> list[str]:
        return read if self._who[i] == _REPLY else []

    def _disguises(self, read: list[str]) -> Iterable[Callable[[int], list[str]]]:
        """What is left to be seen of a message: nothing; words of the template with signs in them; all of its words."""
        words = [word for word in _literals(self._template) if any(word in text for text in self._texts)]
        signs = [word for word in words if len(word) > 1 and not word.isalnum()]
        yield lambda i: self._left(i, read)
        if signs:
            yield lambda i: [*self._left(i, read), *signs]
        if len(words) > len(signs):
            yield lambda i: [*self._left(i, read), *words]

    def _spans(self, i: int, words: Iterable[str]) -> list[Span]:
        """Where in a message these words stand, overlapping ones too."""
        text, spans = self._texts[i], []
        for word in words:
            at = text.find(word)
            while at >= 0:
                spans.append((at, at + len(word)))
                at = text.find(word, at + 1)
        return spans

    def _hidden(self, i: int, shown: Sequence[Span], spelled: Sequence[Span], *, firsts: bool = False) -> str:
        """A message in private characters but for what is `shown`; with `firsts`, only the first ones of what is spelled are private."""
        text, table = self._texts[i], self._private[self._group[i]]
        chars = list(text if firsts else text.translate(table))
        for start, end in shown:
            chars[start:end] = text[start:end]
        for start, end in spelled:
            for at in (start,) if firsts else range(start, end):
                chars[at] = table.get(ord(text[at]), text[at])
        return "".join(chars)

    def _unhidden(self, text: str) -> str:
        return text.translate(self._plain)

    def _render(self, texts: Sequence[str]) -> str:
        chat = [
            {"role": message.role, "content": [{"type": "text", "text": text}] if self._in_parts else text}
            for message, text in zip(self._messages, texts, strict=True)
        ]
        try:
            return _apply(self._tokenizer, chat, self._date)
        except _FAULTS as error:
            raise UserError(
                f"The chat template refuses this conversation ({' '.join(str(error).split())}); clear the system prompt or choose another framing."
            ) from error

    # --- whose is what --------------------------------------------------------------------------------------

    def _exact(self, disguised: str, shown: Sequence[Sequence[Span]], read: list[str]) -> Rendering:
        owners = [self._owner.get(char) for char in disguised]
        text = self._unhidden(disguised)
        self._fill(owners, text)
        self._extend(owners, text, shown)
        runs, sure, at = [], [], 0
        for owner, group in groupby(owners):
            end = at + len(list(group))
            runs.append((text[at:end], _ORIGINS[owner[0]] if owner else "template"))
            if owner is None:
                sure.append((at, end))
            at = end
        return Rendering(tuple(runs), tuple(sure), lost=self._lost(disguised, shown, read))

    def _fill(self, owners: list[_Group | None], text: str) -> None:
        """What was not hidden and stands between characters of one message as it does there is that message's, too."""
        texts: dict[_Group, str] = {}
        for group, message in zip(self._group, self._texts, strict=True):
            texts[group] = texts.get(group, "") + "\0" + message
        said = cache(lambda group, part: part in texts[group])
        at = 0
        for owner, run in groupby(list(owners)):
            start, at = at, at + len(list(run))
            before, after = (owners[i] if 0 <= i < len(owners) else None for i in (start - 1, at))
            theirs = owner is None and before is not None and before == after
            if theirs and said(before, text[start - 1 : at + 1]) and not self._has_control(text[start:at]):
                owners[start:at] = [before] * (at - start)

    def _extend(self, owners: list[_Group | None], text: str, shown: Sequence[Sequence[Span]]) -> None:
        """Words of a message that were not hidden, at its very beginning or end."""
        for i in self._indices:
            message, group = self._texts[i], self._group[i]
            start, end = len(message) - len(message.lstrip()), len(message.rstrip())
            hidden = [at for at in range(start, end) if not any(a <= at < b for a, b in shown[i])] if shown[i] else []
            if not hidden:
                continue
            head, tail = message[start : hidden[0]], message[hidden[-1] + 1 : end]
            for at in [i for i, owner in enumerate(owners) if owner == group] if head or tail else ():
                for words, a, b in ((head, at - len(head), at), (tail, at + 1, at + 1 + len(tail))):
                    if words and text[a:b] == words and not any(owners[a:b]) and not self._has_control(words):
                        owners[a:b] = [group] * len(words)

    def _has_control(self, text: str) -> bool:
        return bool(text.strip()) and any(marker in text for marker in self._all_control)

    def _lost(self, disguised: str, shown: Sequence[Sequence[Span]], read: list[str]) -> dict[str, bool]:
        """Whose words are not all there; reasoning that a template reads in replies, to drop it, apart."""
        there = Counter(self._owner[char] for char in disguised if char in self._owner)
        wanted: Counter[_Group] = Counter()
        for i in self._indices:
            if self._who[i] != _REPLY or not shown[i]:
                hidden = self._hidden(i, shown[i], ())
                wanted[self._group[i]] += sum(char in self._owner for char in hidden)
        lost: dict[str, bool] = {}
        for group, count in wanted.items():
            if there[group] < count:
                lost[group[0]] = lost.get(group[0], True) and not there[group]
        return lost

    def _inexact(self, base: str, text: str) -> Rendering:
        """The template wrote what cannot be followed. What it says by itself is still told from what is spelled.

        Raises:
            UserError: a control token may be made of somebody's words.
        """
        own = self._render([self._hidden(i, (), ()) for i in self._indices])
        spelled = [at for at, char in enumerate(base) if char in self._owner]
        ends = [-1, *spelled, len(text)]
        sure = tuple((a + 1, b) for a, b in zip(ends, islice(ends, 1, None), strict=False) if a + 1 < b)
        for marker in self._all_control:
            if base.count(marker) > own.count(marker):
                raise _cannot_be_shown()
        said = "".join(text.split()).casefold()
        lost = {
            who: False
            for who, message in zip(self._who, self._texts, strict=True)
            if who != _REPLY and "".join(message.split()).casefold() not in said
        }
        return Rendering(((text, "template"),), sure, exact=False, lost=lost)


def _cannot_be_shown() -> UserError:
    return UserError(
        "This chat template rewrites messages in a way that cannot be shown exactly; choose the document or the transcript framing."
    )


_ORIGINS: dict[str, Origin] = {_SYSTEM: "system", _NEW: "new", _EARLIER: "history", _REPLY: "history"}


@lru_cache
def _literals(template: str) -> tuple[str, ...]:
    """The strings that stand in a template's expressions."""
    found = set()
    for literal in _LITERAL.findall(template):
        with suppress(ValueError, SyntaxError):
            found.add(literal_eval(literal).strip())
    return tuple(sorted(word for word in found if word))


def _apply(
    tokenizer: HasTemplate, chat: list[dict[str, Any]], today: date, *, add_generation_prompt: bool = True
) -> str:
    text: str = tokenizer.apply_chat_template(
        chat,
        chat_template=_PIN_DATE + of(tokenizer),
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        pinned_date=_directives(today),
    )
    return text


def _directives(today: date) -> dict[str, str]:
    """What each directive of strftime stands for on this date; "%-d" is "%d" without zeros in front."""
    padded = {f"%{letter}": today.strftime(f"%{letter}") for letter in "aAbBcdGHIjmMpSuUVwWxXyYzZ"}
    plain = {f"%-{letter}": padded[f"%{letter}"].lstrip("0") or "0" for letter in "dHIjmMSUWy"}
    return {**padded, **plain, "%F": today.isoformat(), "%%": "%"}
