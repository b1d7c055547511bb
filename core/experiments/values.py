"""What an experiment says while it runs and once it has ended: frozen values, the same on the page, in JSON and in print."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from pydantic import Field

from ..types import SIDE_NAMES, SIDES, Result, Side, Value

T = TypeVar("T")
Cell = str | int | float | bool | None


class Step(Value):
    """What is being done now. `done` of `total` parts of it are finished; `seconds_left` is about what all the rest takes, where that can be told."""

    text: str
    done: int
    total: int
    seconds_left: float | None = None


class Table(Value):
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, title: str, items: Iterable[T], row: Callable[[T], Mapping[str, Cell]]) -> "Table":
        """A table with a row for each item; its cells are named, and the names of the first are the columns."""
        rows = [row(item) for item in items]
        columns = tuple(rows[0]) if rows else ()
        return cls(title=title, columns=columns, rows=tuple(tuple(row[name] for name in columns) for row in rows))


def shortened(text: str, length: int = 90) -> str:
    """A text as it fits into a table: on one line, its end cut off in sight."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "\u2026"


class Series(Value):
    """One line of a plot, (x, y) from left to right. `side` gives it the colour of a pane."""

    name: str
    side: Side | None = None
    points: tuple[tuple[float, float], ...]


class PlotMark(Value):
    """A vertical line with a word beside it."""

    x: float
    text: str


class Plot(Value):
    """`ticks` name x = 0, 1, 2, ... where x is no quantity."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[PlotMark, ...] = ()
    ticks: tuple[str, ...] = ()


def by_side(points: Callable[[Side], Iterable[tuple[float, float]]]) -> tuple[Series, ...]:
    """A line for each side."""
    return tuple(Series(name=SIDE_NAMES[side], side=side, points=tuple(points(side))) for side in SIDES)


class DiffPart(Value):
    text: str
    where: Literal["both", "first", "second"]


class Diff(Value):
    """Two texts that were sent, token by token: what both have, and what only one has."""

    title: str
    side: Side
    first: str
    second: str
    parts: tuple[DiffPart, ...]


class Exhibit(Value):
    """One comparison of the run that is worth opening: all that was sent, and all that came back."""

    label: str
    result: Result


class Finding(Value):
    """What an experiment found on this pair, computed from this run alone. Stopped early it is what had come until then."""

    outcome: Literal["shown", "not shown", "stopped early"]
    sentence: str
    details: tuple[str, ...] = ()
    figures: dict[str, Cell] = Field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    diffs: tuple[Diff, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()


class ExperimentVerdict(Value):
    """A finding, with the experiment and the weights that it is about."""

    experiment: str
    pair: str
    base_sha256: str
    post_sha256: str
    seconds: float
    finding: Finding
