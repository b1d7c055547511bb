"""A verdict as plain text for a terminal."""

from collections.abc import Iterable, Sequence

from .table import Experiment
from .values import Cell, ExperimentVerdict, Table, shortened


def whole(experiment: Experiment, verdict: ExperimentVerdict) -> str:
    """Everything that one experiment found."""
    finding = verdict.finding
    head = f"{experiment.title} ({verdict.pair}): {finding.outcome.upper()}, in {verdict.seconds:.1f} s\n{finding.sentence}"
    blocks = [head, *(f"- {detail}" for detail in finding.details), *map(_table, finding.tables)]
    blocks += [f"Look at: {experiment.look}"]
    return "\n\n".join(blocks)


def summary(verdicts: Iterable[ExperimentVerdict]) -> str:
    """One line for each experiment."""
    return _table(
        Table.of(
            "All experiments",
            verdicts,
            lambda verdict: {
                "Experiment": verdict.experiment,
                "Outcome": verdict.finding.outcome,
                "Time": f"{verdict.seconds:.1f} s",
                "What this run found": verdict.finding.sentence,
            },
        )
    )


def time_left(seconds: float) -> str:
    """About, in words: seconds in tens, from two minutes on in minutes."""
    return (
        f"about {max(1, round(seconds / 10)) * 10} s left" if seconds < 115 else f"about {round(seconds / 60)} min left"
    )


def _table(table: Table) -> str:
    rows = [table.columns, *(tuple(shortened(cell_text(cell)) for cell in row) for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    return "\n".join([table.title, *(_line(row, widths) for row in rows)])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def cell_text(cell: Cell) -> str:
    """A cell as people read it."""
    match cell:
        case None:
            return "-"
        case bool():
            return "yes" if cell else "no"
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:,.4g}"
    return cell
