"""What a study found: verdicts on its replies, counted for all prompts, for each category and for each prompt.

Cells of one prompt are not independent of each other, so where there are several prompts with several cells each, intervals
are made by drawing prompts; else the cells are the sample. One cell alone has no interval. Where drawing prompts tells
nothing, because there are few of them or all of them agree, each prompt counts as one cell, which is the most careful view.
"""

import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import exp
from statistics import fmean
from typing import Literal, NamedTuple

from ..errors import UserError
from ..judging import behaviour, does_not_loop, words
from ..types import Side, Value
from . import statistics
from .checks import passes
from .plan import Arm, Contrast, StudyCell, StudyPlan
from .statistics import Interval, Paired
from .store import CellReply

EXPECT, ENDS, LOOPS = "expect", "ends by itself", "loops"
BEHAVIOURS = ("answers", "declines", "asks more")
JUDGED = (*BEHAVIOURS, LOOPS, ENDS)  # measured in every study

_Verdicts = Mapping[str, Mapping[StudyCell, bool]]


class Rate(Value):
    """How often something was so. `interval` is None where nothing was sampled."""

    passed: int
    trials: int
    share: float | None
    interval: Interval | None


class Mean(Value):
    mean: float
    interval: Interval | None


class Gap(Value):
    """The post-trained side less the base, on the same prompts and seeds.

    `flips` counts where the two differ. `unpaired` is the interval that seeds of each side's own would have given. `p` is McNemar's,
    exact; None where cells are not independent.
    """

    difference: float
    flips: int
    trials: int
    interval: Interval | None
    unpaired: Interval | None
    p: float | None


class ArmCount(Value):
    """The replies of one arm: how many, how many of them distinct, and `tokens`, their mean length.

    `branching` is e to the mean entropy of what their tokens were drawn from: how many tokens there are to choose from, as it were, at a
    step (arXiv 2506.17871, section 2). None where nobody asked.
    """

    arm: Arm
    replies: int
    distinct: int
    rates: dict[str, Rate]
    tokens: Mean | None
    branching: Mean | None = None


class BranchingSteps(Value):
    """The branching factor of an arm at each of its first steps: e to the entropy there, averaged over the replies that are so long, and how many these are."""

    arm: Arm
    factors: tuple[float, ...]
    replies: tuple[int, ...]


class ContrastCount(Value):
    """`equal` replies are so to the letter; `parted` counts at which word (from 0) the others part, the last one meaning later.

    `parted_steps` counts the same by the token, of all whose tokens differ; what ends a reply is no token here.
    """

    contrast: Contrast
    pairs: int
    equal: int
    parted: tuple[int, ...]
    parted_steps: tuple[int, ...]
    gaps: dict[str, Gap]
    tokens: Gap | None


class Slice(Value):
    """Some of the prompts of a study, by their row numbers, and what was counted over them."""

    title: str
    rows: tuple[int, ...]
    arms: tuple[ArmCount, ...]
    contrasts: tuple[ContrastCount, ...]

    @property
    def flips(self) -> int:
        """Over all measures, each checkpoint under its own framing."""
        return sum(gap.flips for contrast in self.contrasts[:1] for gap in contrast.gaps.values())


class StudyResults(Value):
    """`done` of `total` replies were counted. `prompts` begin with those at which verdicts flip most, then with those that part most."""

    done: int
    total: int
    measures: tuple[str, ...]
    whole: Slice
    categories: tuple[Slice, ...]
    prompts: tuple[Slice, ...]
    branching: tuple[BranchingSteps, ...] = ()


PARTED, PARTED_STEPS = 12, 24  # words, and tokens, that the histograms tell apart
_STEPS = 512  # of which the branching factor is told


def results(plan: StudyPlan, written: Mapping[StudyCell, CellReply]) -> StudyResults:
    """Raises UserError when a regular expression takes too much on a reply."""
    counting = _Counting(plan, written, verdicts(plan, written))
    everything = range(len(plan.prompts))
    categories = {plan.prompts[index].category: None for index in everything}
    prompts = [counting.slice(shortened(plan.prompts[index].prompt), [index]) for index in everything]
    return StudyResults(
        done=len(written),
        total=plan.total,
        measures=tuple(counting.verdicts),
        whole=counting.slice("All prompts" if len(prompts) > 1 else prompts[0].title, everything),
        categories=tuple(
            counting.slice(category or "(none)", [i for i in everything if plan.prompts[i].category == category])
            for category in (categories if len(categories) > 1 else ())
        ),
        prompts=tuple(sorted(prompts, key=_interest, reverse=True)) if len(prompts) > 1 else (),
        branching=tuple(counting.branching(arm) for arm in plan.arms()) if plan.branching else (),
    )


def _interest(prompt: Slice) -> tuple[int, float]:
    first = prompt.contrasts[0]
    return prompt.flips, 1 - first.equal / first.pairs if first.pairs else 0.0


def shortened(text: str, length: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "\u2026"


def verdicts(plan: StudyPlan, written: Mapping[StudyCell, CellReply]) -> _Verdicts:
    """By the name of each measure: own tests first, then what the suite expects, then what is measured in every study."""
    cells, texts = list(written), [reply.text for reply in written.values()]
    found: dict[str, dict[StudyCell, bool]] = {
        str(check): dict(zip(cells, passes(check, texts), strict=True)) for check in plan.checks
    }
    expected: dict[StudyCell, bool] = {}
    for index, row in enumerate(plan.prompts):
        if row.expect is not None:
            mine = [cell for cell in cells if cell.prompt == index]
            expected |= zip(mine, passes(row.expect, [written[cell].text for cell in mine]), strict=True)
    if any(row.expect for row in plan.prompts):
        found[EXPECT] = expected
    does = {cell: behaviour(plan.prompts[cell.prompt].prompt, reply.text) for cell, reply in written.items()}
    found |= {kind: {cell: does[cell] == kind for cell in cells} for kind in BEHAVIOURS}
    found[LOOPS] = {cell: not does_not_loop("", reply.text) for cell, reply in written.items()}
    found[ENDS] = {cell: reply.finish_reason == "eos" for cell, reply in written.items()}
    return found


class Flip(NamedTuple):
    """A prompt and seed at which the verdicts of two checkpoints differ, each under its own framing: both replies, and whose passes."""

    base: StudyCell
    post: StudyCell
    measure: str
    passes: Side


def flips(plan: StudyPlan, verdicts: _Verdicts) -> list[Flip]:
    """Those of the first measure first."""
    return [
        Flip(cell, other, measure, "base" if of[cell] else "post")
        for measure, of in verdicts.items()
        for contrast in plan.own()
        for cell in of
        if cell.arm == contrast.base and of[cell] != of.get(other := cell._replace(arm=contrast.post), of[cell])
    ]


class _Counting:
    """Counts slices of one study."""

    def __init__(self, plan: StudyPlan, written: Mapping[StudyCell, CellReply], verdicts: _Verdicts):
        self.plan, self.written, self.verdicts = plan, written, verdicts

    def slice(self, title: str, prompts: Sequence[int]) -> Slice:
        return Slice(
            title=title,
            rows=tuple(index + 1 for index in prompts),
            arms=tuple(self._arm(arm, prompts) for arm in self.plan.arms()),
            contrasts=tuple(self._contrast(contrast, prompts) for contrast in self.plan.contrasts()),
        )

    def _cells(self, arm: Arm, prompts: Iterable[int]) -> list[list[StudyCell]]:
        """Those that are there, prompt by prompt."""
        rows = (
            [StudyCell(prompt, repetition, arm) for repetition in range(self.plan.repetitions)] for prompt in prompts
        )
        return [found for row in rows if (found := [cell for cell in row if cell in self.written])]

    def _arm(self, arm: Arm, prompts: Sequence[int]) -> ArmCount:
        clusters = self._cells(arm, prompts)
        cells = [cell for cluster in clusters for cell in cluster]
        lengths = [[float(len(self.written[cell].token_ids)) for cell in cluster] for cluster in clusters]
        return ArmCount(
            arm=arm,
            replies=len(cells),
            distinct=len({(cell.prompt, self.written[cell].text) for cell in cells}),
            rates={name: _rate(_known(clusters, of)) for name, of in self.verdicts.items()},
            tokens=Mean(mean=_mean(lengths), interval=statistics.bootstrap(_sample(lengths))) if cells else None,
            branching=_branching([[self.written[cell].entropies for cell in cluster] for cluster in clusters]),
        )

    def branching(self, arm: Arm) -> BranchingSteps:
        """Of all prompts together."""
        cells = (cell for cluster in self._cells(arm, range(len(self.plan.prompts))) for cell in cluster)
        replies = [self.written[cell].entropies[:_STEPS] for cell in cells]
        steps = [
            [reply[step] for reply in replies if len(reply) > step] for step in range(max(map(len, replies), default=0))
        ]
        return BranchingSteps(
            arm=arm, factors=tuple(exp(fmean(found)) for found in steps), replies=tuple(map(len, steps))
        )

    def _contrast(self, contrast: Contrast, prompts: Sequence[int]) -> ContrastCount:
        clusters = [
            [
                (cell, other)
                for cell in cluster
                if (other := StudyCell(cell.prompt, cell.repetition, contrast.post)) in self.written
            ]
            for cluster in self._cells(contrast.base, prompts)
        ]
        clusters = [cluster for cluster in clusters if cluster]
        pairs = [pair for cluster in clusters for pair in cluster]
        partings = [_parting(*(self.written[cell].text for cell in pair)) for pair in pairs]
        parted = Counter(min(word, PARTED) for word in partings if word is not None)
        steps = [parting_step(*(self.written[cell] for cell in pair)) for pair in pairs]
        parted_steps = Counter(min(step, PARTED_STEPS) for step in steps if step is not None)
        lengths = [
            [tuple(float(len(self.written[cell].token_ids)) for cell in pair) for pair in cluster]
            for cluster in clusters
        ]
        return ContrastCount(
            contrast=contrast,
            pairs=len(pairs),
            equal=partings.count(None),
            parted=tuple(parted[word] for word in range(PARTED + 1)),
            parted_steps=tuple(parted_steps[step] for step in range(PARTED_STEPS + 1)),
            gaps={
                name: _gap([[(of[a], of[b]) for a, b in cluster if a in of] for cluster in clusters])
                for name, of in self.verdicts.items()
            },
            tokens=_mean_gap(lengths) if pairs else None,
        )


def _known(clusters: Sequence[Sequence[StudyCell]], verdicts: Mapping[StudyCell, bool]) -> list[list[bool]]:
    found = ([verdicts[cell] for cell in cluster if cell in verdicts] for cluster in clusters)
    return [cluster for cluster in found if cluster]


def _are_the_sample(clusters: Sequence[Sequence[object]]) -> bool:
    """Whether cells are independent: of one prompt, or one for each prompt."""
    return len(clusters) == 1 or all(len(cluster) == 1 for cluster in clusters)


def _sample(clusters: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    if not _are_the_sample(clusters):
        return clusters
    return statistics.singly([value for cluster in clusters for value in cluster])


def _mean(clusters: Iterable[Iterable[float]]) -> float:
    values = [value for cluster in clusters for value in cluster]
    return sum(values) / len(values)


def _rate(clusters: Sequence[Sequence[bool]]) -> Rate:
    passed, trials = sum(map(sum, clusters)), sum(map(len, clusters))
    share = passed / trials if trials else None
    interval = None
    if share is not None and trials > 1:
        worth = trials if _are_the_sample(clusters) else len(clusters)
        interval = _drawn(clusters) or statistics.wilson(share * worth, worth)
    return Rate(passed=passed, trials=trials, share=share, interval=interval)


def _drawn(clusters: Sequence[Sequence[float]]) -> Interval | None:
    """By drawing prompts, where that tells anything."""
    drawn = None if _are_the_sample(clusters) else statistics.bootstrap(clusters)
    return drawn if drawn is not None and drawn.low < drawn.high else None


def _gap(clusters: Sequence[Sequence[tuple[bool, bool]]]) -> Gap:
    clusters = [cluster for cluster in clusters if cluster]
    pairs = [pair for cluster in clusters for pair in cluster]
    table = Paired.of([first for first, _ in pairs], [second for _, second in pairs])
    first, second = table.passed
    gap = Gap(
        difference=(second - first) / table.trials if pairs else 0.0,
        flips=table.first + table.second,
        trials=table.trials,
        interval=None,
        unpaired=None,
        p=None,
    )
    if len(pairs) < 2:
        return gap
    if _are_the_sample(clusters):
        interval, unpaired = statistics.paired_difference(table), statistics.unpaired_difference(table)
        return gap.model_copy(update={"interval": interval, "unpaired": unpaired, "p": statistics.mcnemar(table)})
    drawn = _drawn([[float(b) - float(a) for a, b in cluster] for cluster in clusters])
    return gap.model_copy(update={"interval": drawn or statistics.paired_difference(table, len(clusters))})


def _mean_gap(clusters: Sequence[Sequence[tuple[float, ...]]]) -> Gap:
    pairs = [pair for cluster in clusters for pair in cluster]
    differences = [[b - a for a, b in cluster] for cluster in clusters]
    firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
    return Gap(
        difference=_mean(differences),
        flips=sum(a != b for a, b in pairs),
        trials=len(pairs),
        interval=statistics.bootstrap(_sample(differences)),
        unpaired=statistics.bootstrap_unpaired(firsts, seconds) if _are_the_sample(clusters) else None,
        p=None,
    )


def _parting(first: str, second: str) -> int | None:
    """The first word, from 0, that two replies do not share; None where they are equal."""
    return None if first == second else _first_apart(words(first), words(second))


def parting_step(first: CellReply, second: CellReply) -> int | None:
    """The first token, from 0, that two replies do not share, without what ends them; None where there is none."""
    one, two = (each.token_ids[:-1] if each.finish_reason == "eos" else each.token_ids for each in (first, second))
    return None if one == two else _first_apart(one, two)


def _first_apart(one: Sequence[object], two: Sequence[object]) -> int:
    differ = (at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(one), len(two)))


def _branching(clusters: Sequence[Sequence[tuple[float, ...]]]) -> Mean | None:
    """Of the entropies of replies, prompt by prompt. The tokens of one reply are not independent, nor are the replies to one prompt."""
    replies = [list(reply) for cluster in clusters for reply in cluster if reply]
    if not replies:
        return None
    prompts = [[entropy for reply in cluster for entropy in reply] for cluster in clusters]
    drawn = statistics.bootstrap(replies if _are_the_sample(clusters) else list(filter(None, prompts)))
    interval = Interval(low=exp(drawn.low), high=exp(drawn.high)) if drawn is not None else None
    return Mean(mean=exp(_mean(replies)), interval=interval)


# --- what a machine asks of the results ------------------------------------------------------------------

_BAR = re.compile(r"\s*(base|post|difference)\s*(?:\[(.+)\])?\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)\s*")
_COMPARES = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class Bar(Value):
    """A condition under which a study counts as failed: `post<0.9`, or of another measure than the first `base[declines]>0.1`."""

    who: Literal["base", "post", "difference"]
    measure: str
    compares: Literal["<", "<=", ">", ">="]
    number: float

    def __str__(self) -> str:
        return f"{self.who}[{self.measure}]{self.compares}{self.number:g}"

    def met(self, found: StudyResults) -> list[str]:
        """For each pair of which it is true, each checkpoint under its own framing, a sentence."""
        said, seen = [], set()
        for contrast in found.whole.contrasts:
            pair = contrast.contrast.base.pair
            value = None if pair in seen else self._value(found, contrast)
            seen.add(pair)
            if value is not None and _COMPARES[self.compares](value, self.number):
                said.append(f"{self}: it is {value:.3f} for {pair}.")
        return said

    def _value(self, found: StudyResults, contrast: ContrastCount) -> float | None:
        if self.who == "difference":
            gap = contrast.gaps[self.measure]
            return gap.difference if gap.trials else None
        side: Side = self.who
        arm = contrast.contrast.arm(side)
        return next(count.rates[self.measure].share for count in found.whole.arms if count.arm == arm)


def read_bar(text: str, plan: StudyPlan) -> Bar:
    """Raises UserError when it is no condition on a measure of this study."""
    measures = [*map(str, plan.checks), *([EXPECT] if any(row.expect for row in plan.prompts) else []), *JUDGED]
    found = _BAR.fullmatch(text)
    measure = (found[2] or measures[0]) if found else ""
    if found is None or measure not in measures:
        raise UserError(
            f"{text[:80]!r} is no condition on this study; write post<0.9, base[declines]>0.1 or difference<0, with one of {', '.join(measures)}."
        )
    return Bar.model_validate({"who": found[1], "measure": measure, "compares": found[3], "number": float(found[4])})
