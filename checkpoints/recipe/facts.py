"""The everyday facts of `facts.toml` as rows, and how their wordings are filled in."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def capitalise(text: str) -> str:
    """First letter upper case, the rest as it is ("the Nile" -> "The Nile")."""
    return text[:1].upper() + text[1:]


def takes_an(text: str) -> bool:
    return text[:1].lower() in "aeiou" and not text.lower().startswith(("uni", "eu", "use", "one ", "uku"))


@dataclass(frozen=True)
class Fact:
    """One row: a subject, its value, and the wordings of its group."""

    group: str
    subject: str
    value: str
    ask: tuple[str, ...]
    clause: tuple[str, ...]
    say: tuple[str, ...]

    def fill(self, wording: str, value: str | None = None) -> str:
        y = self.value if value is None else value
        wording = wording.replace(" a {y}", " an {y}") if takes_an(y) else wording
        text = wording.replace("{x}", self.subject).replace("{y}", y)
        return text.replace("{X}", capitalise(self.subject)).replace("{Y}", capitalise(y))


def load() -> list[Fact]:
    """Every fact, in the order of the file."""
    groups = tomllib.loads((Path(__file__).parent / "facts.toml").read_text("utf-8"))
    return [fact for name, group in groups.items() for fact in _rows(name, group)]


def _rows(name: str, group: dict) -> Iterator[Fact]:
    for line in group["rows"].strip().splitlines():
        subject, value = line.split(" = ")
        yield Fact(name, subject, value, tuple(group["ask"]), tuple(group["clause"]), tuple(group["say"]))
