"""A study, how far it is and what it found -> pieces of HTML. Every text of a model or a person is escaped here."""

import html
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from ...experiments.report import time_left
from ...study import export, report
from ...study.plan import Arm, Contrast, StudyCell, StudyPlan
from ...study.report import TableCell
from ...study.results import ArmCount, ContrastCount, Flip, StudyResults, verdicts
from ...study.run import StudyProgress
from ...study.served import Study
from ...study.store import CellReply
from ...types import SIDE_NAMES, SIDES
from ..markup import FRAMING, KIND, counted, listed, short

MOST_GROUPS, MOST_CELLS = 64, 64  # of an arm, and of a group, that are drawn; the files have all
_LETTERS, _FLIPPED = 220, 60  # of a reply in the grid, and in the list of flips

HEAD = (
    "<header class='study-head'><h2>How often?</h2><p>Ask both models the same thing at many seeds, the same seeds for both, and count how many "
    "replies pass your test.</p></header>"
)


def progress(far: StudyProgress | None) -> str:
    if far is None:
        return "<p class='muted'>Waiting for the models</p>"
    if far.loading:
        return f"<p class='muted'>{html.escape(far.loading)}</p>"
    left = f", {time_left(far.seconds_left)}" if far.seconds_left is not None else ""
    return (
        f"<p class='study-progress'><progress max='{far.total}' value='{far.done}' aria-label='Replies that are there'></progress>"
        f" {far.done:,} of {far.total:,} replies{left}</p>"
    )


# --- rates -----------------------------------------------------------------------------------------------------


def found(study: Study) -> str:
    """Rates of each side and the difference, then weights or template, then everything else that was counted."""
    plan, results = study.plan, study.report.results
    own = [each for each in results.whole.contrasts if each.contrast in plan.own()]
    pairs = report.pairs_section(plan, study.report)
    headlines = "".join(
        _headline(plan, results, each, listed(export.told(results)) if each is own[-1] else "") for each in own
    )
    grids = "".join(
        _grid_of_framings(plan, results, pair) for pair in plan.pairs if len(own) < len(results.whole.contrasts)
    )
    sections = "".join(report.rates_section(plan, results, each) for each in results.whole.contrasts)
    tables = report.slices_section("By category", "category", plan, results, results.categories)
    tables += report.slices_section(
        "By prompt, those at which verdicts flip most first", "prompt", plan, results, results.prompts
    )
    if results.prompts:
        tables += report.flips_section(plan, study.written(), partial(_both, plan))
    return (
        f"{pairs}{headlines}{grids}{tables}"
        f"<details class='study-more'><summary>Everything that was counted</summary>{sections}</details>"
    )


def _both(plan: StudyPlan, flip: Flip, written: Mapping[StudyCell, CellReply]) -> TableCell:
    """Of both replies the beginning, and what opens them in Compare."""
    button = _cell(plan, flip.base, plan.arms().index(flip.base.arm), None, 0, "Open")
    base, post = (html.escape(short(written[cell].text, _FLIPPED)) for cell in (flip.base, flip.post))
    return TableCell("", None, f"{button} <span class='base'>{base}</span> <span class='post'>{post}</span>")


def _headline(plan: StudyPlan, results: StudyResults, own: ContrastCount, said: str) -> str:
    """The first measure, as each checkpoint of a pair is used; `said` beneath it."""
    measure, pair = results.measures[0], f"{own.contrast.base.pair}, " if len(plan.pairs) > 1 else ""
    sides = "".join(_rate(_count(results, own.contrast.arm(side)), measure) for side in SIDES)
    gap = own.gaps[measure]
    p = f"McNemar's p {gap.p:.2g}" if gap.p is not None else ""
    difference = export.gap(gap.model_copy(update={"p": None}))
    asked = f"{len(plan.prompts)} prompts, {counted(plan.repetitions, 'seed')} each" if len(plan.prompts) > 1 else ""
    asked = asked or (counted(plan.repetitions, "seed") if plan.repetitions > 1 else "Asked once, at temperature 0")
    label = html.escape(f"What was found {pair}".rstrip(" ,"))
    return (
        f"<section class='study-headline' aria-label='{label}'><h3>{html.escape(measure)} <small>{html.escape(pair)}{asked}</small></h3><dl>{sides}"
        f"<div class='difference'><dt>Difference</dt><dd><b>{difference}</b><span>percentage points</span><span>{p}</span></dd></div></dl>"
        f"{said}</section>"
    )


def _rate(count: ArmCount, measure: str) -> str:
    rate = count.rates[measure]
    between = f"{rate.interval.low:.0%} to {rate.interval.high:.0%}" if rate.interval else ""
    share = f"{rate.share:.0%}" if rate.share is not None else "-"
    bar = ""
    if rate.share is not None:
        low, high = (rate.interval.low, rate.interval.high) if rate.interval else (rate.share, rate.share)
        bar = (
            "<svg viewBox='0 0 200 14' preserveAspectRatio='none' aria-hidden='true'>"
            f"<rect class='whole' width='200' height='14'/><rect class='share' width='{200 * rate.share:.1f}' height='14'/>"
            f"<rect class='interval' x='{200 * low:.1f}' width='{max(1.5, 200 * (high - low)):.1f}' y='5.5' height='3'/></svg>"
        )
    return (
        f"<div class='{count.arm.side}'><dt>{KIND[count.arm.side]}, {FRAMING[count.arm.framing].lower()}</dt>"
        f"<dd><b>{share}</b><span>{rate.passed} of {rate.trials}</span><span>{between}</span>{bar}</dd></div>"
    )


def _count(results: StudyResults, arm: Arm) -> ArmCount:
    return next(count for count in results.whole.arms if count.arm == arm)


def _grid_of_framings(plan: StudyPlan, results: StudyResults, pair: str) -> str:
    """The two checkpoints under the two framings: what the weights change stands below each other, what the template does side by side."""
    measure, framings = results.measures[0], (plan.framing_base, plan.framing_post)
    rows = [
        (
            SIDE_NAMES[side],
            *(
                export.rate(_count(results, Arm(pair=pair, side=side, framing=each)).rates[measure])
                for each in framings
            ),
        )
        for side in SIDES
    ]
    return (
        "<section class='study-two'><h3>Weights or template?</h3><p class='muted'>Two things changed between the two: the weights and the text around the prompt. Here is each with the other.</p>"
        f"{report.table(f'{measure}, {pair}' if len(plan.pairs) > 1 else measure, ['weights', *(FRAMING[each] for each in framings)], rows)}</section>"
    )


# --- replies ----------------------------------------------------------------------------------------------------


def replies(study: Study, prompt: int) -> str:
    """The replies to one prompt, equal ones together; each small cell is one of them."""
    plan, everything = study.plan, study.written()
    written = {cell: reply for cell, reply in everything.items() if cell.prompt == prompt}
    judged = verdicts(plan, written)
    measure = study.report.results.measures[0]
    passed = judged.get(measure, {})
    own = plan.own()
    sides = {each: "".join(_arm(plan, each.arm(side), written, passed) for side in SIDES) for each in own}
    pairs = "".join(
        f"{_flips(plan, each, written, passed, measure)}<div class='study-arms'>{drawn}</div>"
        for each, drawn in sides.items()
    )
    shown = {arm for each in own for arm in (each.base, each.post)}
    rest = "".join(_arm(plan, arm, written, passed) for arm in plan.arms() if arm not in shown)
    asked = f"<p class='study-asked'>{html.escape(short(plan.prompts[prompt].prompt, 400))}</p>"
    return (
        "<header><h3>Replies, equal ones together</h3><p class='muted'>Each small number is one seed; press it to open both models' replies at this seed in Compare, where they are written again, the same.</p></header>"
        f"{asked if len(plan.prompts) > 1 else ''}{pairs}"
        + (
            f"<details class='study-more'><summary>Under the other's framing</summary><div class='study-arms'>{rest}</div></details>"
            if rest
            else ""
        )
    )


def _flips(
    plan: StudyPlan,
    own: Contrast,
    written: Mapping[StudyCell, CellReply],
    passed: Mapping[StudyCell, bool],
    measure: str,
) -> str:
    """The seeds at which the verdicts of the two differ, each as it is used."""
    flips = [
        cell
        for cell in written
        if cell.arm == own.base
        and (other := cell._replace(arm=own.post)) in passed
        and passed.get(cell) != passed[other]
    ]
    if not flips:
        return ""
    cells = _cells(plan, flips, {cell: passed[cell._replace(arm=own.post)] for cell in flips}, "flip")
    return f"<div class='study-flips'><p>At {counted(len(flips), 'seed')} the two differ on {html.escape(measure)}; coloured: the post-trained one passes.</p>{cells}</div>"


def _arm(plan: StudyPlan, arm: Arm, written: Mapping[StudyCell, CellReply], passed: Mapping[StudyCell, bool]) -> str:
    groups: dict[str, list[StudyCell]] = {}
    for cell, reply in written.items():
        if cell.arm == arm:
            groups.setdefault(reply.text, []).append(cell)
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    total = sum(map(len, groups.values()))
    shown = "".join(_group(plan, text, cells, total, passed) for text, cells in ranked[:MOST_GROUPS])
    more = (
        f"<p class='muted'>And {len(ranked) - MOST_GROUPS:,} more, in the files below.</p>"
        if len(ranked) > MOST_GROUPS
        else ""
    )
    name = html.escape(
        f"{KIND[arm.side]}, {FRAMING[arm.framing].lower()}" + (f", {arm.pair}" if len(plan.pairs) > 1 else "")
    )
    return (
        f"<section class='study-arm {arm.side}' aria-label='Replies: {name}'><h4>{name} <small>{len(ranked):,} distinct of {total:,}</small></h4>"
        f"<ul>{shown}</ul>{more}</section>"
    )


def _group(plan: StudyPlan, text: str, cells: Sequence[StudyCell], total: int, passed: Mapping[StudyCell, bool]) -> str:
    """Equal replies pass alike, so one verdict stands for all of them."""
    verdict = passed.get(cells[0])
    mark = {True: "passes", False: "fails", None: ""}[verdict]
    told = f"<b>{len(cells)} of {total}</b>" if len(cells) > 1 else ""
    said = f"<span class='verdict-word {mark}'>{mark}</span>" if mark else ""
    words = html.escape(short(text, _LETTERS)) or "<i>nothing</i>"
    return (
        f"<li><p class='words'>{words}</p><div class='counts'>{told}{said}{_cells(plan, cells, passed, '')}</div></li>"
    )


def _cells(plan: StudyPlan, cells: Sequence[StudyCell], passed: Mapping[StudyCell, bool], kind: str) -> str:
    arms = plan.arms()
    drawn = "".join(
        _cell(plan, cell, arms.index(cell.arm), passed.get(cell), at) for at, cell in enumerate(cells[:MOST_CELLS])
    )
    more = f"<span class='muted'>and {len(cells) - MOST_CELLS:,} more</span>" if len(cells) > MOST_CELLS else ""
    return f"<div class='cells {kind}' role='group' aria-label='{counted(len(cells), 'seed')}'>{drawn}{more}</div>"


def _cell(plan: StudyPlan, cell: StudyCell, arm: int, passed: bool | None, at: int, label: str = "") -> str:
    """Of a group the first is reached by Tab, the others by the arrow keys (studies.js)."""
    seed = plan.seed(cell.prompt, cell.repetition)
    mark = {True: " pass", False: " fail", None: ""}[passed]
    number = cell.repetition + 1
    return (
        f"<button type='button' class='cell{mark}' data-cell='[{cell.prompt},{cell.repetition},{arm}]' tabindex='{0 if at == 0 else -1}'"
        f" title='Seed {seed}: open both replies in Compare' aria-label='Reply {number}, {SIDE_NAMES[cell.arm.side]}: open both replies in Compare'>{label or number}</button>"
    )


def prompts(study: Study) -> list[tuple[str, int]]:
    """What can be chosen to see its replies: those at which verdicts flip most first."""
    ranked: Iterable[int] = (each.rows[0] - 1 for each in study.report.results.prompts)
    return [(f"{at + 1}. {short(study.plan.prompts[at].prompt, 70)}", at) for at in ranked]
