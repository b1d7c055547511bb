"""A study as files that other programs read, a row for each reply, and in words for a terminal."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from math import exp
from statistics import fmean
from typing import Any

from ..types import SIDE_NAMES, Framing, Side, Value
from .plan import Arm, StudyCell, StudyPlan
from .receipt import StudyReceipt
from .results import Gap, Mean, Rate, Slice, StudyResults, parting_step, verdicts
from .statistics import Interval
from .store import CellReply


class StudyReport(Value):
    """What a study found, and what it can be checked by."""

    results: StudyResults
    receipt: StudyReceipt


class ReplyRow(Value):
    """One reply of a study. `row` and `repetition` count from 1; `verdicts` are by the name of the measure, where there is one.

    `parts_at` is the token, from 1, at which it and its sibling's at the same seed part, each under its own framing; None where they do
    not, or it has none. `branching` is e to the mean of its `entropies`, None where nobody asked for these.
    """

    row: int
    category: str
    prompt: str
    repetition: int
    seed: int
    pair: str
    side: Side
    framing: Framing
    reply: str
    reasoning: str
    tokens: int
    finish_reason: str
    digest: str
    parts_at: int | None = None
    branching: float | None = None
    verdicts: dict[str, bool]
    entropies: tuple[float, ...] = ()


def rows(plan: StudyPlan, written: Mapping[StudyCell, CellReply]) -> Iterator[ReplyRow]:
    judged = verdicts(plan, written)
    siblings = {own: other for each in plan.own() for own, other in ((each.base, each.post), (each.post, each.base))}
    for cell, reply in written.items():
        sibling = written.get(cell._replace(arm=siblings.get(cell.arm, cell.arm)))
        step = parting_step(reply, sibling) if sibling is not None else None
        asked = plan.prompts[cell.prompt]
        yield ReplyRow(
            row=cell.prompt + 1,
            category=asked.category,
            prompt=asked.prompt,
            repetition=cell.repetition + 1,
            seed=plan.seed(cell.prompt, cell.repetition),
            pair=cell.arm.pair,
            side=cell.arm.side,
            framing=cell.arm.framing,
            reply=reply.text,
            reasoning=reply.reasoning,
            tokens=len(reply.token_ids),
            finish_reason=reply.finish_reason,
            digest=reply.digest,
            parts_at=None if step is None else step + 1,
            branching=exp(fmean(reply.entropies)) if reply.entropies else None,
            entropies=reply.entropies,
            verdicts={name: of[cell] for name, of in judged.items() if cell in of},
        )


def json_lines(plan: StudyPlan, written: Mapping[StudyCell, CellReply]) -> str:
    return "".join(json.dumps(row.model_dump(), ensure_ascii=False) + "\n" for row in rows(plan, written))


def comma_separated(plan: StudyPlan, written: Mapping[StudyCell, CellReply], measures: tuple[str, ...]) -> str:
    """With a column of 1 and 0 for each measure, empty where it has nothing to say."""
    plain = [name for name in ReplyRow.model_fields if name not in ("verdicts", "entropies")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain, *measures])
    for row in rows(plan, written):
        known: dict[str, Any] = row.model_dump()
        found = [int(row.verdicts[name]) if name in row.verdicts else "" for name in measures]
        writer.writerow([*(known[name] for name in plain), *found])
    return text.getvalue()


# --- in words ---------------------------------------------------------------------------------------------


def percent(interval: Interval | None) -> str:
    return f" ({interval.low:.0%} to {interval.high:.0%})" if interval else ""


def rate(found: Rate) -> str:
    """As "12 of 64, 19% (11% to 30%)"."""
    return f"{found.passed} of {found.trials}, {found.share:.0%}{percent(found.interval)}" if found.trials else "-"


def gap(found: Gap) -> str:
    """In percentage points, as "+63 (+48 to +74), p 1.2e-10"."""
    if not found.trials:
        return "-"
    between = f" ({100 * found.interval.low:+.0f} to {100 * found.interval.high:+.0f})" if found.interval else ""
    return f"{100 * found.difference:+.0f}{between}" + (f", p {found.p:.2g}" if found.p is not None else "")


def branching(found: Mean | None) -> str:
    """As "1.83 (1.71 to 1.97)"."""
    if found is None:
        return "-"
    between = f" ({found.interval.low:.2f} to {found.interval.high:.2f})" if found.interval else ""
    return f"{found.mean:.2f}{between}"


def arm_name(arm: Arm, plan: StudyPlan) -> str:
    """The pair is named where there are several."""
    pair = f"{arm.pair}: " if len(plan.pairs) > 1 else ""
    return f"{pair}{SIDE_NAMES[arm.side]}, {arm.framing}"


def plain(plan: StudyPlan, found: StudyResults) -> str:
    """The rates as a person reads them on a terminal."""
    times = f"{plan.repetitions} seeds" if plan.repetitions > 1 else "once"
    asked = f"{len(plan.prompts)} prompts, {times} each" if len(plan.prompts) > 1 else times
    lines = [f"{asked}, {found.done} of {found.total} replies: {found.whole.title}"]
    lines += _over_pairs(plan, found)
    lines += _table(plan, found.whole, found.measures)
    if found.prompts:
        lines += ["", "Prompts at which verdicts flip most:"]
        lines += [
            f"  row {each.rows[0]}, {each.flips} flips: {each.title}" for each in found.prompts[:10] if each.flips
        ]
    return "\n".join([*lines, "", *told(found)])


def told(found: StudyResults) -> list[str]:
    """What must be said beside the numbers."""
    return [OVERLAP] if found.done == found.total else [UNFINISHED, OVERLAP]


UNFINISHED = "It was ended early: the replies that were being written are missing, and long ones are more often among these, so lengths and rates may lean."
OVERLAP = "Intervals are of 95%. Two overlapping intervals are no test: the difference, in percentage points, and p say whether the two differ."


def pair_rows(plan: StudyPlan, found: StudyResults) -> list[tuple[str, str, str, str]]:
    """Of each pair the first measure, each checkpoint as it is used: the pair, both rates, the difference. None of one pair alone."""
    if len(plan.pairs) == 1:
        return []
    measure, own = found.measures[0], plan.own()
    rates = {count.arm: rate(count.rates[measure]) for count in found.whole.arms}
    return [
        (each.contrast.base.pair, rates[each.contrast.base], rates[each.contrast.post], gap(each.gaps[measure]))
        for each in found.whole.contrasts
        if each.contrast in own
    ]


def _over_pairs(plan: StudyPlan, found: StudyResults) -> list[str]:
    rows = pair_rows(plan, found)
    return ["", *_aligned([(found.measures[0], "base", "post-trained", "difference"), *rows])] if rows else []


def _table(plan: StudyPlan, counted: Slice, measures: tuple[str, ...]) -> list[str]:
    by_arm = {count.arm: count for count in counted.arms}
    lines = []
    for contrast in counted.contrasts:
        base, post = (by_arm[contrast.contrast.arm(side)] for side in ("base", "post"))
        pair = f"{contrast.contrast.base.pair}, " if len(plan.pairs) > 1 else ""
        lines += ["", f"{pair}{contrast.contrast.title}: {contrast.equal} of {contrast.pairs} replies equal"]
        table = [("", "base", "post-trained", "difference")]
        table += [(name, rate(base.rates[name]), rate(post.rates[name]), gap(contrast.gaps[name])) for name in measures]
        distinct = [f"{count.distinct} of {count.replies}" for count in (base, post)]
        table.append(("distinct replies", distinct[0], distinct[1], ""))
        if plan.branching:
            table.append(("branching factor", branching(base.branching), branching(post.branching), ""))
        lines += _aligned(table)
    return lines


def _aligned(table: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    ]
