"""What an experiment works with: the leased pair, and asking it several things at once.

Knows comparisons and their results, not what any experiment is about.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from ..errors import UserError
from ..lease import Lease
from ..run import Run, fit
from ..steps import Steps, watch
from ..study.statistics import wilson
from ..types import DEFAULT_SAMPLING, SIDES, Comparison, Conversation, Result, SideResult, Turn
from .pace import MEASURED_TOKENS, Pace
from .values import Step

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Lab:
    """One visitor's experiment on one pair. `today` is the date that a chat template may write (ISO 8601)."""

    lease: Lease
    today: str
    pace: Pace = field(default_factory=lambda: Pace(0))

    @property
    def slots(self) -> int:
        """How many comparisons the pair runs at once."""
        return min(self.lease.side(side).engine.slots for side in SIDES)

    def comparison(
        self, prompt: str, *, turns: Sequence[Turn] = (), system: str = "", framing: str = "", **sampling: float
    ) -> Comparison:
        """A comparison on this pair; `framing` sets both sides, `sampling` what differs from the page's defaults.

        On a slow machine `max_new_tokens` becomes less, so that the experiment keeps to its budget.
        """
        if "max_new_tokens" in sampling:
            sampling["max_new_tokens"] = self.pace.tokens(int(sampling["max_new_tokens"]))
        return Comparison.model_validate(
            {
                "pair": self.lease.pair.id,
                "conversation": Conversation(system=system, turns=tuple(turns)),
                "prompt": prompt,
                "sampling": {**DEFAULT_SAMPLING.model_dump(), **sampling},
                "today": self.today,
                **({"framing_base": framing, "framing_post": framing} if framing else {}),
            }
        )

    def measure(self, prompt: str) -> Steps[Step, None]:
        """Time short replies, as many at once as there are slots, before anything else is asked."""
        short = self.comparison(prompt, max_new_tokens=MEASURED_TOKENS)
        began = monotonic()
        yield from self._ask("Timing a short reply", [short] * self.slots, 0)
        self.pace.measured(monotonic() - began, self.slots)

    def why_not(self, comparison: Comparison) -> str:
        """Why this pair cannot be asked this (its template refuses it, it does not fit), or an empty text."""
        try:
            for side in SIDES:
                fit(comparison.sampling, self.lease.prompt(comparison, side), self.lease.side(side))
        except UserError as error:
            return str(error)
        return ""

    def each(self, doing: str, items: Sequence[T], work: Callable[[T], R]) -> Steps[Step, dict[T, R]]:
        """What the work on each item gives, one after the other, with a step before each and one at the end."""
        found: dict[T, R] = {}
        for item in items:
            yield Step(text=doing, done=len(found), total=len(items))
            found[item] = work(item)
        yield Step(text=doing, done=len(items), total=len(items))
        return found

    def ask(
        self, doing: str, comparisons: Sequence[Comparison], *, at_once: int = 0
    ) -> Steps[Step, tuple[Result, ...]]:
        """Run comparisons, as many at once as there are slots (or `at_once`); their results in the same order.

        No more wait in the queue than can run, so that other visitors get their turn in between.

        Raises:
            UserError: one of them cannot be run, or failed.
        """
        return (yield from self._ask(doing, comparisons, at_once, self.pace.results.append))

    def _ask(
        self,
        doing: str,
        comparisons: Sequence[Comparison],
        at_once: int,
        keep: Callable[[Result], None] = lambda result: None,
    ) -> Steps[Step, tuple[Result, ...]]:
        under_way: deque[Run] = deque()
        results: list[Result] = []
        waiting = deque(comparisons)

        def so_far(step: object) -> Step:
            left = self.pace.seconds_left()
            return Step(text=doing, done=len(results), total=len(comparisons), seconds_left=left)

        try:
            while waiting or under_way:
                while waiting and len(under_way) < (at_once or self.slots):
                    beginning = Run.begin(self.lease, waiting.popleft())
                    under_way.append((yield from watch(beginning, so_far)))
                for _ in under_way[0].snapshots(lambda: 0.25):
                    yield so_far(None)
                results.append(under_way.popleft().result())
                keep(results[-1])
        finally:
            for run in under_way:
                run.stop()
        yield so_far(None)
        return tuple(results)


def same_bits(a: SideResult, b: SideResult) -> bool:
    """The same tokens with the same log-probabilities and margins, to the last bit."""
    return (a.token_ids, a.logprobs, a.margins) == (b.token_ids, b.logprobs, b.margins)


def as_rates(counts: Mapping[str, tuple[int, int]]) -> str:
    """What so few can stand for: of each count and its total Wilson's interval of the rate, in one sentence. Prompts are the sample."""
    told = []
    for what, (count, total) in counts.items():
        rate = wilson(count, total)
        told.append(f"{what} {count} of {total}, {rate.low:.0%} to {rate.high:.0%}")
    return f"As rates over such prompts (Wilson's intervals of 95%): {'; '.join(told)}. More prompts and seeds are a study."


def in_words(reply: SideResult) -> str:
    """A whole reply for a table, where one without words is said in words."""
    return reply.text if reply.text.strip() else "(nothing)"


def rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def mean(values: Sequence[float | None]) -> float | None:
    """Of the values that are known; None when none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
