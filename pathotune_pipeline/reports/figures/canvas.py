"""What figures are drawn with. Colours come from the page's style sheet by class, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

SERIES = 6
"""Colours (and dash patterns) of curves before they repeat: classes s0 to s5 of the style sheet."""
MOST_POINTS = 400
LEFT, TOP, BELOW = 58.0, 10.0, 48.0
"""Room for the vertical axis, above, and for the horizontal axis."""
SIDE = 270.0
LINE = 18.0
"""Between two lines of a legend or table."""
CHARACTER = 6.6
"""Width of a letter of 12 px, on the generous side."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its heading and the sentence below it.

    Attributes:
        title: as the page names it.
        svg: the picture; empty where there is nothing to draw.
        told: of how many slides and patients, and how to read it.
    """

    title: str
    svg: Markup
    told: str = ""


def svg(width: float, height: float, *, title: str, body: Sequence[str]) -> Markup:
    """The whole picture; `body` is SVG already, `title` is text."""
    opening = Markup(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}"><title>{}</title>'
    ).format(px(width), px(height), px(width), px(height), title, title)
    return opening + Markup("").join(map(Markup, body)) + Markup("</svg>")


def px(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{px(x1)}" y1="{px(y1)}" x2="{px(x2)}" y2="{px(y2)}"/>'


def rect(x: float, y: float, width: float, height: float, name: str, *, more: str = "", told: str = "") -> str:
    place = f'x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}"'
    inside = f"<title>{escape(told)}</title>" if told else ""
    return f'<rect class="{name}" {place} {more}>{inside}</rect>'


def text(x: float, y: float, said: str, name: str = "", *, more: str = "") -> str:
    return f'<text class="{name}" x="{px(x)}" y="{px(y)}" {more}>{escape(said)}</text>'


def dot(x: float, y: float, name: str, told: str, *, radius: float = 4) -> str:
    place = f'cx="{px(x)}" cy="{px(y)}" r="{px(radius)}"'
    return f'<circle class="{name}" {place}><title>{escape(told)}</title></circle>'


def series(index: int) -> str:
    """The style sheet's class of the curve of that number."""
    return f"s{index % SERIES}"


def thin(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS of a curve's points, its ends among them."""
    step = -(-len(points) // MOST_POINTS)
    return list(points) if step <= 1 else [*points[:-1:step], points[-1]]


def stairs(points: Sequence[Point]) -> list[Point]:
    """The points of a step function that holds each value until the next place."""
    found = list(points[:1])
    for (_, before), (x, y) in pairwise(points):
        found += [(x, before), (x, y)]
    return found


def shorten(said: str, most: int) -> str:
    return said if len(said) <= most else said[: most - 1] + "…"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between low and high, 1, 2 or 5 times a power of ten apart, at most so many."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(times for times in (1, 2, 5, 10, 20) if span / (step * times) <= most - 1 + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """The ticks as text, all with as many decimals as their distance asks for."""
    if len(values) < 2:
        return [f"{value:g}" for value in values]
    decimals = max(0, -math.floor(math.log10(abs(values[1] - values[0])) + 1e-9))
    return [f"{value:.{decimals}f}" if abs(value) < 1e6 else f"{value:.3g}" for value in (v + 0.0 for v in values)]


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle with axes.

    Attributes:
        x: what its left and right edge stand for.
        y: what its lower and upper edge stand for.
        left, top, width, height: in pixels of the figure.
    """

    x: Point = (0.0, 1.0)
    y: Point = (0.0, 1.0)
    left: float = LEFT
    top: float = TOP
    width: float = SIDE
    height: float = SIDE

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def across(self, value: float) -> float:
        return self.left + (value - self.x[0]) / (self.x[1] - self.x[0]) * self.width

    def up(self, value: float) -> float:
        return self.bottom - (value - self.y[0]) / (self.y[1] - self.y[0]) * self.height

    def axes(self, x_title: str, y_title: str = "") -> list[str]:
        """Frame, grid, ticks and titles; without `y_title` no vertical axis."""
        body = [rect(self.left, self.top, self.width, self.height, "plot")]
        at = ticks(*self.x)
        for value, said in zip(at, tick_texts(at), strict=True):
            x = self.across(value)
            body += [line(x, self.top, x, self.bottom, "grid"), text(x, self.bottom + 16, said, "tick mid")]
        body.append(text(self.left + self.width / 2, self.bottom + 38, x_title, "axis mid"))
        if y_title:
            at = ticks(*self.y)
            for value, said in zip(at, tick_texts(at), strict=True):
                y = self.up(value)
                body += [line(self.left, y, self.right, y, "grid"), text(self.left - 7, y + 4, said, "tick end")]
            middle = self.top + self.height / 2
            x = self.left - 44
            body.append(text(x, middle, y_title, "axis mid", more=f'transform="rotate(-90 {px(x)} {px(middle)})"'))
        return body

    def curve(self, points: Sequence[Point], name: str) -> str:
        return f'<polyline class="curve {name}" points="{self._points(thin(points))}"/>'

    def band(self, low: Sequence[Point], high: Sequence[Point], name: str) -> str:
        """The area between two curves."""
        return f'<polygon class="band {name}" points="{self._points([*thin(low), *thin(high)[::-1]])}"/>'

    def _points(self, points: Sequence[Point]) -> str:
        return " ".join(f"{px(self.across(x))},{px(self.up(y))}" for x, y in points)


def legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each entry: a stroke of its class, where it has one, and its text.

    Args:
        x: left edge.
        y: baseline of the first line.
        entries: (class of the style sheet, text).
    """
    body = []
    for index, (name, said) in enumerate(entries):
        base = y + LINE * index
        if name:
            body.append(line(x, base - 4, x + 26, base - 4, name))
        body.append(text(x + 34, base, said, "tick"))
    return body
