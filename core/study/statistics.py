"""Intervals and tests for rates and lengths: plain numbers in, plain numbers out.

All intervals are of 95%. Nothing here draws from a generator that anybody shares: the bootstraps have a seed of their own.
"""

from collections.abc import Iterator, Sequence
from math import comb, sqrt
from random import Random
from statistics import NormalDist, fmean
from typing import NamedTuple

from ..types import Value

_Z = NormalDist().inv_cdf(0.975)
RESAMPLES = 1_000  # of a bootstrap; its limits then move by a few hundredths of their width from seed to seed

FEWEST = 8  # values, or clusters, of which a bootstrap says anything


class Interval(Value):
    low: float
    high: float


class Paired(NamedTuple):
    """Pairs of verdicts, counted: `both` passed, the `first` alone, the `second` alone, `neither`."""

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> "Paired":
        pairs = list(zip(first, second, strict=True))
        return cls(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def trials(self) -> int:
        return sum(self)

    @property
    def passed(self) -> tuple[int, int]:
        """How many of the first passed, and of the second."""
        return self.both + self.first, self.both + self.second


# --- rates --------------------------------------------------------------------------------------------


def wilson(successes: float, trials: float) -> Interval:
    """The score interval of a rate (Wilson 1927; equation 4 of Brown, Cai and DasGupta 2001). All rates where nothing was tried."""
    if not trials:
        return Interval(low=0.0, high=1.0)
    share, scale = successes / trials, 1 + _Z * _Z / trials
    middle = (share + _Z * _Z / (2 * trials)) / scale
    half = _Z * sqrt(share * (1 - share) / trials + _Z * _Z / (4 * trials * trials)) / scale
    return Interval(low=max(0.0, middle - half), high=min(1.0, middle + half))


def paired_difference(table: Paired, worth: int | None = None) -> Interval:
    """Of the second rate less the first, where both were tried on the same: Newcombe's score interval.

    Method 10 of Newcombe 1998, Statistics in Medicine 17:2635-2650: Wilson's limits of both rates, joined by the
    correlation phi of the verdicts, which is corrected for continuity where it is positive.

    Args:
        worth: of how many independent pairs these tell, where they repeat each other; as many as there are by default.
    """
    scale = worth / table.trials if worth is not None and table.trials else 1.0
    return _square_and_add(table, scale, _phi(table, scale))


def unpaired_difference(table: Paired) -> Interval:
    """The same as though each had been tried on seeds of its own: method 10 of Newcombe 1998, Statistics in Medicine 17:873-890."""
    return _square_and_add(table, 1.0, 0.0)


def _square_and_add(table: Paired, scale: float, phi: float) -> Interval:
    if not table.trials:
        return Interval(low=-1.0, high=1.0)
    first, second = (passed / table.trials for passed in table.passed)
    one, two = (wilson(passed * scale, table.trials * scale) for passed in table.passed)

    def distance(a: float, b: float) -> float:
        return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return Interval(
        low=max(-1.0, second - first - distance(second - two.low, one.high - first)),
        high=min(1.0, second - first + distance(two.high - second, first - one.low)),
    )


def _phi(table: Paired, scale: float) -> float:
    both, first, second, neither = (count * scale for count in table)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    covariance = both * neither - first * second
    if covariance > 0:
        covariance = max(0.0, covariance - table.trials * scale / 2)
    return covariance / sqrt(margins) if margins else 0.0


def mcnemar(table: Paired) -> float:
    """The exact two-sided p of "neither passes more often", from those pairs alone that differ (McNemar 1947; a sign test)."""
    apart, fewer = table.first + table.second, min(table.first, table.second)
    tail = sum(comb(apart, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**apart)


# --- means --------------------------------------------------------------------------------------------


def bootstrap(clusters: Sequence[Sequence[float]], seed: int = 0) -> Interval | None:
    """Of the mean of all values, by the percentiles of resampled means (Efron and Tibshirani 1993, section 13.3).

    Whole clusters are drawn, since values of one prompt are not independent of each other (Davison and Hinkley 1997,
    section 3.8; arXiv 2411.00640, section 2.2); values that are have a cluster each. None where there are fewer than FEWEST.
    """
    if len(clusters) < FEWEST:
        return None
    return _percentiles(list(_means(clusters, Random(seed))))


def bootstrap_unpaired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Interval | None:
    """Of the second mean less the first, each side resampled by itself, as though nothing joined the values."""
    if min(len(first), len(second)) < FEWEST:
        return None
    random = Random(seed)
    means = zip(_means(singly(first), random), _means(singly(second), random), strict=True)
    return _percentiles([b - a for a, b in means])


def singly(values: Sequence[float]) -> list[tuple[float]]:
    """Each value as a cluster of its own."""
    return [(value,) for value in values]


def _means(clusters: Sequence[Sequence[float]], random: Random) -> Iterator[float]:
    sums = [(sum(cluster), len(cluster)) for cluster in clusters]
    if all(count == 1 for _, count in sums):
        values = [total for total, _ in sums]
        return (fmean(random.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return (_ratio(random.choices(sums, k=len(sums))) for _ in range(RESAMPLES))


def _ratio(drawn: Sequence[tuple[float, int]]) -> float:
    return sum(total for total, _ in drawn) / sum(count for _, count in drawn)


def _percentiles(means: list[float]) -> Interval:
    """The 2.5th and the 97.5th, linear between two values."""
    means.sort()

    def at(share: float) -> float:
        place = share * (len(means) - 1)
        below = int(place)
        above = min(below + 1, len(means) - 1)
        return means[below] + (place - below) * (means[above] - means[below])

    return Interval(low=at(0.025), high=at(0.975))
