r"""Own tests of a reply: contains, regular expression, equals a choice, a number in a range.

    contains:Paris|Lyon    one of these stands in the reply, in capitals or not
    equals:yes|no          the reply is one of these, but for case, quotes, white space and its last stop
    number:3..5            the last number of the reply lies in this range; either end may be left out
    regex:\b[Pp]aris\b     Python's re finds this in the reply

A regular expression is a program, so it runs in a process apart, with an end (core/apart.py).
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import StringConstraints, model_validator

from .. import apart
from ..errors import UserError
from ..types import Value

CheckKind = Literal["contains", "equals", "number", "regex"]
KINDS: tuple[CheckKind, ...] = get_args(CheckKind)
_AT_ONCE = 1_000  # replies that share the seconds of one search
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")


class Check(Value):
    """One test, as `KIND:VALUE` says it."""

    kind: CheckKind
    value: Annotated[str, StringConstraints(min_length=1, max_length=2_000)]

    @model_validator(mode="after")
    def _is_a_range(self) -> "Check":
        if self.kind == "number":
            _range(self.value)
        return self

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def _range(text: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    try:
        ends = float(low or "-inf"), float((high if dots else low) or "inf")
    except ValueError:
        ends = 1.0, 0.0
    if not ends[0] <= ends[1]:
        raise ValueError(f"a range of numbers is written as 3..5, 3.. or ..5, and {text!r} is none")
    return ends


def read_check(text: str) -> Check:
    """Raises UserError when it is none, or pydantic's error when its range is none."""
    kind, _, value = text.partition(":")
    for known in KINDS:
        if kind == known and value:
            return Check(kind=known, value=value)
    raise UserError(f"{text[:80]!r} is no test; write {', '.join(f'{kind}:...' for kind in KINDS)}.")


def expectation(text: str) -> Check:
    """What a suite expects of a reply: a check, or a text that it shall contain."""
    return read_check(text) if text.startswith(tuple(f"{kind}:" for kind in KINDS)) else read_check(f"contains:{text}")


def try_out(check: Check) -> None:
    """Raises UserError when a regular expression is none, before anything is written for it."""
    if check.kind == "regex":
        _search(check.value, [])


def passes(check: Check, replies: Sequence[str]) -> list[bool]:
    """Whether each reply passes.

    Raises:
        UserError: a regular expression takes too much on one of them.
    """
    if check.kind == "regex":
        parts = (replies[first : first + _AT_ONCE] for first in range(0, len(replies), _AT_ONCE))
        return [found for part in parts for found in _search(check.value, part)]
    choices = check.value.casefold().split("|")
    if check.kind == "contains":
        return [any(choice in reply.casefold() for choice in choices) for reply in replies]
    if check.kind == "equals":
        bare = [_bare(choice) for choice in choices]
        return [_bare(reply.casefold()) in bare for reply in replies]
    low, high = _range(check.value)
    numbers = (_NUMBER.findall(reply) for reply in replies)
    return [bool(found) and low <= float(found[-1].replace(",", "")) <= high for found in numbers]


def _bare(text: str) -> str:
    return text.strip().strip("\"'*_`").rstrip(".!").strip("\"'*_`").strip()


def _search(pattern: str, replies: Sequence[str]) -> list[bool]:
    try:
        return [found == "1" for found in apart.ask(pattern, do="search", texts=list(replies))]
    except apart.TooMuch as error:
        raise UserError(f"regex:{pattern[:80]} was ended, because {error}; write a simpler one.") from None
    except apart.Refused as error:
        raise UserError(f"regex:{pattern[:80]} is no regular expression of Python: {error}.") from None
