"""A small plot as SVG: lines, axes with round numbers, marks. No library, no script; every text is escaped."""

import html
from math import ceil, floor, log10

from ...experiments.values import Plot, Series

WIDTH, HEIGHT = 680, 280
LEFT, RIGHT, TOP, BOTTOM = 86, 24, 16, 44
SLANTED = 46  # more room below for named ticks


def svg(plot: Plot) -> str:
    """The plot with its title and a legend."""
    frame = _Frame(plot)
    lines = "".join(_line(series, frame, number) for number, series in enumerate(plot.series))
    marks = "".join(_mark(mark.x, mark.text, frame, number) for number, mark in enumerate(plot.marks))
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
        self.x_min, self.x_max = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
        low, high = min(0.0, *ys) if min(ys) > -1 else min(ys), max(0.0, *ys) if max(ys) > 0 else max(ys)
        self.y_ticks = round_ticks(low, high)
        self.y_min, self.y_max = self.y_ticks[0], self.y_ticks[-1]
        self.height = HEIGHT + (SLANTED if plot.ticks else 0)
        self.bottom = self.height - BOTTOM - (SLANTED if plot.ticks else 0)

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_min) / (self.x_max - self.x_min) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y_min) / (self.y_max - self.y_min) * (self.bottom - TOP)

    def axes(self) -> str:
        grid = "".join(
            f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{self.y(y):.1f}' y2='{self.y(y):.1f}'/>"
            f"<text x='{LEFT - 8}' y='{self.y(y) + 4:.1f}' text-anchor='end'>{y:g}</text>"
            for y in self.y_ticks
        )
        middle = (self.bottom + TOP) / 2
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


def _mark(x: float, text: str, frame: _Frame, number: int) -> str:
    at = frame.x(x)
    end = at > (LEFT + WIDTH - RIGHT) * 0.62
    return (
        f"<g class='mark'><line x1='{at:.1f}' x2='{at:.1f}' y1='{TOP}' y2='{frame.bottom}'/>"
        f"<text x='{at + (-5 if end else 5):.1f}' y='{TOP + 10 + 15 * number}' text-anchor='{'end' if end else 'start'}'>{html.escape(text)}</text></g>"
    )
