"""Figures of what a model said: the night's slides beside those of the past, as shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pathotune_pipeline.reports.figures.canvas import CHARACTER, Figure, Plot, line, rect, shorten, svg, text

_PITCH = 34.0
_NAME = 30
_BINS = 20
_Z95 = 1.959963984540054


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, JASA 1927); 0 to 1 where nothing was counted."""
    if not total:
        return 0.0, 1.0
    share, square = count / total, _Z95**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + square / (4 * total**2)) / (1 + square / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def shares_figure(rows: Sequence[tuple[str, int, int]], *, slides: tuple[int, int], title: str) -> Figure:
    """A pair of bars for each class: its share of the past's slides, and of the night's with its interval.

    Args:
        rows: class, slides of the night, slides of the past.
        slides: how many were predicted, of the night and of the past.
        title: of the figure.
    """
    letters = max(min(_NAME, len(name)) for name, _, _ in rows)
    plot = Plot(left=20 + CHARACTER * letters, width=300.0, height=_PITCH * len(rows) + 8)
    body = plot.axes("share of slides")
    for place, (name, tonight, past) in enumerate(rows):
        y = plot.top + 4 + _PITCH * place
        body.append(text(plot.left - 8, y + _PITCH / 2 + 4, shorten(name, _NAME), "tick end"))
        for row, (count, total, when) in enumerate(((past, slides[1], "past"), (tonight, slides[0], "this night"))):
            if total:
                told = f"{name}, {when}: {count} of {total} slides, {100 * count / total:.0f} %"
                width = plot.across(count / total) - plot.left
                body.append(rect(plot.left, y + 4 + 13 * row, width, 11, f"bar s{row}", told=told))
        if slides[0]:
            low, high = wilson(tonight, slides[0])
            body.append(line(plot.across(low), y + 22.5, plot.across(high), y + 22.5, "whisker s1"))
        said = f"{tonight} of {slides[0]}" + (f", past {past} of {slides[1]}" if slides[1] else "")
        body.append(text(plot.right + 10, y + _PITCH / 2 + 4, said, "tick"))
    picture = svg(plot.right + 180, plot.bottom + 46, title=f"{title}: shares of slides", body=body)
    return Figure(title, picture, f"{_told(*slides)} Line: 95 % interval of the night's share.")


def histogram_figure(tonight: np.ndarray, past: np.ndarray, *, title: str, unit: str) -> Figure | None:
    """Shares of the night's and the past's slides by value, in the same bins; None where no value is finite.

    Args:
        tonight: float [n].
        past: float [m].
        title: of the figure.
        unit: what the values are.
    """
    night, before = (each[np.isfinite(each)] for each in (np.asarray(tonight, float), np.asarray(past, float)))
    if not len(night):
        return None
    low, high = (float(pick(np.concatenate([night, before]))) for pick in (np.min, np.max))
    if high <= low:
        margin = abs(low) * 0.05 or 0.5
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, _BINS + 1)
    parts = [(np.histogram(each, edges)[0] / max(1, len(each)), each) for each in (before, night)]
    top = 1.05 * max(float(shares.max()) for shares, _ in parts)
    plot = Plot(x=(low, high), y=(0.0, top), width=380.0, height=190.0)
    body = plot.axes(unit, "share of slides")
    for row, (shares, values) in enumerate(parts):
        when = "this night" if row else "past"
        for left, right, share in zip(edges, edges[1:], shares.tolist(), strict=False):
            if share:
                x, half = plot.across(float(left)), (plot.across(float(right)) - plot.across(float(left))) / 2
                told = f"{when}: {left:.3g} to {right:.3g}: {100 * share:.0f} % of {len(values)} slides"
                body.append(
                    rect(x + half * row, plot.up(share), half, plot.bottom - plot.up(share), f"bar s{row}", told=told)
                )
    medians = [
        f"{np.median(values):.3g} {'this night' if row else 'before'}"
        for row, (_, values) in enumerate(parts)
        if len(values)
    ]
    picture = svg(plot.right + 16, plot.bottom + 46, title=f"{title}: shares of slides by value", body=body)
    return Figure(title, picture, f"{_told(len(night), len(before))} Medians: {', '.join(medians)}.")


def _told(tonight: int, past: int) -> str:
    return f"Orange: {tonight} predicted slides of this night; blue: {past} of the archive before."
