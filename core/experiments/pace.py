"""How long an experiment takes: what is left of it, how short its replies must be to keep to the budget, what it had when it was stopped."""

from collections.abc import Sequence
from time import monotonic

from ..types import Result
from .values import Exhibit, Finding, Table

BUDGET = 300.0  # seconds that the comparisons of an experiment should take
FEWEST_TOKENS = 8  # shorter replies say nothing
MEASURED_TOKENS = 8  # of the replies that are timed first
_USUAL_TOKENS = 32


class Pace:
    """Of one run. `comparisons` is about how many it asks, which is all that is known of it beforehand."""

    def __init__(self, comparisons: int, budget: float = BUDGET):
        self.comparisons, self.budget = comparisons, budget
        self.share = 1.0  # of the tokens that a reply may usually have
        self.results: list[Result] = []
        self._began = monotonic()
        self._shortened = False

    def measured(self, seconds: float, at_once: int) -> None:
        """So many comparisons of MEASURED_TOKENS took `seconds` together; from here on time counts."""
        expected = seconds / MEASURED_TOKENS * _USUAL_TOKENS * self.comparisons / at_once
        self.share = min(1.0, self.budget / expected) if expected else 1.0
        self._began = monotonic()

    def tokens(self, usual: int) -> int:
        """How many tokens a reply may have that usually has `usual`."""
        allowed = min(usual, max(FEWEST_TOKENS, round(usual * self.share)))
        self._shortened |= allowed < usual
        return allowed

    def seconds_left(self) -> float | None:
        """About, by what the comparisons took until now; None before there are two, and once none is left."""
        done = len(self.results)
        left = self.comparisons - done
        return (monotonic() - self._began) / done * left if done > 1 and left > 0 else None

    def told(self) -> tuple[str, ...]:
        """What a verdict must say of it."""
        if not self._shortened:
            return ()
        return (
            f"To keep to about {self.budget / 60:.0f} minutes on this machine, replies had at most {self.share:.0%} of their usual tokens, and never fewer than {FEWEST_TOKENS}.",
        )

    def so_far(self) -> Finding:
        """What there was when it was stopped: at least one comparison, and no verdict."""
        return Finding(
            outcome="stopped early",
            sentence=f"Stopped after {len(self.results)} of about {self.comparisons} comparisons, so there is no verdict; this is what came back until then.",
            details=self.told(),
            figures={"comparisons": len(self.results)},
            tables=(asked(self.results),),
            exhibits=tuple(Exhibit(label=f"Comparison {i}", result=result) for i, result in enumerate(self.results, 1)),
        )


def asked(results: Sequence[Result]) -> Table:
    """Every comparison with both replies."""
    return Table.of(
        "What was asked",
        results,
        lambda result: {
            "Prompt": result.comparison.prompt,
            "Turns before it": len(result.comparison.conversation.turns),
            "Base": result.base.text,
            "Post-trained": result.post.text,
        },
    )
