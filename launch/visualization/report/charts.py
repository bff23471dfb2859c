"""Line charts as inline SVG; colours are the style sheet's, so that they fit a light and a dark page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.visualization.report.markup import element, escape

MOST_POINTS = 400
WIDTH, HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 28


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name and its points, x ascending."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Lines over the epochs."""

    title: str
    lines: Sequence[Line]
    unit: str = ""
    """Behind values, such as %."""
    top: float | None = None
    """The largest value there can be; the axis ends at it or before."""
    last_epoch: float = 0.0
    """The end of the axis of epochs, if it is beyond the last point."""


Points = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""x, and the mean, minimum and maximum of y there."""


def thin(x: Sequence[float], y: Sequence[float], count: int = MOST_POINTS) -> Points:
    """Return x, and the mean, minimum and maximum of y, over `count` parts of as many points; fewer stay as they are.

    >>> [values.tolist() for values in thin([0, 1, 2, 3], [5, 7, 1, 1], 2)]
    [[0.5, 2.5], [6.0, 1.0], [5.0, 1.0], [7.0, 1.0]]
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(xs) <= count:
        return xs, ys, ys, ys
    starts = np.arange(count) * len(xs) // count
    sizes = np.diff(np.append(starts, len(xs)))
    low, high = np.minimum.reduceat(ys, starts), np.maximum.reduceat(ys, starts)
    return np.add.reduceat(xs, starts) / sizes, np.add.reduceat(ys, starts) / sizes, low, high


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return some `count` round numbers within [low, high].

    >>> ticks(0, 100), ticks(0, 0.0123)
    ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.0, 0.005, 0.01])
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


class _Scale:
    """Places of values in the picture."""

    def __init__(self, chart: Chart, values: Sequence[np.ndarray], epochs: Sequence[np.ndarray]):
        self.right = max(chart.last_epoch, *(float(part.max()) for part in epochs), 1e-9)
        low, high = (f(*(float(g(part)) for part in values), 0.0) for f, g in ((min, np.min), (max, np.max)))
        self.low, self.high = min(0.0, low), high * 1.05 or 1.0
        if chart.top is not None:
            self.high = min(self.high, chart.top)
        if self.high <= self.low:
            self.high = self.low + 1.0

    def x(self, epochs: np.ndarray) -> np.ndarray:
        return _LEFT + epochs / self.right * (WIDTH - _LEFT - _RIGHT)

    def y(self, values: np.ndarray) -> np.ndarray:
        return HEIGHT - _BOTTOM - (values - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)


def draw_chart(chart: Chart) -> tuple[str, dict[str, Any]]:
    """Return a chart as a figure of HTML, and its points for the script that shows values under the pointer."""
    drawn = [(line.name, thin(line.x, line.y)) for line in chart.lines if len(line.x)]
    if not drawn:
        return element("figure", element("figcaption", escape(chart.title)), element("p", "no figures yet")), {}
    scale = _Scale(chart, [part for _, (_, _, *ends) in drawn for part in ends], [x for _, (x, *_) in drawn])
    shapes = _axes(scale, chart.unit)
    for number, (_, (x, y, low, high)) in enumerate(drawn):
        if (low < high).any():
            around = np.concatenate([_points(scale, x, high), _points(scale, x, low)[::-1]])
            shapes += element("polygon", points=_join(around), class_=f"band c{number % 6}")
        shapes += element("polyline", points=_join(_points(scale, x, y)), class_=f"line c{number % 6}")
        if len(x) <= 40:
            dots = (element("circle", cx=_round(a), cy=_round(b), r=2.5) for a, b in _points(scale, x, y))
            shapes += element("g", *dots, class_=f"dots c{number % 6}")
    shapes += element("line", class_="cursor", y1=_TOP, y2=HEIGHT - _BOTTOM, x1=0, x2=0, visibility="hidden")
    svg = element("svg", shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=chart.title)
    keys = (
        element("span", element("i", class_=f"c{number % 6}"), escape(line[0]), element("b"), class_="key")
        for number, line in enumerate(drawn)
    )
    caption = element("figcaption", element("strong", escape(chart.title)), element("span", *keys, class_="legend"))
    points = [{"x": _rounded(x), "y": _rounded(y)} for _, (x, y, _, _) in drawn]
    data = {
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "width": WIDTH,
        "end": scale.right,
        "unit": chart.unit,
        "lines": points,
    }
    return element("figure", caption, svg, class_="chart"), data


def _axes(scale: _Scale, unit: str) -> str:
    shapes = ""
    for value in ticks(scale.low, scale.high):
        y = _round(float(scale.y(np.array(value))))
        shapes += element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
        shapes += element("text", f"{value:g}{escape(unit)}", x=_LEFT - 7, y=y + 4, text_anchor="end")
    for value in ticks(0, scale.right, 6):
        x = _round(float(scale.x(np.array(value))))
        shapes += element("text", f"{value:g}", x=x, y=HEIGHT - 8, text_anchor="middle")
    return shapes


def _points(scale: _Scale, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([scale.x(x), scale.y(y)], 1)


def _join(points: np.ndarray) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _round(value: float) -> float:
    return round(value, 1)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
