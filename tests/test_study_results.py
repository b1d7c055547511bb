"""What a study counts is what an independent count of its replies gives, and its intervals are of the right sample."""

import math
from collections import Counter

import pytest
from statsmodels.stats.proportion import proportion_confint

from core.errors import UserError
from core.study import results, statistics, store
from core.study.checks import read_check
from core.study.plan import StudyPlan, StudyPrompt
from core.study.results import read_bar
from core.study.statistics import Paired
from core.types import DEFAULT_SAMPLING
from tests.test_study_plan import plan
from tests.test_study_run import Typist, perform

GREEDY = DEFAULT_SAMPLING.model_copy(update={"temperature": 0})
PARIS = read_check("contains:Paris")


def say(comparison, side) -> str:
    luck = comparison.sampling.seed % 10
    return (
        "It is Paris." if luck < (5 if side == "base" else 8) else "I do not know." if luck < 9 else "What? What? What?"
    )


def counted(asked: StudyPlan, say=say, **options):
    with store.opened(None) as kept:
        perform(asked, kept, Typist(say, slots=4, **options))
        written = kept.written(asked)
        return written, results.results(asked, written)


@pytest.fixture(scope="module")
def few():
    asked = plan(checks=(PARIS,), seeds=16, crossed=False)
    return asked, counted(asked)[1]


def test_rates_and_differences_are_those_of_an_independent_count():
    asked = plan(checks=(PARIS,))
    written, found = counted(asked)
    assert (found.done, found.total) == (256, 256) and not found.prompts and not found.categories
    assert found.measures == ("contains:Paris", "answers", "declines", "asks more", "loops", "ends by itself")
    replies = {arm: [written[cell].text for cell in written if cell.arm == arm] for arm in asked.arms()}
    for count in found.whole.arms:
        mine = replies[count.arm]
        rate = count.rates["contains:Paris"]
        assert (rate.passed, rate.trials) == (sum("Paris" in text for text in mine), 64)
        assert (rate.interval.low, rate.interval.high) == pytest.approx(
            proportion_confint(rate.passed, 64, method="wilson")
        )
        assert count.rates["declines"].passed == mine.count("I do not know.")
        assert count.rates["loops"].passed == mine.count("What? What? What?") == count.rates["asks more"].passed
        assert count.rates["ends by itself"].share == 1
        assert count.distinct == len(Counter(mine)) and count.tokens.mean == sum(map(len, mine)) / 64
    for contrast in found.whole.contrasts:
        pairs = list(zip(replies[contrast.contrast.base], replies[contrast.contrast.post], strict=True))
        table = statistics.Paired.of(*([("Paris" in text) for text in side] for side in zip(*pairs, strict=True)))
        gap = contrast.gaps["contains:Paris"]
        assert (gap.flips, gap.trials) == (table.first + table.second, 64)
        assert gap.interval == statistics.paired_difference(table) and gap.p == statistics.mcnemar(table)
        assert gap.interval.high - gap.interval.low < gap.unpaired.high - gap.unpaired.low
        assert contrast.equal == sum(a == b for a, b in pairs) and sum(contrast.parted) == 64 - contrast.equal
        assert contrast.tokens.difference == pytest.approx(sum(len(b) - len(a) for a, b in pairs) / 64)


def test_at_temperature_0_one_prompt_has_no_interval():
    _, found = counted(plan(sampling=GREEDY, checks=(PARIS,)))
    assert all(rate.interval is None and rate.trials == 1 for arm in found.whole.arms for rate in arm.rates.values())
    gap = found.whole.contrasts[0].gaps["contains:Paris"]
    assert gap.interval is gap.p is gap.unpaired is None and found.whole.arms[0].tokens.interval is None


def suite(**changes) -> StudyPlan:
    """Twenty prompts in two categories, every second one of which expects something."""
    rows = tuple(
        StudyPrompt(prompt=f"Question {i}?", category="ab"[i % 2], expect=PARIS if i % 2 else None) for i in range(20)
    )
    return plan(prompts=rows, **{"seeds": 4, "crossed": False, **changes})


def test_over_many_prompts_intervals_draw_prompts():
    written, found = counted(suite())
    arm = found.whole.arms[1]
    clusters = [
        [written[cell].text == "I do not know." for cell in written if cell.arm == arm.arm and cell.prompt == i]
        for i in range(20)
    ]
    assert arm.rates["declines"].interval == statistics.bootstrap(clusters)
    assert arm.rates["expect"].trials == 10 * 4, "only where something was expected"
    gap = found.whole.contrasts[0].gaps["declines"]
    assert gap.interval is not None and gap.p is None and gap.unpaired is None
    assert found.prompts[0].arms[0].rates["answers"].interval == statistics.wilson(
        found.prompts[0].arms[0].rates["answers"].passed, 4
    ), "of one prompt its own seeds are the sample"
    assert [category.title for category in found.categories] == ["a", "b"]
    assert (
        found.categories[1].rows == tuple(range(2, 21, 2)) and found.categories[0].arms[0].rates["expect"].trials == 0
    )


def test_where_drawing_prompts_tells_nothing_each_prompt_counts_as_one_cell():
    """All of them agree, or there are few: an interval without width would be a promise that nobody can keep."""
    _, found = counted(suite(), lambda comparison, side: "It is Paris." if side == "post" else "I do not know.")
    base, post = (arm.rates["declines"].interval for arm in found.whole.arms)
    assert base == statistics.wilson(20, 20) and post == statistics.wilson(0, 20)
    assert found.whole.contrasts[0].gaps["declines"].interval == statistics.paired_difference(Paired(0, 20, 0, 0))
    assert found.whole.contrasts[0].gaps["loops"].interval == statistics.paired_difference(Paired(0, 0, 0, 20))
    few = suite()
    _, found = counted(few.model_copy(update={"prompts": few.prompts[:4]}))
    rate = found.whole.arms[0].rates["answers"]
    assert rate.trials == 16 and rate.interval == statistics.wilson(rate.passed / 4, 4)


def test_of_one_cell_for_each_prompt_the_prompts_are_the_sample():
    _, found = counted(suite(sampling=GREEDY))
    rate = found.whole.arms[0].rates["answers"]
    assert rate.trials == 20 and rate.interval == statistics.wilson(rate.passed, 20)
    assert found.whole.contrasts[0].gaps["answers"].p is not None


def test_prompts_are_ranked_by_flips_and_then_by_how_many_replies_differ():
    def says(comparison, side):
        number = int(comparison.prompt.split()[1].strip("?"))
        if number == 3:
            return "It is Paris." if side == "base" else "I do not know."
        return f"It is {side}, as I can tell you." if number == 2 else "It is so, as I can tell you."

    _, found = counted(suite(), says)
    assert [prompt.rows for prompt in found.prompts[:2]] == [(4,), (3,)]
    assert found.prompts[0].flips > found.prompts[1].flips == 0
    parted = found.prompts[1].contrasts[0]
    assert parted.equal == 0 and parted.parted[2] == 4, "at the third word"
    assert parted.parted_steps[len("It is ")] == 4 and sum(parted.parted_steps) == 4, "a token is a letter here"


def test_replies_part_at_a_token_and_what_ends_them_is_none():
    def says(comparison, side):
        other = ("Yes.", "Yes, yes.", "Yes. And so on and on and on and on.")
        return "Yes." if side == "base" else other[comparison.sampling.seed % 3]

    asked = plan(crossed=False, seeds=64)
    written, found = counted(asked, says)
    luck = Counter(asked.seed(0, at) % 3 for at in range(64))
    steps = found.whole.contrasts[0].parted_steps
    # The last letter of a reply that ended by itself is what ended it.
    assert (steps[3], sum(steps)) == (luck[1] + luck[2], luck[1] + luck[2]) and min(luck.values()) > 5
    cut = [reply.model_copy(update={"finish_reason": "length"}) for reply in written.values()]
    assert results.parting_step(cut[0], cut[0].model_copy(update={"token_ids": (*cut[0].token_ids, 5)})) == 4


def test_the_branching_factor_is_e_to_the_mean_entropy_and_its_interval_draws_replies_or_prompts():
    asked = plan(crossed=False, branching=True)
    written, found = counted(asked)
    for count, steps in zip(found.whole.arms, found.branching, strict=True):
        mine = [written[cell].entropies for cell in written if cell.arm == count.arm]
        tokens = [entropy for reply in mine for entropy in reply]
        assert count.branching.mean == pytest.approx(math.exp(sum(tokens) / len(tokens)))
        drawn = statistics.bootstrap(mine)
        assert count.branching.interval.low == math.exp(drawn.low) < count.branching.mean
        assert steps.arm == count.arm and steps.replies[0] == 64 and len(steps.factors) == max(map(len, mine))
        assert steps.factors == pytest.approx([math.exp(1 / (1 + step)) for step in range(len(steps.factors))])
    prompts = suite(branching=True)
    written, found = counted(prompts)
    clusters = [
        [entropy for cell in written if cell.arm == prompts.arms()[0] and cell.prompt == i for entropy in written[cell].entropies]
        for i in range(20)
    ]  # fmt: skip
    assert found.whole.arms[0].branching.interval.high == math.exp(statistics.bootstrap(clusters).high)
    assert counted(plan(crossed=False, seeds=8))[1].whole.arms[0].branching is None


def test_what_is_not_finished_is_not_counted():
    asked = plan(checks=(PARIS,))
    with store.opened(None) as kept:
        perform(asked, kept, Typist(say))
        written = dict(list(kept.written(asked).items())[:10])
    found = results.results(asked, written)
    assert found.done == 10 and sum(arm.replies for arm in found.whole.arms) == 10
    nothing = results.results(asked, {}).whole.arms[0]
    assert nothing.tokens is None and nothing.rates["answers"].share is None


@pytest.mark.parametrize(
    ("bar", "met"),
    [
        ("post<0.9", True), ("post < 0.1", False), ("base[ends by itself]>=1", True), ("difference<=0", False),
        ("difference[declines]<0", True), ("base[contains:Paris]>0.9", False),
    ],
)  # fmt: skip
def test_a_bar_is_held_against_the_rate_that_it_names(bar, met, few):
    said = read_bar(bar, few[0]).met(few[1])
    assert bool(said) is met and all(line.endswith("for embedded.") for line in said) and len(said) < 2


@pytest.mark.parametrize("bar", ["post", "post<", "other<1", "post[wins]<1", "post=1", "post<0.9; base<1"])
def test_a_bar_that_is_none_names_the_measures(bar):
    with pytest.raises(UserError, match=r"is no condition on this study; .* one of answers, declines"):
        read_bar(bar, plan())
