"""What visitors of a soak note: turns, and everything that must not happen to one."""

import re
import statistics
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

MARK = re.compile(r"mark[0-9a-f]{12}")
_SENTENCE = re.compile(r"[A-Z\"'].{8,}[.!?]", re.DOTALL)

# What became of a turn, as columns: the first two are fine, the next three depend on the faults, the others must be 0.
OUTCOMES = ("answered", "left", "told why not", "cut off and asked again", "lost", "crossed", "no sentence")


class Told(Exception):
    """The server said why there is no reply."""


class Lost(Exception):
    """No reply, and nothing said."""


class Crossed(Exception):
    """Somebody else's words."""


class Left(Exception):
    """The visitor went, or stopped it."""


def is_sentence(text: str) -> bool:
    return bool(_SENTENCE.fullmatch(text.strip())) and "Traceback" not in text


def check_own(text: str, own: set[str]) -> None:
    """Raises Crossed where there is anybody else's mark."""
    if strange := set(MARK.findall(text)) - own:
        raise Crossed(f"{sorted(own)} was shown {sorted(strange)}")


class Book:
    """Safe from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self.first: list[float] = []  # seconds to the first token, of those who saw it
        self.told: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.hung = -float("inf")  # when a step was last made to hang
        self.wrong: list[str] = []  # whatever must not happen, in words
        self.kept: list[tuple[dict[str, Any], list[list[int]]]] = []  # what was asked, and the tokens of both replies

    def note(self, kind: str, outcome: str, what: str = "") -> None:
        assert outcome in OUTCOMES
        with self.lock:
            self._counts.setdefault(kind, Counter())[outcome] += 1
            if outcome == "told why not":
                self.told[MARK.sub("mark", re.sub(r"\d[\d,.]*", "N", what))] += 1
            elif outcome in OUTCOMES[4:]:
                self.wrong.append(f"{kind}, {outcome}: {what}"[:500])

    def saw_first(self, seconds: float) -> None:
        with self.lock:
            self.first.append(seconds)

    def keep(self, asked: dict[str, Any], answer: dict[str, Any], most: int) -> None:
        """For asking again; the first ones, so that some are from before every fault."""
        with self.lock:
            if len(self.kept) < most:
                self.kept.append((asked, [answer[side]["token_ids"] for side in ("base", "post")]))

    def add(self, other: "Book") -> None:
        """What another book has."""
        with self.lock:
            for kind, counts in other._counts.items():
                self._counts.setdefault(kind, Counter()).update(counts)
            self.told.update(other.told)
            self.wrong += other.wrong

    def rows(self) -> list[dict[str, Any]]:
        with self.lock:
            counts = {"all": sum(self._counts.values(), Counter()), **dict(sorted(self._counts.items()))}
        return [
            {"visitors": kind, "turns": sum(of.values()), **{name: of[name] for name in OUTCOMES}}
            for kind, of in counts.items()
        ]


def percentile(values: Sequence[float], share: int) -> float:
    """In percent; nan of nothing."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]
