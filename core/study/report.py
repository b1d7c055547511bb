"""A study as one HTML file to take away: it asks nothing of anybody, prints, and carries the receipt that it can be checked by.

Everything in it is escaped, no script runs in it but the one that sorts and filters tables, and what does not fit into MOST_BYTES is left out, which is said.
"""

import base64
import hashlib
import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import canonical
from ..installation import COMMAND
from ..types import SIDE_NAMES, SIDES, Side
from . import export
from .plan import Contrast, StudyCell, StudyPlan
from .receipt import EMBEDDED, StudyReceipt
from .results import (
    ArmCount,
    BranchingSteps,
    ContrastCount,
    Flip,
    Gap,
    Rate,
    Slice,
    StudyResults,
    flips,
    shortened,
    verdicts,
)
from .statistics import Interval
from .store import CellReply

MOST_BYTES = 500_000
_MOST_ROWS = 200  # of a table of prompts or categories
_FILTERED = 4  # so many rows are worth it
_MOST_FLIPS, _FLIPPED_CHARACTERS = 300, 160
_SHOWN_PROMPTS, _SHOWN_GROUPS, _SHOWN_CHARACTERS = 20, 40, 1_000  # of replies

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a18; --soft: #53524d; --line: #d2d1c9; --page: #fff; --base: #3f5fbf; --post: #b45309 }
@media (prefers-color-scheme: dark) { :root { --ink: #ecebe6; --soft: #a3a29b; --line: #3a3a36; --page: #171716; --base: #93a8f4; --post: #f0a860 } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #333; --line: #bbb; --page: #fff; --base: #3f5fbf; --post: #b45309 } section { break-inside: avoid } .filter { display: none } }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page) }
h1, p, dd, dt { overflow-wrap: anywhere } h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem }
.soft, caption { color: var(--soft) } caption { text-align: left }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); font-weight: 400 }
thead th, dt { font-weight: 700 } td, tbody th { overflow-wrap: anywhere; min-width: 5rem }
th button { font: inherit; color: inherit; background: none; border: 0; padding: .25rem 0; text-align: left; cursor: pointer; text-decoration: underline dotted }
th[aria-sort=ascending] button::after { content: " \\2191" } th[aria-sort=descending] button::after { content: " \\2193" }
.filter { margin: .5rem 0 } .filter input { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--soft); border-radius: .25rem; padding: .25rem .5rem; max-width: 100% }
dl { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr; gap: .2rem 1rem } dd { margin: 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .25rem 0 .75rem; padding: .5rem .75rem; border-left: 3px solid var(--line); unicode-bidi: plaintext; font: .9rem/1.45 ui-monospace, monospace }
.base { border-color: var(--base) } .post { border-color: var(--post) }
svg { width: 100%; max-width: 44rem; height: auto; font: 12px system-ui, sans-serif } svg text { fill: var(--ink) }
svg .axis { stroke: var(--line) } svg .base { fill: var(--base); stroke: var(--base) } svg .post { fill: var(--post); stroke: var(--post) } svg .line { fill: none; stroke-width: 2 }
.key span { border-left-width: .7rem; border-left-style: solid; padding-left: .4rem; margin-right: 1.5rem }
"""

# Sorts and filters tables; whoever shows them elsewhere needs it too.
TABLES = Path(__file__).with_name("table.js").read_text("utf-8")
_SCRIPT = f"const element = document;\n{TABLES}"
_ALLOWED = f"'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'"


def html_report(plan: StudyPlan, written: Mapping[StudyCell, CellReply], report: export.StudyReport) -> str:
    """At most MOST_BYTES of UTF-8."""
    found = report.results
    receipt = _receipt(report.receipt)
    carried = len(receipt.encode()) <= MOST_BYTES // 2
    at_the_end = {"how to run it again": _again(report.receipt, carried), "the receipt": receipt if carried else ""}
    by_importance = {
        "the settings": _settings(plan, report.receipt),
        **at_the_end,
        "the pairs": pairs_section(plan, report),
        **{f"rates, {_title(plan, each.contrast)}": rates_section(plan, found, each) for each in found.whole.contrasts},
        "the categories": slices_section("By category", "category", plan, found, found.categories),
        "the prompts": slices_section(
            "By prompt, those at which verdicts flip most first", "prompt", plan, found, found.prompts
        ),
        "the flips": flips_section(plan, written, _both_replies),
        "the replies": _replies(plan, written, found),
    }
    room, shown = MOST_BYTES - 10_000, dict[str, str]()
    for name, section in by_importance.items():
        if len(section.encode()) <= room:
            room -= len(section.encode())
            shown[name] = section
    left_out = [name for name in by_importance if name not in shown]
    body = "".join(shown[name] for name in sorted(shown, key=lambda name: name in at_the_end))
    missing = f"<p>Left out, since a report has at most {MOST_BYTES:,} bytes: {html.escape(', '.join(left_out)[:5_000])}. <code>--receipt</code>, <code>--json</code> and <code>--out replies.jsonl</code> have all of it.</p>"
    title = f"How often? {found.whole.title}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src "
        f'{_ALLOWED}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f"<p>{found.done:,} of {found.total:,} replies. {html.escape(' '.join(export.told(found)))}</p>"
        f"{body}{missing if left_out else ''}</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _title(plan: StudyPlan, contrast: Contrast) -> str:
    return f"{contrast.base.pair}, {contrast.title}" if len(plan.pairs) > 1 else contrast.title


class TableCell(NamedTuple):
    """A text, the number that its column is sorted by where that is not the text, and HTML behind it."""

    text: str
    by: float | None = None
    more: str = ""


_Row = Sequence[str | int | TableCell]
_NAMES_ITS_ROW = 'th scope="row"'


def table(caption: str, head: Sequence[str], rows: Sequence[_Row], *, sorts: bool = False) -> str:
    """The first cell of a row names it. One that `sorts` does that by each column, and filters where there is something to filter."""
    body = "".join(
        f"<tr>{_cell(_NAMES_ITS_ROW, first)}{''.join(_cell('td', cell) for cell in rest)}</tr>" for first, *rest in rows
    )
    button, end = ('<button type="button">', "</button>") if sorts else ("", "")
    columns = "".join(f'<th scope="col">{button}{html.escape(name)}{end}</th>' for name in head)
    label = html.escape(caption)
    shown = f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table{" class=sorts" if sorts else ""}><caption>{label}</caption><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'
    if not sorts or len(rows) < _FILTERED:
        return shown
    return f'<div><p class="filter"><label>Rows with <input type="search" aria-label="Rows with, {label}"></label> <span></span></p>{shown}</div>'


def _cell(tag: str, cell: str | int | TableCell) -> str:
    given = cell if isinstance(cell, TableCell) else TableCell(str(cell), cell if isinstance(cell, int) else None)
    by = "" if given.by is None else f' data-by="{given.by:.6g}"'
    return f"<{tag}{by}>{html.escape(given.text)}{given.more}</{tag[:2]}>"


# --- what was asked, and how to ask it again ---------------------------------------------------------------


def _settings(plan: StudyPlan, receipt: StudyReceipt) -> str:
    sampling = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in plan.sampling if name != "seed")
    facts = {
        **({"Prompts": f"{len(plan.prompts):,}"} if len(plan.prompts) > 1 else {}),
        "Asked": f"{plan.repetitions:,} times{' each' if len(plan.prompts) > 1 else ''}, at seeds made of the study's seed {plan.sampling.seed}"
        if plan.repetitions > 1
        else "once",
        "Sampling": sampling,
        "Framing": f"{plan.framing_base} (base), {plan.framing_post} (post-trained)",
        "Date": plan.today,
        **{f"Template: {name}": str(value) for name, value in plan.chat_template_kwargs.items()},
    }
    for writer in receipt.writers:
        by = writer.fingerprint
        facts[f"{SIDE_NAMES[writer.side].capitalize()}, {writer.pair}"] = (
            f"{by.checkpoint.name}, weights {by.weights_sha256[:16]}; {by.engine.certification}; {by.engine.device}, {by.engine.dtype}, {by.engine.arithmetic} arithmetic"
        )
    listed = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    asked = plan.prompts[0]
    system = (
        f"<h3>System prompt</h3><pre>{html.escape(asked.conversation.system)}</pre>"
        if asked.conversation.system
        else ""
    )
    prompt = f"{system}<h3>Prompt</h3><pre>{html.escape(asked.prompt)}</pre>" if len(plan.prompts) == 1 else ""
    return f"<section><h2>What was asked</h2>{prompt}<dl>{listed}</dl></section>"


def _again(receipt: StudyReceipt, carried: bool) -> str:
    file = "report.html" if carried else "receipt.json"
    where = "This file carries" if carried else "A file that <code>--receipt receipt.json</code> wrote holds"
    return (
        f"<section><h2>Run it again</h2><p>{where} the receipt of the study: the plan, the fingerprints and a digest for each reply. "
        f"Its sha256 is {receipt.sha256}. All replies again, or twenty of them that a seed chooses:</p>"
        f"<pre>{COMMAND} replay {file}\n{COMMAND} replay {file} --sample 20 --sample-seed 5</pre></section>"
    )


def _receipt(receipt: StudyReceipt) -> str:
    """As a block of data, which no browser runs; no character of it can end the block."""
    return f"{EMBEDDED}{canonical.text(canonical.dump(receipt)).replace('<', chr(92) + 'u003c')}</script>"


# --- rates ---------------------------------------------------------------------------------------------------


def _count(counted: Slice, contrast: Contrast, side: Side) -> ArmCount:
    return next(count for count in counted.arms if count.arm == contrast.arm(side))


def rates_section(plan: StudyPlan, found: StudyResults, counted: ContrastCount) -> str:
    counts = {side: _count(found.whole, counted.contrast, side) for side in SIDES}
    title = _title(plan, counted.contrast)
    rows = [
        (name, *(export.rate(counts[side].rates[name]) for side in SIDES), *_gap(counted.gaps[name]))
        for name in found.measures
    ]
    lengths = [
        f"{count.tokens.mean:.1f}{_numbers(count.tokens.interval)}" if count.tokens else "-"
        for count in counts.values()
    ]
    rows.append(("tokens", *lengths, *_lengths(counted.tokens)))
    rows.append(
        ("distinct replies", *(f"{count.distinct} of {count.replies}" for count in counts.values()), "", "", "")
    )
    if plan.branching:
        rows.append(("branching factor", *(export.branching(count.branching) for count in counts.values()), "", "", ""))
    head = ["measure", "base", "post-trained", "difference, points", "unpaired seeds would give", "p (McNemar)"]
    key = "".join(f'<span class="{side}">{SIDE_NAMES[side]}</span>' for side in SIDES)
    return (
        f'<section><h2>{html.escape(title[0].upper() + title[1:])}</h2><p class="key">{key}</p>'
        f"{_plot(title, found.measures, counts)}{table(f'Rates with intervals of 95%, {title}', head, rows)}"
        f"<p>{counted.equal} of {counted.pairs} pairs of replies are equal to the letter.</p>"
        f"{_parted('word', counted.parted)}{_parted('token', counted.parted_steps)}{_branching(title, found.branching, counted.contrast)}</section>"
    )


def pairs_section(plan: StudyPlan, report: export.StudyReport) -> str:
    """The first measure from pair to pair, or over the stages of a lineage, where all pairs have one base."""
    found = report.results
    rows, measure = export.pair_rows(plan, found), found.measures[0]
    if not rows:
        return ""
    writers = {(writer.pair, writer.side): writer.fingerprint for writer in report.receipt.writers}
    bases = {by.weights_sha256 for (_, side), by in writers.items() if side == "base"}
    own = plan.own()
    arms = [*([own[0].base] if len(bases) == 1 else []), *(each.post for each in own)]
    names = [writers[arm.pair, arm.side].checkpoint.name if (arm.pair, arm.side) in writers else "-" for arm in arms]
    rates = [next(count.rates[measure] for count in found.whole.arms if count.arm == arm) for arm in arms]
    title = "From stage to stage" if len(bases) == 1 else "From pair to pair"
    head = ["pair", "base", "post-trained", "difference, points"]
    return f"<section><h2>{title}</h2>{_line(measure, names, rates)}{table(f'{measure}, each under its own framing', head, rows)}</section>"


def _line(measure: str, names: Sequence[str], rates: Sequence[Rate]) -> str:
    """Rates in their order, with their intervals, 0 to 100% from below. Of a long name its end, which tells stages apart."""
    step, height = min(150, 620 // len(names)), 160

    def at(number: int, share: float) -> str:
        return f"{90 + step * number},{10 + height * (1 - share):.1f}"

    known = [(number, rate) for number, rate in enumerate(rates) if rate.share is not None]
    line = " ".join(at(number, rate.share or 0.0) for number, rate in known)
    marks = "".join(
        f'<circle class="post" cx="{90 + step * number}" cy="{10 + height * (1 - (rate.share or 0.0)):.1f}" r="4"/>'
        + (
            f'<polyline class="post" points="{at(number, rate.interval.low)} {at(number, rate.interval.high)}"/>'
            if rate.interval
            else ""
        )
        + f'<text x="{90 + step * number}" y="{height + 30}" text-anchor="middle">{html.escape(_end(names[number], step // 8))}</text>'
        for number, rate in known
    )
    grid = "".join(
        f'<line class="axis" x1="40" x2="{90 + step * len(rates)}" y1="{10 + height * (1 - share):.0f}" y2="{10 + height * (1 - share):.0f}"/><text x="34" y="{14 + height * (1 - share):.0f}" text-anchor="end">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    )
    spoken = "; ".join(f"{names[number]}: {rate.share:.0%}" for number, rate in known)
    label = html.escape(f"{measure}, from checkpoint to checkpoint. {spoken}.")
    return f'<svg viewBox="0 0 {max(690, 110 + step * len(rates))} {height + 40}" role="img" aria-label="{label}">{grid}<polyline class="post line" points="{line}"/>{marks}</svg>'


def _end(name: str, most: int) -> str:
    return name if len(name) <= most else "\u2026" + name[1 - most :]


def _numbers(interval: Interval | None) -> str:
    return f" ({interval.low:.1f} to {interval.high:.1f})" if interval else ""


def _gap(gap: Gap) -> tuple[str, str, str]:
    plain = export.gap(gap.model_copy(update={"p": None}))
    unpaired = f"{100 * gap.unpaired.low:+.0f} to {100 * gap.unpaired.high:+.0f}" if gap.unpaired else ""
    return plain, unpaired, f"{gap.p:.2g}" if gap.p is not None else ""


def _lengths(gap: Gap | None) -> tuple[str, str, str]:
    if gap is None:
        return "-", "", ""
    unpaired = f"{gap.unpaired.low:.1f} to {gap.unpaired.high:.1f}" if gap.unpaired else ""
    return f"{gap.difference:+.1f} tokens{_numbers(gap.interval)}", unpaired, ""


def _plot(title: str, measures: Sequence[str], counts: Mapping[Side, ArmCount]) -> str:
    """A dot for each rate with its interval as a line, 0 to 100% from left to right."""
    left, width, row = 170, 480, 34
    height = row * len(measures) + 26

    def x(share: float) -> float:
        return left + width * share

    grid = "".join(
        f'<line class="axis" x1="{x(at):.0f}" x2="{x(at):.0f}" y1="0" y2="{height - 22}"/><text x="{x(at):.0f}" y="{height - 6}" text-anchor="middle">{at:.0%}</text>'
        for at in (0, 0.25, 0.5, 0.75, 1)
    )
    marks, spoken = [], []
    for number, name in enumerate(measures):
        short = name if len(name) <= 24 else name[:23] + "\u2026"
        marks.append(f'<text x="{left - 10}" y="{row * number + 21}" text-anchor="end">{html.escape(short)}</text>')
        for place, side in enumerate(SIDES):
            rate, y = counts[side].rates[name], row * number + 12 + 10 * place
            if rate.share is None:
                continue
            spoken.append(f"{name}, {SIDE_NAMES[side]}: {rate.share:.0%}")
            if rate.interval:
                marks.append(
                    f'<line class="{side}" stroke-width="2" x1="{x(rate.interval.low):.1f}" x2="{x(rate.interval.high):.1f}" y1="{y}" y2="{y}"/>'
                )
            marks.append(f'<circle class="{side}" cx="{x(rate.share):.1f}" cy="{y}" r="4"/>')
    label = html.escape(f"Rates, {title}. {'; '.join(spoken)}.")
    return (
        f'<svg viewBox="0 0 {left + width + 30} {height}" role="img" aria-label="{label}">{grid}{"".join(marks)}</svg>'
    )


def _parted(what: str, counts: Sequence[int]) -> str:
    """At which word, or token, the siblings part, as bars; the last one is all that is later."""
    most = max(counts, default=0)
    if not most:
        return ""
    step = 650 / len(counts)
    bars = "".join(
        f'<rect class="post" x="{20 + step * at:.1f}" y="{90 - 70 * count / most:.1f}" width="{0.72 * step:.1f}" height="{70 * count / most:.1f}"/>'
        f'<text x="{20 + step * (at + 0.36):.1f}" y="106" text-anchor="middle">{at + 1}{"+" if at == len(counts) - 1 else ""}</text>'
        f'<text x="{20 + step * (at + 0.36):.1f}" y="{84 - 70 * count / most:.1f}" text-anchor="middle">{count or ""}</text>'
        for at, count in enumerate(counts)
    )
    spoken = "; ".join(f"{what} {at + 1}: {count}" for at, count in enumerate(counts) if count)
    title = f"The {what} at which the two part"
    return f'<h3>{title}</h3><svg viewBox="0 0 690 112" role="img" aria-label="{title}. {spoken}.">{bars}</svg>'


def _branching(title: str, found: Sequence[BranchingSteps], contrast: Contrast) -> str:
    """The branching factor from step to step, of both sides; 1 is the least, and below."""
    sides = {side: next((each for each in found if each.arm == contrast.arm(side)), None) for side in SIDES}
    known = {side: steps for side, steps in sides.items() if steps is not None and steps.factors}
    if not known:
        return ""
    count = max(len(steps.factors) for steps in known.values())
    most = max(2.0, *(max(steps.factors) for steps in known.values()))

    def at(step: int, factor: float) -> str:
        return f"{50 + 620 * step / max(1, count - 1):.1f},{140 - 125 * (factor - 1) / (most - 1):.1f}"

    grid = "".join(
        f'<line class="axis" x1="50" x2="670" y1="{140 - 125 * share:.1f}" y2="{140 - 125 * share:.1f}"/><text x="44" y="{144 - 125 * share:.1f}" text-anchor="end">{1 + share * (most - 1):.1f}</text>'
        for share in (0, 0.5, 1)
    )
    steps = "".join(
        f'<text x="{50 + 620 * step / max(1, count - 1):.1f}" y="158" text-anchor="middle">{step + 1}</text>'
        for step in sorted({0, (count - 1) // 2, count - 1})
    )
    lines = "".join(
        f'<polyline class="{side} line" points="{" ".join(at(step, factor) for step, factor in enumerate(each.factors))}"/>'
        for side, each in known.items()
    )
    spoken = "; ".join(
        f"{SIDE_NAMES[side]}: {each.factors[0]:.2f} at the first, {each.factors[-1]:.2f} at token {len(each.factors)}"
        for side, each in known.items()
    )
    label = html.escape(f"The branching factor at each token, {title}. {spoken}.")
    told = "How many tokens there are to choose from, as it were, at each: e to the entropy of what is drawn from, averaged over the replies that are so long."
    return f'<h3>The branching factor at each token</h3><p class="soft">{told}</p><svg viewBox="0 0 690 164" role="img" aria-label="{label}">{grid}{steps}{lines}</svg>'


# --- prompts and replies ----------------------------------------------------------------------------------------


def slices_section(title: str, what: str, plan: StudyPlan, found: StudyResults, slices: Sequence[Slice]) -> str:
    """Of each pair's checkpoints as they are used."""
    if not slices:
        return ""
    measure = found.measures[0]
    tables = []
    for contrast in plan.own():
        rows = list[_Row]()
        for each in slices[:_MOST_ROWS]:
            counted = next(count for count in each.contrasts if count.contrast == contrast)
            rates = [_count(each, contrast, side).rates[measure] for side in SIDES]
            gap, pairs = counted.gaps[measure], counted.pairs
            rows.append(
                (
                    each.title,
                    *(TableCell(export.rate(rate), rate.share) for rate in rates),
                    TableCell(export.gap(gap), gap.difference if gap.trials else None),
                    sum(gap.flips for gap in counted.gaps.values()),
                    TableCell(f"{counted.equal} of {pairs}", counted.equal / pairs if pairs else None),
                )
            )
        head = [what, "base", "post-trained", "difference, points", "flips, all measures", "equal replies"]
        tables.append(table(f"By {what}: {measure}, {_title(plan, contrast)}", head, rows, sorts=True))
    more = f"<p>The first {_MOST_ROWS} of {len(slices):,}.</p>" if len(slices) > _MOST_ROWS else ""
    return f"<section><h2>{html.escape(title)}</h2>{more}{''.join(tables)}</section>"


def flips_section(
    plan: StudyPlan,
    written: Mapping[StudyCell, CellReply],
    both: Callable[[Flip, Mapping[StudyCell, CellReply]], TableCell],
) -> str:
    """Every prompt and seed at which two checkpoints' verdicts differ; `both` shows the two replies."""
    found = flips(plan, verdicts(plan, written))
    if not found:
        return ""
    several, filed = len(plan.pairs) > 1, any(row.category for row in plan.prompts)
    optional = {"category": filed, "pair": several}
    head = ["prompt", *(name for name, shown in optional.items() if shown), "seed", "verdict", "passes", "replies"]
    rows: list[_Row] = [
        (
            f"{flip.base.prompt + 1}. {shortened(plan.prompts[flip.base.prompt].prompt)}",
            *([plan.prompts[flip.base.prompt].category] if filed else []),
            *([flip.base.arm.pair] if several else []),
            flip.base.repetition + 1,
            flip.measure,
            SIDE_NAMES[flip.passes],
            both(flip, written),
        )
        for flip in found[:_MOST_FLIPS]
    ]
    more = f"<p>The first {_MOST_FLIPS} of {len(found):,}.</p>" if len(found) > _MOST_FLIPS else ""
    caption = "Prompts and seeds at which the two verdicts differ, each checkpoint under its own framing"
    return f"<section><h2>Flips</h2>{more}{table(caption, head, rows, sorts=True)}</section>"


def _both_replies(flip: Flip, written: Mapping[StudyCell, CellReply]) -> TableCell:
    shown = "".join(
        f'<pre class="{cell.arm.side}">{_cut(written[cell].text, _FLIPPED_CHARACTERS) or "(nothing)"}</pre>'
        for cell in (flip.base, flip.post)
    )
    return TableCell("", None, f"<details><summary>both</summary>{shown}</details>")


def _replies(plan: StudyPlan, written: Mapping[StudyCell, CellReply], found: StudyResults) -> str:
    """Grouped by equal text, of the prompts at which verdicts flip most."""
    shown = [each.rows[0] - 1 for each in found.prompts[:_SHOWN_PROMPTS]] or [0]
    most, level = (4, "h4") if found.prompts else (_SHOWN_GROUPS, "h3")
    blocks = []
    for prompt in shown:
        head = f"<h3>Row {prompt + 1}</h3><pre>{_cut(plan.prompts[prompt].prompt)}</pre>" if found.prompts else ""
        for arm in plan.arms():
            cells = (StudyCell(prompt, repetition, arm) for repetition in range(plan.repetitions))
            texts = Counter(written[cell].text for cell in cells if cell in written)
            groups = "".join(
                f'<p class="soft">{count} of {texts.total()}</p><pre class="{arm.side}">{_cut(text) or "(nothing)"}</pre>'
                for text, count in texts.most_common(most)
            )
            more = f"<p>And {len(texts) - most:,} more.</p>" if len(texts) > most else ""
            name = f"{export.arm_name(arm, plan)}: {len(texts)} distinct of {texts.total()}"
            head += f"<{level}>{html.escape(name)}</{level}>{groups}{more}"
        blocks.append(head)
    return f"<section><h2>Replies, equal ones together</h2>{''.join(blocks)}</section>"


def _cut(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    return html.escape(text if len(text) <= most else text[:most] + " \u2026")
