"""How a chat template marks a reply's reasoning, and a reply's token ids read as reasoning and answer.

A template is asked by rendering a reply with reasoning in it, under each of the names by which templates
read it, and looking at what stands around it. Where it reads none of them, the marks that its program
names count. In a reply the marks may be control tokens, which have no text: each of those has a
surrogate in its place while the reply is read, which no text holds.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from . import apart, chat_template
from .chat_template import ANSWER, PART, REASONING, REASONING_KEYS, as_dict
from .detokenizer import Detokenizer, HasAddedTokens

# Of templates that take a reply as one text: what begins reasoning, and what ends it.
_SPELLED = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought\n", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<thinking>", "</thinking>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]|◁[^◁▷\s]+▷")
_FIRST_CODE = 0xD800
_ASKED = {"role": "user", "content": "Question?"}
_CALLS = [{"type": "function", "id": "000000000", "function": {"name": "f", "arguments": {}}}]


class HasTokens(chat_template.HasTemplate, HasAddedTokens, Protocol):
    """What is used of transformers' PreTrainedTokenizerFast."""


@dataclass(frozen=True)
class Marks:
    """What stands before reasoning, between it and the answer, and before an answer that has none.

    `key` is how the template is given reasoning: under this name in the message, as a part of its content
    (`PART`), or, if it is empty, with its marks in the content.
    """

    opens: str
    closes: str
    answers: str = ""
    key: str = ""

    def spelled(self, reasoning: str, answer: str) -> str:
        """A reply as one text."""
        return f"{self.opens}{reasoning}{self.closes}{answer}" if reasoning else answer

    def begun_by(self, text: str) -> bool:
        """Whether a reply behind this text is reasoning from its first token on."""
        return text.rstrip().endswith(self.opens.strip())


# --- what a template marks ----------------------------------------------------------------------------


@apart.one_budget()
def marks(tokenizer: chat_template.HasTemplate) -> Marks | None:
    """The marks of the chat template; None where it has none that can be told."""
    template = chat_template.of(tokenizer)
    for key in (*REASONING_KEYS, PART):
        for calls in (False, True) if (key if key != PART else "thinking") in template else ():
            with suppress(*chat_template.FAULTS):
                if found := _probed(tokenizer, key, calls):
                    return found
    return next((Marks(opens, closes) for opens, closes in _SPELLED if closes in template), None)


def _probed(tokenizer: chat_template.HasTemplate, key: str, calls: bool) -> Marks | None:
    """The marks around reasoning that is given under this name, with tools called after it or not. Raises one of FAULTS."""

    def render(*chat: dict[str, Any], reply_follows: bool = False) -> str:
        return chat_template.apply(tokenizer, list(chat), date(2000, 1, 1), {}, add_generation_prompt=reply_follows)

    reply = as_dict("assistant", ANSWER, REASONING, key) | ({"tool_calls": _CALLS} if calls else {})
    before, found, after = render(_ASKED, reply).partition(REASONING)
    between, answered, _ = after.partition(ANSWER)
    first = _TAG.search(between)
    if not (found and answered and first) or "'type'" in before:
        return None
    begun = render(_ASKED, reply_follows=True)
    plain = render(_ASKED, {"role": "assistant", "content": ANSWER}).partition(ANSWER)[0]
    opens = _beyond(begun, before)
    if not _TAG.search(opens):  # the template has written it by then, or there is none
        last = [tag.start() for tag in _TAG.finditer(before)]
        if not last or before == plain:
            return None
        opens = before[last[-1] :]
    answers = _beyond(begun, plain)
    answers = answers if _TAG.search(answers) and opens.strip() not in answers else ""
    return Marks(opens, between[: first.end()] if calls else between, answers, key)


def _beyond(begun: str, text: str) -> str:
    """What a text has beyond what it has in common with how a reply is begun."""
    same = next((i for i, (a, b) in enumerate(zip(begun, text, strict=False)) if a != b), min(len(begun), len(text)))
    return text[same:]


# --- a reply -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """What a reply says so far, in two parts and as one text."""

    reasoning: str
    answer: str
    whole: str


class ReplyReader:
    """The token ids of a reply as they come, behind the ids `before` them.

    `begun`: the reply is reasoning from its first token on. Without marks all of it is the answer.
    """

    def __init__(self, tokenizer: HasTokens, before: Sequence[int], marks: Marks | None = None, *, begun: bool = False):
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._detokenizer = Detokenizer(tokenizer, before)
        self._codes = _codes(tokenizer, marks) if marks else {}
        self._marks = marks or Marks("", "")
        self._opens, self._closes, self._answers = (
            self._coded(mark.strip()) for mark in (self._marks.opens, self._marks.closes, self._marks.answers)
        )
        self._past = ""  # the text up to the last control token of the marks
        self._read = self._looked = 0  # how many ids, and how far nothing was found
        self._reasoning_from = 0 if begun and marks else None
        self._reasoning_to: int | None = None
        self._answer_from = None if marks else 0
        self._ended = False
        self.reasoning_tokens = 0  # the marks around it are counted, too

    def take(self, *ids: int) -> None:
        for id in ids:
            if code := self._codes.get(id):
                self._past += self._detokenizer.text + code
                self._detokenizer = Detokenizer(self._tokenizer, [*self._ids, id])
            else:
                self._detokenizer.take(id)
            if self._marks.opens:
                self._ids.append(id)
                self._read += 1
                self._look()

    def end(self) -> None:
        """No ids will come any more."""
        self._ended = True

    @property
    def split(self) -> Split:
        text = self._past + (self._detokenizer.text if self._ended else self._detokenizer.readable)
        reasoning = answer = ""
        if self._reasoning_from is not None:
            reasoning = text[self._reasoning_from : self._reasoning_to]
        if self._answer_from is not None:
            answer = text[self._answer_from :]
        elif self._reasoning_from is not None:
            reasoning = self._shown(reasoning, self._closes)
        else:
            answer = self._shown(text, self._opens) and self._shown(text, self._answers)
        if self._reasoning_to is not None:
            reasoning = reasoning.removesuffix(_before(self._marks.closes))
            answer = answer.removeprefix(_behind(self._marks.closes))
        reasoning = reasoning.removeprefix(_behind(self._marks.opens))
        return Split(self._plain(reasoning), self._plain(answer), self._plain(text))

    def _look(self) -> None:
        """Whether the last id has begun or ended something."""
        if self._answer_from is not None:
            return
        text = self._past + self._detokenizer.readable
        if self._reasoning_from is None:
            said = text.lstrip()
            start = len(text) - len(said)
            if said.startswith(self._opens):
                self._reasoning_from = self._looked = start + len(self._opens)
            elif self._answers and said.startswith(self._answers):
                self._answer_from = start + len(self._answers)
            elif not (self._opens.startswith(said) or self._answers.startswith(said)):
                self._answer_from = 0
        if self._reasoning_from is not None:
            self.reasoning_tokens = self._read
            at = text.find(self._closes, self._looked)
            self._looked = max(self._reasoning_from, len(text) - len(self._closes))
            if at >= 0:
                self._reasoning_to, self._answer_from = at, at + len(self._closes)

    def _shown(self, text: str, mark: str) -> str:
        """The text without what may become a mark at its end; when nothing follows, without what is surely a part of one."""
        for length in range(min(len(mark) - 1, len(text)), 0, -1):
            if text.endswith(mark[:length]):
                return text if self._ended and self._plain(mark[:length]) == mark[:length] else text[:-length]
        return text

    def _coded(self, mark: str) -> str:
        for id, code in self._codes.items():
            mark = mark.replace(self._tokenizer.added_tokens_decoder[id].content, code)
        return mark

    def _plain(self, text: str) -> str:
        return text.translate(dict.fromkeys(map(ord, self._codes.values()))) if self._codes else text


def _codes(tokenizer: HasTokens, marks: Marks) -> Mapping[int, str]:
    """A surrogate for each control token of the marks that has no text in a reply, the longest tokens first."""
    text = marks.opens + marks.closes + marks.answers
    special = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = sorted((id for id, token in special.items() if token in text), key=lambda id: -len(special[id]))
    return {id: chr(_FIRST_CODE + n) for n, id in enumerate(ids)}


def _before(mark: str) -> str:
    """The white space with which a mark begins."""
    return mark[: len(mark) - len(mark.lstrip())]


def _behind(mark: str) -> str:
    """The white space with which a mark ends."""
    return mark[len(mark.rstrip()) :]


def part_ids(tokenizer: HasTokens) -> frozenset[int]:
    """The control tokens between reasoning and answer: a reply goes on behind them."""
    found = marks(tokenizer)
    return frozenset(_between(tokenizer, found.closes)) if found else frozenset()


def _between(tokenizer: HasTokens, closes: str) -> Iterator[int]:
    for id, token in tokenizer.added_tokens_decoder.items():
        if token.content in closes:
            yield id
