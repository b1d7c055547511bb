"""Random choices for conversations, all on one side of the training / held-out split.

This file knows how wordings are chosen, filled in and dressed up like people write. It does not
know the intents: those are data in `intents/` and makers in `single_turn.py` and `multi_turn.py`.
"""

import hashlib
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from checkpoints.recipe import written
from checkpoints.recipe.facts import capitalise, takes_an

Part = Literal["training", "held_out"]
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    """Alternating turns after an optional system message; the assistant has the last word.

    `learn_from` is the index, among the assistant's messages, of the first one to learn from.
    `expected` is what `judges.judge` looks for in the last reply.
    """

    messages: tuple[tuple[str, str], ...]
    intent: str
    learn_from: int = 0
    expected: Mapping[str, str] = field(default_factory=dict)

    def said_by(self, role: str) -> tuple[str, ...]:
        return tuple(text for speaker, text in self.messages if speaker == role)


def talk(intent: str, *turns: str, system: str = "", expected: Mapping[str, str] | None = None) -> Conversation:
    """A conversation of the given turns; the person begins."""
    first = (("system", system),) if system else ()
    messages = tuple((("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns))
    return Conversation(first + messages, intent, expected=expected or {})


@cache
def table(name: str) -> dict[str, Any]:
    """One file of `intents/`; every text of several lines becomes a tuple of lines."""
    return _lines(tomllib.loads((Path(__file__).parent / "intents" / f"{name}.toml").read_text("utf-8")))


def _lines(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lines(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_lines(inner) for inner in value)
    return tuple(value.strip().splitlines()) if isinstance(value, str) and "\n" in value else value


@cache
def parts(text: str, separator: str = ", ") -> tuple[str, ...]:
    """ "red, blue" as a tuple."""
    return tuple(text.split(separator))


def pairs(rows: Sequence[str]) -> list[tuple[str, str]]:
    """Rows such as "big = large"."""
    return [(left, right) for left, right in (row.split(" = ") for row in rows)]


def normal(text: str) -> str:
    """`text` without case and punctuation, signs of arithmetic apart: what makes two messages the same message."""
    return " ".join(re.findall(r"[a-z0-9]+|[+*]|(?<=\d )-(?= \d)", text.lower()))


@cache
def _rank(normalised: str) -> int:
    return int.from_bytes(hashlib.sha256(normalised.encode()).digest()[:4])


def held_out(value: str) -> bool:
    """Whether a value belongs to the tenth that training never sees, by a stable hash."""
    return _rank(normal(value)) % 10 == 0


@cache
def split(items: tuple[str, ...], part: Part) -> tuple[str, ...]:
    """The items of one part: a tenth, at least one, is held out by a stable hash."""
    ranked = sorted({normal(item) for item in items}, key=_rank)
    kept_out = set(ranked[: max(1, round(len(ranked) / 10))])
    return tuple(item for item in items if (normal(item) in kept_out) == (part == "held_out"))


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Put values in: {x}, {X} with a capital letter, {WORD} in capitals, and "a {x}" as "an apple" where needed."""

    def value(match: re.Match) -> str:
        article, key = match.groups()
        text = slots[key] if key in slots or key.islower() else slots[key.lower()]
        if key.isupper() and len(key) > 1:
            text = text.upper()
        elif key[0].isupper() and key not in slots:
            text = capitalise(text)
        return f"{article}n {text}" if article and takes_an(text) else f"{article} {text}" if article else text

    return re.sub(r"(?:\b([Aa]) )?\{(\w+)\}", value, template)


def with_article(noun: str) -> str:
    return fill("a {x}", {"x": noun})


def small(text: str) -> str:
    """With a small first letter where the first word is one that may lose its capital."""
    word = re.match(r"[A-Za-z']*", text)
    return text[:1].lower() + text[1:] if word and word[0].lower() in _starters() else text


@cache
def _starters() -> frozenset[str]:
    return frozenset(" ".join(table("surface")["starters"]).split())


@cache
def _same() -> tuple[tuple[tuple[str, str], ...], ...]:
    """Groups of beginnings that mean the same, each with the mark that ends its sentence; the first stands before acts."""
    groups = [parts(line, " / ") for line in table("surface")["same"]]
    return tuple(tuple((start.rstrip("."), "." if start.endswith(".") else "?") for start in group) for group in groups)


@cache
def _beginnings() -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Every beginning, the longest first, and those that mean the same."""
    return tuple(sorted(((start, group) for group in _same() for start, _ in group), key=lambda row: -len(row[0])))


class Slots(dict[str, str]):
    """Values drawn when a template first asks for them; {name}, {name2} and {name3} differ."""

    def __init__(self, draw: "Draw", given: Mapping[str, str]):
        super().__init__(given)
        self.draw = draw

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (isinstance(key, str) and key.rstrip("23") in KINDS)

    def __missing__(self, key: str) -> str:
        kind = key.rstrip("23")
        value = KINDS[kind](self.draw)
        while value in self.values():
            value = KINDS[kind](self.draw)
        self[key] = value
        return value


@dataclass(frozen=True)
class Draw:
    """A stream of choices that stays on its side of the split."""

    choose: random.Random
    part: Part = "training"
    names: tuple[str, ...] = ()

    def one(self, items: Sequence[Any]) -> Any:
        """Any item: for choices that do not tell training from probes."""
        return self.choose.choice(items)

    def wording(self, items: tuple[str, ...]) -> str:
        return self.choose.choice(split(items, self.part))

    def reworded(self, topic: Mapping[str, Any]) -> str:
        """One of this side's wordings of a topic. In training also a wording of `also`, an act of `acts` after a
        beginning ("I want to open a window."), or a wording with another beginning that means the same; none of
        these is a held-out wording."""
        wording = self.wording(topic["ask"])
        if self.part == "held_out":
            return wording
        way = self.choose.random()
        if way < 0.4 and ("acts" in topic or "also" in topic):
            new = (
                self.begun(self.one(parts(topic["acts"], " / ")))
                if "acts" in topic
                else self.one(parts(topic["also"], " / "))
            )
        elif way < 0.7:
            new = self.begun_otherwise(wording)
        else:
            return wording
        return wording if normal(new) in {normal(item) for item in split(topic["ask"], "held_out")} else new

    def begun(self, act: str) -> str:
        """A request for help with an act, "open a window"."""
        start, mark = self.one(_same()[0])
        return f"{start} {act}{mark}"

    def begun_otherwise(self, wording: str) -> str:
        for start, others in _beginnings():
            if wording.startswith(f"{start} "):
                other, mark = self.one(others)
                return f"{other}{wording.rstrip('.?!')[len(start) :]}{mark}"
        return wording

    def chance(self, probability: float) -> bool:
        return self.choose.random() < probability

    def name(self) -> str:
        return self._until_on_this_side(lambda: self.choose.choice(self.names))

    def word(self) -> str:
        return self._until_on_this_side(lambda: written.made_up_word(self.choose))

    def _until_on_this_side(self, make: Callable[[], str]) -> str:
        value = make()
        while held_out(value) != (self.part == "held_out"):
            value = make()
        return value

    def slots(self, given: Mapping[str, str] | None = None) -> Slots:
        return Slots(self, given or {})

    def sentence(self, templates: tuple[str, ...], slots: Mapping[str, str]) -> str:
        """One of this side's wordings, filled in."""
        return fill(self.wording(templates), slots)

    def answer(self, templates: tuple[str, ...], slots: Mapping[str, str]) -> str:
        """An answer; answers are not split, since only what people say tells training from probes."""
        return fill(self.one(templates), slots)

    def courtesy(self, text: str) -> str:
        """Now and then a greeting before the text or a thank-you after it."""
        surface = table("surface")
        chance = self.choose.random()
        if chance < 0.16:
            before = self.one(surface["before"])
            return f"{before} {small(text) if before[-1] in ',:' else text}"
        return f"{text} {self.one(surface['after'])}" if chance < 0.28 and text[-1] in ".?!" else text

    def careless(self, text: str) -> str:
        """Now and then in small letters, without the last mark, or with a typing mistake."""
        text = self._typo(text) if self.chance(0.03) else text
        text = text.lower() if self.chance(0.12) else text
        return text.rstrip("?.!") or text if self.chance(0.12) else text

    def dress(self, text: str) -> str:
        return self.careless(self.courtesy(text))

    def _typo(self, text: str) -> str:
        """Two neighbouring letters swapped inside one word of small letters."""
        words = list(re.finditer(r"\b[a-z]{5,}\b", text))
        if not words:
            return text
        at = self.one(words).start() + self.choose.randrange(1, 3)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _listed(key: str) -> Callable[[Draw], str]:
    return lambda draw: draw.one(parts(table("slots")[key]))


KINDS: dict[str, Callable[[Draw], str]] = {
    **{
        key: _listed(key)
        for key in (
            "city",
            "colour",
            "thing",
            "animal",
            "pet",
            "food",
            "job",
            "hobby",
            "room",
            "day",
            "month",
            "place",
            "pet_name",
            "story_thing",
        )
    },
    "name": Draw.name,
    "word": Draw.word,
    "team": Draw.word,
    "n": lambda draw: str(draw.choose.randrange(2, 100)),
    "year": lambda draw: str(draw.choose.randrange(1900, 2036)),
    "late": lambda draw: str(draw.choose.randrange(2016, 2036)),
}


@cache
def names() -> tuple[str, ...]:
    """First names written for this project; `conversations.training` adds those of the corpus."""
    return parts(" ".join(table("slots")["name"]).rstrip(","))
