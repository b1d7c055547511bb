"""A small plot as SVG: lines, axes with round numbers, marks. No library, no script; every text is escaped."""

import html
from collections.abc import Sequence
from math import ceil, floor, log10

from ...experiments.values import Plot, Series

WIDTH, HEIGHT = 680, 280
LEFT, RIGHT, TOP, BOTTOM = 86, 24, 16, 44
SLANTED = 46  # more room below for named ticks
ROW, CHARACTER = 15, 6.5  # of the words of a mark: a row's height, and how wide a letter is at most


def svg(plot: Plot) -> str:
    """The plot with its title and a legend."""
    frame = _Frame(plot)
    lines = "".join(_line(series, frame, number) for number, series in enumerate(plot.series))
    marks = _marks(plot, frame)
    legend = "".join(
        f"<span class='{_kind(series, number)}'><i aria-hidden='true'></i>{html.escape(series.name)}</span>"
        for number, series in enumerate(plot.series)
    )
    title = html.escape(plot.title)
    label = html.escape(f"{plot.title}. {_spoken(plot)}")
    return (
        f"<section class='exp-plot'><h4>{title}</h4><p class='legend'>{legend}</p><div class='scroll' tabindex='0' role='region' aria-label='{title}'>"
        f"<svg viewBox='0 0 {WIDTH} {frame.height}' role='img' aria-label='{label}'>{frame.axes()}{marks}{lines}</svg></div></section>"
    )


def _spoken(plot: Plot) -> str:
    """What the lines say, for those who hear the plot."""
    ends = []
    for series in plot.series:
        if series.points:
            (first_x, first_y), (last_x, last_y) = series.points[0], series.points[-1]
            ends.append(
                f"{series.name}: {plot.y_label} {first_y:.3g} at {_x_name(plot, first_x)}, {last_y:.3g} at {_x_name(plot, last_x)}."
            )
    return " ".join([*ends, *(f"Marked: {mark.text}." for mark in plot.marks)])


def _x_name(plot: Plot, x: float) -> str:
    return plot.ticks[int(x)] if plot.ticks else f"{plot.x_label} {x:g}"


class _Frame:
    """The axes: data -> pixels."""

    def __init__(self, plot: Plot):
        self.plot = plot
        points = [point for series in plot.series for point in series.points] or [(0.0, 0.0)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.counts = all(x == int(x) for x in xs)  # years, copies: there is nothing between two of them
        self.x_min, self.x_max = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
        low, high = min(0.0, *ys) if min(ys) > -1 else min(ys), max(0.0, *ys) if max(ys) > 0 else max(ys)
        self.y_ticks = round_ticks(low, high)
        self.y_min, self.y_max = self.y_ticks[0], self.y_ticks[-1]
        self.top = TOP + ROW * len(plot.marks)
        self.height = HEIGHT + (SLANTED if plot.ticks else 0) + ROW * len(plot.marks)
        self.bottom = self.height - BOTTOM - (SLANTED if plot.ticks else 0)

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_min) / (self.x_max - self.x_min) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y_min) / (self.y_max - self.y_min) * (self.bottom - self.top)

    def axes(self) -> str:
        grid = "".join(
            f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{self.y(y):.1f}' y2='{self.y(y):.1f}'/>"
            f"<text x='{LEFT - 8}' y='{self.y(y) + 4:.1f}' text-anchor='end'>{y:g}</text>"
            for y in self.y_ticks
        )
        middle = (self.bottom + self.top) / 2
        labels = (
            f"<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{self.height - 6}' text-anchor='middle'>{html.escape(self.plot.x_label)}</text>"
            f"<text transform='translate(13 {middle:.0f}) rotate(-90)' text-anchor='middle'>{html.escape(self.plot.y_label)}</text>"
        )
        return grid + self._x_ticks() + labels

    def _x_ticks(self) -> str:
        if self.plot.ticks:
            return "".join(
                f"<text transform='translate({self.x(i):.1f} {self.bottom + 16}) rotate(-18)' text-anchor='end' dx='8'>{html.escape(tick)}</text>"
                for i, tick in enumerate(self.plot.ticks)
            )
        ticks = [tick for tick in round_ticks(self.x_min, self.x_max, 8) if self.x_min <= tick <= self.x_max]
        if self.counts:
            ticks = [tick for tick in ticks if tick == int(tick)]
        return "".join(
            f"<text x='{self.x(tick):.1f}' y='{self.bottom + 18}' text-anchor='middle'>{tick:g}</text>"
            for tick in ticks
        )


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that span low to high."""
    span = high - low or 1.0
    power: float = 10.0 ** floor(log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _kind(series: Series, number: int) -> str:
    return series.side or ("third" if number else "first")


def _line(series: Series, frame: _Frame, number: int) -> str:
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(_dot(x, y, series.side) for x, y in places)
    return f"<g class='{_kind(series, number)}'><polyline points='{path}'/>{dots}</g>"


def _dot(x: float, y: float, side: str | None) -> str:
    """Circles for one side and squares for the other, so that colour is not all that tells them apart."""
    if side == "base":
        return f"<rect x='{x - 3:.1f}' y='{y - 3:.1f}' width='6' height='6'/>"
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.2'/>"


def _marks(plot: Plot, frame: _Frame) -> str:
    """Lines from top to bottom, their words above the plot, one to a row, where no line goes through them: a line begins at
    its own row, and words reach over lines of later rows alone. The first few stand right of their lines, the others left."""
    marks = sorted(plot.marks, key=lambda mark: mark.x)
    ends = [(frame.x(mark.x), CHARACTER * len(mark.text)) for mark in marks]
    right = next((n for n in range(len(marks), -1, -1) if _has_room(ends[:n], ends[n:])), len(marks))
    rows = [*marks[:right], *reversed(marks[right:])]
    return "".join(
        _mark(frame.x(mark.x), mark.text, frame, TOP + ROW * row, row < right) for row, mark in enumerate(rows)
    )


def _has_room(right: Sequence[tuple[float, float]], left: Sequence[tuple[float, float]]) -> bool:
    """Whether words, each (x of its line, width), fit right of these lines and left of those behind them."""
    between = left[0][0] - right[-1][0] if left and right else WIDTH
    return (
        all(x + width < WIDTH for x, width in right)
        and all(x - width > 0 for x, width in left)
        and all(width < between for _, width in (*right, *left))
    )


def _mark(at: float, text: str, frame: _Frame, y: int, right: bool) -> str:
    return (
        f"<g class='mark'><line x1='{at:.1f}' x2='{at:.1f}' y1='{y - 10}' y2='{frame.bottom}'/>"
        f"<text x='{at + (5 if right else -5):.1f}' y='{y}' text-anchor='{'start' if right else 'end'}'>{html.escape(text)}</text></g>"
    )
