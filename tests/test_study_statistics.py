"""The statistics of studies: equal to statsmodels' and scipy's where these have them, and true to their 95% by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from core.study import statistics
from core.study.statistics import Paired

TABLES = [Paired(36, 12, 2, 0), Paired(0, 0, 0, 8), Paired(8, 0, 0, 0), Paired(0, 8, 0, 0), Paired(20, 3, 11, 30)]


def limits(interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_wilsons_limits_are_statsmodels():
    for trials in (1, 8, 64, 1024):
        for passed in {0, 1, trials // 3, trials - 1, trials}:
            theirs = proportion_confint(passed, trials, method="wilson")
            assert limits(statistics.wilson(passed, trials)) == pytest.approx(theirs, abs=1e-12)
    assert limits(statistics.wilson(0, 0)) == (0, 1), "who tried nothing knows nothing"


@pytest.mark.parametrize("trials", [8, 64, 256])
def test_wilson_covers_95_percent_on_average_over_all_rates(trials):
    """Exactly: the probability of every count whose interval holds the rate."""
    low, high = np.array([limits(statistics.wilson(passed, trials)) for passed in range(trials + 1)]).T
    rates = np.linspace(0.005, 0.995, 199)[:, None]
    covered = (low <= rates) & (rates <= high)
    coverage = (stats.binom.pmf(np.arange(trials + 1), trials, rates) * covered).sum(axis=1)
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("table", TABLES)
def test_the_interval_of_unpaired_seeds_is_statsmodels(table):
    first, second = table.passed
    theirs = confint_proportions_2indep(second, table.trials, first, table.trials, method="newcomb", compare="diff")
    assert limits(statistics.unpaired_difference(table)) == pytest.approx(theirs, abs=1e-9)


def test_the_paired_interval_is_newcombes():
    """The limits are those that the paper of 1998 gives for these tables."""
    low, high = limits(statistics.paired_difference(Paired(36, 12, 2, 0)))
    assert (-high, -low) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize(
    ("trials", "cells"),
    [
        (16, (0.6, 0.05, 0.25, 0.1)),
        (64, (0.6, 0.05, 0.25, 0.1)),
        (64, (0.2, 0.3, 0.3, 0.2)),
        (64, (0.05, 0.02, 0.13, 0.8)),
        (256, (0.05, 0.02, 0.13, 0.8)),
    ],
)
def test_the_paired_interval_covers_93_to_98_percent_of_20_000_draws(trials, cells):
    """Pairs where both pass, the first alone, the second alone, neither. With few seeds and rates near 0 it covers more."""
    draws = np.random.default_rng(7).multinomial(trials, cells, size=20_000)
    tables, counts = np.unique(draws, axis=0, return_counts=True)
    truth = cells[2] - cells[1]
    intervals = (statistics.paired_difference(Paired(*map(int, table))) for table in tables)
    covered = [interval.low <= truth <= interval.high for interval in intervals]
    assert 0.93 <= np.average(covered, weights=counts) <= 0.98


def test_coupling_narrows_the_interval_where_verdicts_agree_and_not_where_they_do_not():
    def widths(table):
        paired, unpaired = statistics.paired_difference(table), statistics.unpaired_difference(table)
        return paired.high - paired.low, unpaired.high - unpaired.low

    paired, unpaired = widths(Paired(30, 1, 3, 30))
    assert paired < 0.6 * unpaired
    paired, unpaired = widths(Paired(16, 16, 16, 16))
    assert paired == unpaired


@pytest.mark.parametrize("table", [*TABLES, Paired(0, 300, 340, 0)])
def test_the_exact_p_is_statsmodels(table):
    both, first, second, neither = table
    theirs = mcnemar([[both, first], [second, neither]], exact=True).pvalue if first + second else 1.0
    assert statistics.mcnemar(table) == pytest.approx(theirs, rel=1e-9)


def test_pairs_that_repeat_each_other_are_worth_fewer():
    four = Paired(*(4 * count for count in TABLES[4]))
    assert statistics.paired_difference(four, TABLES[4].trials) == statistics.paired_difference(TABLES[4])
    assert statistics.paired_difference(four, four.trials) == statistics.paired_difference(four)


def test_verdicts_are_counted_in_pairs():
    table = Paired.of([True, True, False, False, False], [True, False, True, True, False])
    assert table == Paired(both=1, first=1, second=2, neither=1) and table.passed == (2, 3) and table.trials == 5


def test_the_bootstrap_of_a_mean_is_scipys_and_the_same_every_time():
    values = np.random.default_rng(1).gamma(2.0, 20.0, size=64)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    ours = statistics.bootstrap(statistics.singly(values.tolist()), seed=3)
    width = theirs.high - theirs.low
    assert limits(ours) == pytest.approx((theirs.low, theirs.high), abs=0.06 * width)
    assert ours == statistics.bootstrap(statistics.singly(values.tolist()), seed=3)
    assert ours != statistics.bootstrap(statistics.singly(values.tolist()), seed=4)
    other = np.random.default_rng(5).gamma(2.0, 30.0, size=64)
    theirs = stats.bootstrap(
        (other, values), lambda a, b, axis: a.mean(axis) - b.mean(axis), method="percentile", n_resamples=20_000, rng=6
    ).confidence_interval
    ours = statistics.bootstrap_unpaired(values.tolist(), other.tolist())
    assert limits(ours) == pytest.approx((theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low))


def test_resampling_prompts_gives_the_width_that_the_prompts_have_and_not_that_of_their_cells():
    """Sixteen cells of a prompt that always agree are no more than one."""
    rates = np.random.default_rng(8).integers(0, 2, size=40).astype(float)
    one, many = (statistics.bootstrap([[rate] * cells for rate in rates], seed=1) for cells in (1, 16))
    assert limits(many) == pytest.approx(limits(one))
    alone = statistics.bootstrap(statistics.singly([rate for rate in rates for _ in range(16)]), seed=1)
    assert (alone.high - alone.low) < 0.3 * (many.high - many.low)


def test_a_prompt_with_more_cells_counts_for_more():
    interval = statistics.bootstrap([[1.0] * 30, [0.0] * 10] * 20, seed=1)
    assert interval.low < 0.75 < interval.high and interval.high - interval.low < 0.35


def test_of_fewer_than_eight_there_is_no_bootstrap():
    assert statistics.bootstrap([[1.0, 0.0]] * 7) is None and statistics.bootstrap([[1.0, 0.0]] * 8) is not None
    assert statistics.bootstrap_unpaired([1.0] * 7, [2.0] * 8) is None
