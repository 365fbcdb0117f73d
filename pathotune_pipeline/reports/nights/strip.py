"""Small pictures of the night's page: where the time went, and two spreads side by side."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pathotune_pipeline.reports.figures.canvas import line, rect, series, svg, text
from pathotune_pipeline.reports.nights.drift import Spread

_WIDTH, _HEIGHT = 190.0, 34.0
_BAR_WIDTH, _BAR_HEIGHT = 900.0, 26.0


def stage_bar(stages: Sequence[tuple[str, float]]) -> Markup:
    """One bar whose parts are the stages' shares; empty without any."""
    total = sum(seconds for _, seconds in stages)
    if total <= 0:
        return Markup("")
    body, left = [], 0.0
    for index, (name, seconds) in enumerate(stages):
        width = _BAR_WIDTH * seconds / total
        told = f"{name}: {seconds:.1f} s, {100 * seconds / total:.0f} %"
        body.append(rect(left, 0, width, _BAR_HEIGHT, f"bar {series(index)}", told=told))
        if width > 9 * len(name):
            body.append(text(left + 8, 17, name, "on-bar"))
        left += width
    return svg(_BAR_WIDTH, _BAR_HEIGHT, title="Where the time went", body=body)


def shift_strip(past: Spread | None, night: Spread | None) -> Markup:
    """Quartiles of the past above those of the night, on one axis; empty where one of them is absent."""
    if past is None or night is None:
        return Markup("")
    low, high = min(past.low, night.low), max(past.high, night.high)
    span = (high - low) or max(abs(high), 1e-9)
    body = []
    for row, (spread, name) in enumerate(((past, "past"), (night, "this night"))):
        y = 9.0 + 16 * row
        left, middle, right = (
            8 + (_WIDTH - 16) * (value - low) / span for value in (spread.low, spread.middle, spread.high)
        )
        told = f"{name}: median {spread.middle:.3g}, quartiles {spread.low:.3g} to {spread.high:.3g}, {spread.count} slides"
        body.append(rect(left, y - 4, max(right - left, 1.5), 8, f"band {series(row)}", told=told))
        body.append(line(middle, y - 6, middle, y + 6, f"whisker {series(row)}"))
    return svg(_WIDTH, _HEIGHT, title="Quartiles of the past (above) and of this night", body=body)
