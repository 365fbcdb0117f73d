"""A figure of named numbers, above and below zero."""

from __future__ import annotations

from collections.abc import Sequence

from pathotune_pipeline.reports.figures.canvas import CHARACTER, Figure, Plot, line, rect, shorten, svg, text

_PITCH = 20.0
_NAME = 36


def bars_figure(rows: Sequence[tuple[str, float]], *, title: str, unit: str, told: str) -> Figure:
    """Bars to the right for numbers above zero and to the left for those below.

    Args:
        rows: name and number, in the order to be shown; at least one.
        title: of the figure.
        unit: below the axis.
        told: below the figure.
    """
    values = [value for _, value in rows]
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.05 * (high - low) or 1.0
    letters = max(min(_NAME, len(name)) for name, _ in rows)
    plot = Plot(
        x=(low - margin, high + margin), left=20 + CHARACTER * letters, width=300.0, height=_PITCH * len(rows) + 8
    )
    body = plot.axes(unit)
    zero = plot.across(0.0)
    for place, (name, value) in enumerate(rows):
        y, x = plot.top + 4 + _PITCH * place, plot.across(value)
        name_of = "bar s1" if value < 0 else "bar s0"
        body.append(rect(min(zero, x), y + 3, abs(x - zero), _PITCH - 6, name_of, told=f"{name}: {value:+.3g}"))
        body.append(text(plot.left - 8, y + _PITCH / 2 + 4, shorten(name, _NAME), "tick end"))
    body.append(line(zero, plot.top, zero, plot.bottom, "rule"))
    return Figure(title, svg(plot.right + 16, plot.bottom + 46, title=title, body=body), told)
