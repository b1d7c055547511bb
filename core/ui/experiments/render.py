"""Experiments, their steps and verdicts -> small pieces of HTML and SVG. Every text of a model or a person is escaped here."""

import html
from collections.abc import Sequence

from ...experiments import EXPERIMENTS, Experiment, ExperimentVerdict, Step
from ...experiments.report import cell_text, time_left
from ...experiments.values import Cell, Diff, Exhibit, Table, shortened
from ...types import SIDE_NAMES, SIDES, Side, SideResult
from ..markup import ENDED, KIND, listed, visible
from . import plot
from .session import View

_ARROW = "<span aria-hidden='true'>\u2192</span>"


def cards() -> str:
    """Every experiment on a card: what people believe, one of the prompts, and the button that runs it."""
    return (
        "<header class='exp-head'><h2>Guided experiments</h2><p>Each one runs both models on this machine, and judges what came of it.</p></header>"
        f"<div class='exp-cards'>{''.join(map(_card, EXPERIMENTS))}</div>"
    )


def _card(experiment: Experiment) -> str:
    title = html.escape(experiment.title)
    return (
        f"<article class='exp-card'><p class='topic'>{html.escape(experiment.topic)}</p>"
        f"<h3><a href='#lesson={experiment.name}' data-lesson='{experiment.name}'>{title}</a></h3>"
        f"<p class='belief'>\u201c{html.escape(experiment.belief)}\u201d</p><code>{html.escape(experiment.example)}</code>"
        f"<button type='button' data-lesson='{experiment.name}' data-run='yes' aria-label='Run it: {title}'>Run it {_ARROW}</button></article>"
    )


def introduction(experiment: Experiment) -> str:
    """The text of one experiment, before anything is run."""
    facts = (
        ("What is run", experiment.runs),
        ("How it is judged", experiment.judged),
        ("What to look at", experiment.look),
    )
    rows = "".join(f"<div><dt>{name}</dt><dd>{html.escape(text)}</dd></div>" for name, text in facts)
    return (
        f"<article class='exp-intro'><p class='topic'>{html.escape(experiment.topic)}</p><h2>{html.escape(experiment.title)}</h2>"
        f"<p class='belief'>\u201c{html.escape(experiment.belief)}\u201d</p><p class='text'>{html.escape(experiment.text)}</p><dl>{rows}</dl></article>"
    )


def steps(view: View) -> str:
    """What has been done, and what is being done with how far it is."""
    if not view.steps:
        return "<p class='muted'>Waiting for the models</p>" if view.busy else ""
    rows = []
    for number, step in enumerate(view.steps, 1):
        now = view.busy and number == len(view.steps)
        rows.append(_step(step, now))
    return f"<ol class='exp-steps' aria-label='Steps'>{''.join(rows)}</ol>"


def _step(step: Step, now: bool) -> str:
    label = html.escape(step.text)
    if not now:
        return f"<li class='done'>{label}</li>"
    count = f" <span>{step.done} of {step.total}</span>" if 1 < step.total < 100 else ""
    left = f" <span class='left'>{time_left(step.seconds_left)}</span>" if step.seconds_left is not None else ""
    return f"<li class='now'>{label}{count}{left}<progress max='{step.total}' value='{step.done}' aria-label='{label}'></progress></li>"


# --- the verdict -------------------------------------------------------------------------------------------


def verdict(found: ExperimentVerdict) -> str:
    """The whole verdict, as computed from this run."""
    finding = found.finding
    shown = finding.outcome == "shown"
    badge = {"shown": "Shown by this pair", "not shown": "Not shown by this pair"}.get(finding.outcome, "Stopped early")
    where = (
        f"{html.escape(found.pair)}, weights {found.base_sha256[:8]} and {found.post_sha256[:8]}, {found.seconds:.1f} s"
    )
    return (
        f"<section class='exp-verdict {'shown' if shown else 'not-shown'}' aria-label='Verdict'>"
        f"<h3><span class='badge'>{badge}</span> <small>{where}</small></h3><p class='sentence'>{html.escape(finding.sentence)}</p>"
        f"{listed(finding.details)}</section>"
        f"{''.join(map(plot.svg, finding.plots))}{_diffs(finding.diffs)}{''.join(map(table, finding.tables))}"
    )


def table(shown: Table) -> str:
    cells = zip(*shown.rows, strict=True) if shown.rows else [()] * len(shown.columns)
    head = "".join(
        f"<th scope='col' role='columnheader'{' class=number' if any(map(_is_number, column)) else ''}>{html.escape(name)}</th>"
        for name, column in zip(shown.columns, cells, strict=True)
    )
    body = "".join(f"<tr role='row'>{''.join(map(_cell, shown.columns, row))}</tr>" for row in shown.rows)
    title = html.escape(shown.title)
    return (
        f"<section class='exp-table'><h4>{title}</h4><div class='scroll' tabindex='0' role='region' aria-label='{title}'>"
        f"<table role='table'><thead role='rowgroup'><tr role='row'>{head}</tr></thead><tbody role='rowgroup'>{body}</tbody></table></div></section>"
    )


def _cell(name: str, cell: Cell) -> str:
    """On a narrow screen each cell is a line of its own, behind its name. What is long shows its beginning, and on a click all of it."""
    kind = " class='number'" if _is_number(cell) else ""
    text, short = html.escape(cell_text(cell)), html.escape(shortened(cell_text(cell), 60))
    if text != short:
        text = f"<details><summary>{short}</summary><div>{text}</div></details>"
    return f"<td role='cell' data-name='{html.escape(name)}'{kind}>{text}</td>"


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _diffs(diffs: Sequence[Diff]) -> str:
    if not diffs:
        return ""
    return f"<div class='exp-diffs'>{''.join(map(_diff, diffs))}</div>"


def _diff(diff: Diff) -> str:
    tags = {"both": "{}", "first": "<del>{}</del>", "second": "<ins>{}</ins>"}
    text = "".join(tags[part.where].format(html.escape(part.text)) for part in diff.parts)
    title = html.escape(diff.title)
    return (
        f"<section class='exp-diff {diff.side}'><h4>{title}</h4><p class='muted'><del>only {html.escape(diff.first)}</del>, <ins>only {html.escape(diff.second)}</ins></p>"
        f"<pre tabindex='0' aria-label='{title}, {html.escape(diff.second)}'>{text}</pre></section>"
    )


# --- one comparison of the run ------------------------------------------------------------------------------------


def exhibit(shown: Exhibit) -> str:
    """The exact inputs of one comparison, and what came back."""
    sampling = shown.result.comparison.sampling
    settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in sampling)
    sides = "".join(_side(side, shown.result.side(side)) for side in SIDES)
    return f"<section class='exp-exhibit' aria-label='Exact inputs'><p class='muted'>{html.escape(settings)}</p><div class='sent-grid'>{sides}</div></section>"


def _side(side: Side, result: SideResult) -> str:
    count = f"{_tokens(result.prompt_token_ids)} sent"
    wrote = f"{_tokens(result.token_ids)} written, {ENDED[result.finish_reason].lower()}"
    return (
        f"<section class='sent {side}' aria-label='{KIND[side]}: sent and written'>"
        f"<header><span class='dot' aria-hidden='true'></span><b>{KIND[side]}</b><span>{count}</span><code title='Fingerprint of what was sent (sha256 of its token ids): {result.prompt_sha256}'>fingerprint {result.prompt_sha256[:12]}</code></header>"
        f"<pre tabindex='0' aria-label='Sent to the {SIDE_NAMES[side]} model'>{visible(result.prompt_text)}</pre>"
        f"<header class='wrote'><span>{wrote}</span></header>"
        f"<pre tabindex='0' aria-label='Written by the {SIDE_NAMES[side]} model'>{visible(result.whole)}</pre></section>"
    )


def _tokens(ids: Sequence[int]) -> str:
    return f"{len(ids):,} token{'s' if len(ids) != 1 else ''}"
