"""Figures of a study: a score over the share of the training data, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pathotune_pipeline.reports.figures.canvas import (
    BELOW,
    CHARACTER,
    LINE,
    SERIES,
    Figure,
    Plot,
    dot,
    line,
    series,
    shorten,
    svg,
    text,
)

_WIDTH, _HEIGHT = 340.0, 290.0
_NAME = 26
_APART = 4.0
"""Pixels between the whiskers of two curves at one fraction."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One score of one share of the training data.

    Attributes:
        fraction: above 0, at most 1.
        value: mean over runs.
        low, high: ends of its interval; None where there is none.
    """

    fraction: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class StudyCurve:
    """One method's scores, by rising fraction; what was not run is not there."""

    name: str
    points: tuple[CurvePoint, ...]


def scaling_figure(
    curves: Sequence[StudyCurve], *, title: str, score: str, told: str, chance: float | None = None
) -> Figure | None:
    """A score over the fraction of the training groups, on a logarithmic axis. None where nothing was run.

    Args:
        curves: one a method.
        title: of the figure, such as the test set.
        score: title of the vertical axis.
        told: what the intervals are.
        chance: the score of a guess, drawn where it is known.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        return None
    fractions = sorted({point.fraction for point in points})
    ends = [end for point in points for end in (point.low, point.value, point.high) if end is not None]
    low, high = min([*ends, *([] if chance is None else [chance])]), max(ends)
    margin = 0.04 * (high - low) or 0.05
    x_low, x_high = (math.log10(each) for each in (fractions[0], fractions[-1]))
    beside = 0.06 * (x_high - x_low) or 0.5
    plot = Plot(x=(x_low - beside, x_high + beside), y=(low - margin, high + margin), width=_WIDTH, height=_HEIGHT)
    body = [each for each in plot.axes("Share of the training groups", score) if not _across(each, plot)]
    for fraction in fractions:
        x = plot.across(math.log10(fraction))
        body += [line(x, plot.top, x, plot.bottom, "grid"), text(x, plot.bottom + 16, f"{fraction:g}", "tick mid")]
    if chance is not None:
        body.append(line(plot.left, plot.up(chance), plot.right, plot.up(chance), "chance"))
    shown = [curve for curve in curves if curve.points]
    for index, curve in enumerate(shown):
        body += _curve(plot, curve, index, shift=_APART * (index - (len(shown) - 1) / 2))
    letters = max(min(_NAME, len(curve.name)) for curve in shown)
    base = plot.top + 12
    for index, curve in enumerate(shown):
        y, x = base + LINE * index, plot.right + 16
        body += [
            line(x, y - 4, x + 26, y - 4, _stroke(index)),
            dot(x + 13, y - 4, _marker(index), curve.name),
            text(x + 34, y, shorten(curve.name, _NAME), "tick"),
        ]
    height = max(plot.bottom + BELOW, base + LINE * len(shown))
    wide = plot.right + 60 + CHARACTER * letters
    return Figure(title, svg(wide, height, title=f"{score} over the share of training data: {title}", body=body), told)


def _across(element: str, plot: Plot) -> bool:
    """Whether it belongs to the linear horizontal ticks, which a logarithmic axis does not have."""
    vertical = f'y1="{plot.top:g}"' in element and 'class="grid"' in element
    return vertical or "tick mid" in element


def _curve(plot: Plot, curve: StudyCurve, index: int, *, shift: float) -> list[str]:
    aside = shift / plot.width * (plot.x[1] - plot.x[0])
    at = [(math.log10(point.fraction) + aside, point.value) for point in curve.points]
    body = [plot.curve(at, _stroke(index).removeprefix("curve "))] if len(at) > 1 else []
    for (x, value), point in zip(at, curve.points, strict=True):
        across = plot.across(x)
        said = f"{value:.3f}"
        if point.low is not None and point.high is not None:
            body.append(line(across, plot.up(point.low), across, plot.up(point.high), f"whisker fine {series(index)}"))
            said += f" ({point.low:.3f} to {point.high:.3f})"
        body.append(
            dot(
                across, plot.up(value), _marker(index), f"{curve.name}, fraction {point.fraction:g}: {said}", radius=3.5
            )
        )
    return body


def _stroke(index: int) -> str:
    """Thinner once the colours begin again."""
    return f"curve {'' if index < SERIES else 'fine '}{series(index)}"


def _marker(index: int) -> str:
    """Filled, or hollow once the colours begin again."""
    return f"{'dot' if index < SERIES else 'ring'} {series(index)}"
