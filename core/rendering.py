"""A conversation -> the text that a chat template makes of it, and whose every character is.

A chat template trims, moves, repeats and drops what people and models wrote, and it looks for words in it
(most often for the marks around a reply's reasoning). So it is run as it stands, and then once more on a conversation in which every character is replaced by a private one of its own for each
author. Where both runs wrote the same, the second one tells who wrote what, to the character. Words that the
template looks for are left as they are when it wrote something else without them.

A control token that somebody spelled is hidden from the template by replacing its first character alike. In a
reply two kinds are not: those that the text of a reply keeps (added tokens that are not special, as <think>),
which a model wrote there as tokens, and those that the template reads there. What begins or ends a turn is
always hidden.

transformers has `apply_chat_template(..., sanitize_control_tokens=True)` for the same purpose. It does not
see tokens that are formed across a border, and it does not tell whose words are whose.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from itertools import chain, compress, islice
from typing import Any, Literal

from . import chat_template
from .chat_template import HasTemplate
from .errors import UserError
from .types import Message

Origin = Literal["template", "system", "history", "new", "prefill"]
Span = tuple[int, int]
_Group = tuple[str, int]  # of messages that share private characters: who wrote them, and a number

_PARTS = re.compile(r"""['"]type['"]: ?['"]text['"]""")  # a list that was written as it is, not read
_PRIVATE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))  # planes that Unicode gives to nobody
_TRIED = 20  # words that a template looks for, of which each is tried without
# So many messages of one kind have characters of their own before the first one's are used again.
_NEIGHBOURS = (16, 2, 1)
_RUN = re.compile(rb"(.)\1*", re.DOTALL)
_NOBODYS = re.compile(rb"\0+")
_SOUGHT = 1_000  # words that are sought in the whole text, one after the other


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


def render(
    messages: Sequence[Message],
    tokenizer: HasTemplate,
    today: date,
    control: Collection[str],
    spoken: Collection[str],
    chat_template_kwargs: Mapping[str, Any],
    reasoning_key: str = "",
    check: Callable[[], None] = lambda: None,
) -> Rendering:
    """The conversation up to where the reply begins, the date pinned.

    A template gets each message as a string. Where it refuses that, or nothing of a message is left, it gets
    lists of parts, which some templates read alone.

    Args:
        control: texts that stand for control tokens.
        spoken: those of them that the text of a reply keeps, so that there they stand for what a model wrote.
        reasoning_key: how the template is given the reasoning of messages that have some (`chat_template.as_dict`).
        check: is called before each run of the template; what it raises ends the work.

    Raises:
        UserError: the template is missing or refuses this conversation, does not read one of the switches, or
            drops all of the prompt or of the system prompt.
    """
    known = chat_template.switches(tokenizer)
    unknown = next((name for name in chat_template_kwargs if name not in known), None)
    if unknown is not None:
        reads = f"it reads {', '.join(known)}" if known else "it reads none"
        raise UserError(f"This chat template has no switch {unknown!r}; {reads}.")
    given = (messages, tokenizer, today, control, spoken, chat_template_kwargs, reasoning_key, check)
    refusal, found = None, None
    try:
        found = _Conversation(*given, in_parts=False).rendering()
    except UserError as error:
        refusal = error
    if found is None or any(found.lost.values()):
        with suppress(UserError):
            in_parts = _Conversation(*given, in_parts=True).rendering()
            own = "".join(text for text, origin in in_parts.runs if origin == "template")
            if not any(in_parts.lost.values()) and not _PARTS.search(own):
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


_SYSTEM, _NEW, _EARLIER, _REPLY = "the system prompt", "your prompt", "an earlier prompt", "an earlier reply"
_REASONING = "the reasoning of an earlier reply"
_BY_A_MODEL = (_REPLY, _REASONING)


class _Told(dict[int, str]):
    """A table for str.translate that asks about each character once."""

    def __init__(self, tell: Callable[[str], str]):
        self._tell = tell

    def __missing__(self, code: int) -> str:
        return self.setdefault(code, self._tell(chr(code)))


def _runs(owners: bytearray, start: int = 0, end: int = sys.maxsize) -> list[tuple[int, int, int]]:
    """The runs of one number: the number, where it begins and ends."""
    return [(found[0][0], *found.span()) for found in _RUN.finditer(owners, start, end)]


def _gaps(owners: bytearray) -> Iterator[Span]:
    """What is nobody's between two characters of one group."""
    for found in _NOBODYS.finditer(bytes(owners)):
        start, end = found.span()
        if start > 0 and end < len(owners) and owners[start - 1] == owners[end]:
            yield start, end


class _Conversation:
    """One conversation with one template, to be rendered in several disguises."""

    def __init__(
        self,
        messages: Sequence[Message],
        tokenizer: HasTemplate,
        today: date,
        control: Collection[str],
        spoken: Collection[str],
        switches: Mapping[str, Any],
        reasoning_key: str,
        check: Callable[[], None],
        *,
        in_parts: bool,
    ):
        self._messages, self._tokenizer, self._in_parts, self._switches = messages, tokenizer, in_parts, switches
        self._reasoning_key, self._check = reasoning_key, check
        # Every text, by the message that it is of and what it is of it.
        self._places = [
            (n, kind)
            for n, message in enumerate(messages)
            for kind in (("reasoning", "text") if message.reasoning else ("text",))
        ]
        self._texts: list[str] = [getattr(messages[n], kind) for n, kind in self._places]
        self._template = chat_template.of(tokenizer)
        self._date = today
        said = "\0".join(self._texts)
        self._control = [marker for marker in control if marker in said]
        self._all_control, self._spoken = control, spoken
        self._who = [self._kind(i) for i in self._indices]
        # Messages of one kind share private characters when there are very many of them, or of these.
        for neighbours in _NEIGHBOURS:
            self._group = [(who, n // 2 % neighbours) for who, (n, _) in zip(self._who, self._places, strict=True)]
            self._private = self._alphabet()
            if self._private:
                break
        else:
            raise _cannot_be_shown()
        self._plain = {ord(private): chr(code) for table in self._private.values() for code, private in table.items()}
        self._owner = {private: group for group, table in self._private.items() for private in table.values()}
        self._groups: list[_Group | None] = [None, *self._private]  # by the number that stands for a group in `_owners`
        numbers = {group: chr(number) for number, group in enumerate(self._groups)}
        self._numbers = _Told(lambda char: numbers[self._owner.get(char)])

    def _kind(self, i: int) -> str:
        n, kind = self._places[i]
        if kind == "reasoning":
            return _REASONING
        if self._messages[n].role == "system":
            return _SYSTEM
        return _REPLY if self._messages[n].role == "assistant" else _NEW if n == len(self._messages) - 1 else _EARLIER

    def _alphabet(self) -> dict[_Group, dict[int, str]]:
        """For every group a private character in place of each that its messages hold, white space apart; {} if there are too few."""
        held: dict[_Group, set[str]] = {}
        for group, text in zip(self._group, self._texts, strict=True):
            held.setdefault(group, set()).update(text)
        used = set(self._template).union(*held.values())
        free = (chr(code) for code in chain(*_PRIVATE) if chr(code) not in used)
        coded = {group: [ord(char) for char in sorted(chars) if not char.isspace()] for group, chars in held.items()}
        if sum(map(len, coded.values())) > sum(map(len, _PRIVATE)) - len(used):
            return {}
        return {group: dict(zip(codes, free, strict=False)) for group, codes in coded.items()}

    def rendering(self) -> Rendering:
        kept = self._kept_in_replies()
        spelled = [self._spans(i, [m for m in self._control if m not in self._left(i, kept)]) for i in self._indices]
        base = self._render([self._hidden(i, (), spelled[i], firsts=True) for i in self._indices])
        text = self._unhidden(base)

        def disguised(words: Sequence[str]) -> str | None:
            """The rendering in which only these words are not hidden, if the template writes the same then."""
            with suppress(UserError):
                shown = [self._spans(i, [*self._left(i, kept), *words]) for i in self._indices]
                found = self._render([self._hidden(i, shown[i], spelled[i]) for i in self._indices])
                return found if self._unhidden(found) == text else None
            return None

        words: list[str] = []
        found = disguised(words)
        if found is None:
            words = self._looked_for()
            found = disguised(words) if words else None
        if found is None:
            return self._inexact(base, text)
        for word in words[:_TRIED]:  # only those that matter
            fewer = [other for other in words if other != word]
            if (shorter := disguised(fewer)) is not None:
                words, found = fewer, shorter
        shown = [self._spans(i, [*self._left(i, kept), *words]) for i in self._indices]
        return self._exact(found, [self._hidden(i, shown[i], spelled[i]) for i in self._indices], kept, words)

    @property
    def _indices(self) -> range:
        return range(len(self._texts))

    # --- what the template sees ---------------------------------------------------------------------------

    def _kept_in_replies(self) -> list[str]:
        """Control tokens that are not hidden in replies: those that a model wrote there, and those that the template reads there.

        What begins or ends a turn is always hidden. The template reads a token if it writes something else without it.
        """
        replies = "\0".join(self._texts[i] for i in self._indices if self._who[i] in _BY_A_MODEL)
        turn = "\0".join(chat_template.ends_of_reply(self._tokenizer, self._control) if replies else ())
        with suppress(*chat_template.FAULTS):
            user = [{"role": "user", "content": "x"}]
            turn = f"{turn}\0{chat_template.apply(self._tokenizer, user, self._date, {}, add_generation_prompt=False)}"
        spelled = [marker for marker in self._control if marker in replies and marker not in turn]

        def without(*hidden: str) -> str | None:
            spans = [self._spans(i, hidden if self._who[i] in _BY_A_MODEL else self._control) for i in self._indices]
            with suppress(UserError):
                return self._unhidden(self._render([self._hidden(i, (), spans[i], firsts=True) for i in self._indices]))
            return None

        unspoken = [marker for marker in spelled if marker not in self._spoken]
        whole = without() if unspoken else None

        def read(markers: list[str]) -> set[str]:
            """Those of them that the template reads: none where it writes the same without all of them."""
            if not markers or whole is None or without(*markers) == whole:
                return set()
            middle = len(markers) // 2
            return read(markers[:middle]) | read(markers[middle:]) if middle else set(markers)

        kept = read(unspoken)
        return [marker for marker in spelled if marker in self._spoken or marker in kept]

    def _left(self, i: int, kept: list[str]) -> list[str]:
        return kept if self._who[i] in _BY_A_MODEL else []

    def _looked_for(self) -> list[str]:
        """Words of the template's own program that somebody says, but for those that may be a part of a control token."""

        def is_part(word: str, marker: str) -> bool:
            ends = range(1, len(marker))
            return word != marker and (
                word in marker or any(word.endswith(marker[:n]) or word.startswith(marker[n:]) for n in ends)
            )

        words = [word for word in chat_template.literals(self._template) if any(word in text for text in self._texts)]
        return [word for word in words if not any(is_part(word, marker) for marker in self._all_control)]

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
        hidden = text if firsts else text.translate(table)
        if not shown and not (spelled and firsts):
            return hidden
        chars = list(hidden)
        for start, end in shown:
            chars[start:end] = text[start:end]
        for start, end in spelled:
            for at in (start,) if firsts else range(start, end):
                chars[at] = table.get(ord(text[at]), text[at])
        return "".join(chars)

    def _unhidden(self, text: str) -> str:
        return text.translate(self._plain)

    def _render(self, texts: Sequence[str]) -> str:
        self._check()
        said: list[dict[str, str]] = [{} for _ in self._messages]
        for (n, kind), text in zip(self._places, texts, strict=True):
            said[n][kind] = text
        chat = [
            chat_template.as_dict(message.role, **parts, key=self._reasoning_key, in_parts=self._in_parts)
            for message, parts in zip(self._messages, said, strict=True)
        ]
        try:
            return chat_template.apply(self._tokenizer, chat, self._date, self._switches)
        except chat_template.FAULTS as error:
            raise UserError(
                f"The chat template refuses this conversation ({' '.join(str(error).split())}); clear the system prompt or choose another framing."
            ) from error

    # --- whose is what --------------------------------------------------------------------------------------

    def _exact(self, disguised: str, messages: Sequence[str], kept: list[str], words: list[str]) -> Rendering:
        owners = self._owners(disguised)
        text = self._unhidden(disguised)
        for own, message in dict.fromkeys(zip(self._group, messages, strict=True)):
            self._claim(owners, disguised, text, own, message.strip())
        for i in self._indices:
            said = self._texts[i].strip()
            whole = said and not any(self._owners(messages[i]))
            if whole and (place := self._place(i, said, text)) is not None:
                owners[place : place + len(said)] = self._of(self._group[i], len(said))
        self._fill(owners, text, messages)
        runs: list[tuple[str, Origin]] = []
        sure: list[Span] = []
        for number, start, end in _runs(owners):
            group = self._groups[number]
            runs.append((text[start:end], _ORIGINS[group[0]] if group else "template"))
            if group is None:
                sure.append((start, end))
        return Rendering(tuple(runs), tuple(sure), lost=self._lost(owners, text, [*kept, *words]))

    def _owners(self, disguised: str) -> bytearray:
        """The number of the group that each character is of, and 0 for one that is not private."""
        return bytearray(disguised.translate(self._numbers), "latin-1")

    def _of(self, group: _Group, length: int) -> bytes:
        return bytes([self._groups.index(group)]) * length

    def _claim(self, owners: bytearray, disguised: str, text: str, group: _Group, message: str) -> None:
        """Where a message stands as a whole, what was not hidden of it is its author's, too."""
        mask = self._owners(message)
        if not any(message[found.start() : found.end()].strip() for found in _NOBODYS.finditer(mask)):
            return
        at = disguised.find(message) if any(mask) else -1
        while at >= 0:
            end = at + len(message)
            for number, start, stop in _runs(owners, at, end):
                if not number and not self._has_control(text[start:stop]):
                    owners[start:stop] = self._of(group, stop - start)
            at = disguised.find(message, end)

    @cached_property
    def _elsewise(self) -> str:
        """What the template writes where no message is what it looks for."""
        return self._render([self._hidden(n, (), ()) for n in self._indices])

    def _place(self, i: int, said: str, text: str) -> int | None:
        """Where a message stands that is nothing but a word that the template looks for: where another one would stand."""
        try:
            other = self._elsewise
        except UserError:
            return None
        at = other.find(self._hidden(i, (), ()).strip())
        places = (at, len(text) - len(other) + at) if at >= 0 else ()
        return next((place for place in places if place >= 0 and text[place : place + len(said)] == said), None)

    def _fill(self, owners: bytearray, text: str, messages: Sequence[str]) -> None:
        """What stands between characters of one message as it does there is that message's, too."""
        said = set()
        for group, own, hidden in zip(self._group, self._texts, messages, strict=True):
            number = self._groups.index(group)
            blanks = (found.span() for found in re.finditer(r"\s+", own))
            for start, end in chain(blanks, _gaps(self._owners(hidden))):
                said.add((number, own[max(0, start - 1) : end + 1]))
        for start, end in [*_gaps(owners)]:
            part = text[start - 1 : end + 1]
            if (owners[end], part) in said and not self._has_control(text[start:end]):
                owners[start:end] = owners[end : end + 1] * (end - start)

    @cached_property
    def _has_control(self) -> Callable[[str], bool]:
        return cache(lambda text: bool(text.strip()) and any(marker in text for marker in self._all_control))

    def _lost(self, owners: bytearray, text: str, read: list[str]) -> dict[str, bool]:
        """Whose words are not all there; reasoning, and replies of which the template reads a part to drop it, apart."""
        solid = text.translate(_Told(lambda char: "\0" if char.isspace() else "\1")).encode()
        there = Counter(compress(owners, solid))
        wanted: Counter[_Group] = Counter()
        for who, group, message in zip(self._who, self._group, self._texts, strict=True):
            if who != _REASONING and (who != _REPLY or not any(word in message for word in read)):
                wanted[group] += len("".join(message.split()))
        lost: dict[str, bool] = {}
        for group, count in wanted.items():
            found = there[self._groups.index(group)]
            if found < count:
                lost[group[0]] = lost.get(group[0], True) and not found
        return lost

    def _inexact(self, base: str, text: str) -> Rendering:
        """The template wrote what cannot be followed. What it says by itself is still told from what is spelled.

        Raises:
            UserError: a control token may be made of somebody's words.
        """
        try:
            own = self._render([self._hidden(i, (), ()) for i in self._indices])
        except UserError:  # it wants letters
            own = self._render([re.sub(r"\S", "x", message) for message in self._texts])
        if any(base.count(marker) > own.count(marker) for marker in self._all_control):
            raise _cannot_be_shown()
        spelled = [at for at, number in enumerate(self._owners(base)) if number]
        ends = [-1, *spelled, len(text)]
        sure = tuple((a + 1, b) for a, b in zip(ends, islice(ends, 1, None), strict=False) if a + 1 < b)
        said = text.casefold()
        whole = set(re.findall(r"\w+", said))

        def is_lost(message: str) -> bool:
            rest = dict.fromkeys(word for word in re.findall(r"\w+", message.casefold()) if word not in whole)
            return any(word not in said for word in islice(rest, _SOUGHT))

        lost = {
            who: False
            for who, message in zip(self._who, self._texts, strict=True)
            if who not in _BY_A_MODEL and is_lost(message)
        }
        return Rendering(((text, "template"),), sure, exact=False, lost=lost)


def _cannot_be_shown() -> UserError:
    return UserError(
        "This chat template rewrites messages in a way that cannot be shown exactly; choose the document or the transcript framing."
    )


_ORIGINS: dict[str, Origin] = {
    _SYSTEM: "system",
    _NEW: "new",
    _EARLIER: "history",
    _REPLY: "history",
    _REASONING: "history",
}
