"""Figures of scores with intervals: the folds of one model, and several models side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pathotune_pipeline.reports.figures.canvas import (
    CHARACTER,
    LEFT,
    LINE,
    Figure,
    Plot,
    dot,
    line,
    shorten,
    svg,
    text,
)
from pathotune_pipeline.reports.views import FoldScore, Score, percent_of

CHANCE = {"AUROC": 0.5, "C-index (Harrell)": 0.5, "Quadratic kappa": 0.0, "R²": 0.0}
"""What a headline score is where nothing is known."""
_PITCH = 24.0
_NAME = 44


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One model of a forest plot.

    Attributes:
        encoder: heading under which it stands; empty needs none.
        name: of the head, after the folder's where heads repeat.
        score: with its interval.
    """

    encoder: str
    name: str
    score: Score


def forest_figure(rows: Sequence[ForestRow]) -> Figure | None:
    """Models' scores with intervals, in groups by encoder. None where no model has a value.

    Args:
        rows: all of one score, in the order to be shown; those of one encoder follow each other.
    """
    known = [row for row in rows if row.score.value is not None]
    if not known:
        return None
    title = known[0].score.title
    ends = [end for row in known for end in (row.score.low, row.score.value, row.score.high) if end is not None]
    chance = CHANCE.get(title)
    span = (min([*ends, *([] if chance is None else [chance])]), max(ends))
    margin = 0.03 * (span[1] - span[0]) or 0.05
    headed = [
        bool(row.encoder) and row.encoder != before
        for before, row in zip(["", *(r.encoder for r in rows)], rows, strict=False)
    ]
    lines = len(rows) + sum(headed)
    letters = max(min(_NAME, max(len(row.name) + 2, len(row.encoder))) for row in rows)
    plot = Plot(
        x=(span[0] - margin, span[1] + margin), left=20 + CHARACTER * letters, width=340.0, height=_PITCH * lines + 8
    )
    body = plot.axes(title)
    if chance is not None:
        body.append(line(plot.across(chance), plot.top, plot.across(chance), plot.bottom, "chance"))
    y = plot.top + 4
    for row, heads in zip(rows, headed, strict=True):
        if heads:
            body.append(text(4, y + _PITCH / 2 + 4, shorten(row.encoder, _NAME), "axis"))
            y += _PITCH
        body += _forest_row(plot, row, y + _PITCH / 2)
        y += _PITCH
    level = percent_of(known[0].score.level)
    told = f"Bars: {level} intervals from resampled patients." + (" Dashed: chance." if chance is not None else "")
    picture = svg(plot.right + 150, plot.bottom + 46, title=f"{title} of {len(known)} models with intervals", body=body)
    return Figure(f"{title} of every model", picture, told)


def _forest_row(plot: Plot, row: ForestRow, y: float) -> list[str]:
    score = row.score
    body = [text(16, y + 4, shorten(row.name, _NAME), "tick")]
    if score.value is None:
        return [*body, text(plot.right + 10, y + 4, shorten(score.reason or "not defined", 24), "tick")]
    said = f"{score.value:.3f}"
    if score.low is not None and score.high is not None:
        body.append(line(plot.across(score.low), y, plot.across(score.high), y, "whisker s0"))
        said += f" ({score.low:.3f} to {score.high:.3f})"
    body.append(
        dot(plot.across(score.value), y, "dot s0", f"{row.encoder}, {row.name}: {score.title} {said}", radius=4.5)
    )
    return [*body, text(plot.right + 10, y + 4, said, "tick")]


def folds_figure(folds: Sequence[FoldScore], scores: Sequence[Score], titles: Sequence[str]) -> Markup:
    """The whole's scores with their intervals, and below them a row a fold with a dot a seed.

    Empty where no fold has a score.

    Args:
        folds: of every seed.
        scores: of the whole.
        titles: of one score, whose dots are filled, or two, the second's hollow.
    """
    values = [value for fold in folds for title in titles if (value := fold.scores.get(title)) is not None]
    if not values:
        return Markup("")
    named = {score.title: score for score in scores}
    whole = [named[title] for title in titles if title in named]
    ends = [end for score in whole for end in (score.low, score.value, score.high) if end is not None]
    low, high = min([*values, *ends]), max([*values, *ends])
    low = min(0.5, math.floor(low * 10) / 10) if low >= 0 else math.floor(low * 5) / 5
    numbers = sorted({fold.fold for fold in folds})
    pitch = 32.0
    plot = Plot(x=(low, max(1.0, high)), left=LEFT, width=300.0, height=pitch * (1 + len(numbers)))
    body = [*plot.axes(""), line(plot.left, plot.top + pitch, plot.right, plot.top + pitch, "rule")]
    body.append(text(plot.left - 8, plot.top + pitch / 2 + 4, "all", "tick end"))
    off = (-6, 6) if len(titles) > 1 else (0,)
    for title, name, away in zip(titles, ("dot s0", "ring s1"), off, strict=False):
        score, y = named.get(title), plot.top + pitch / 2 + away
        if score is None:
            continue
        if score.low is not None and score.high is not None:
            body.append(line(plot.across(score.low), y, plot.across(score.high), y, f"whisker {name[-2:]}"))
        if score.value is not None:
            body.append(dot(plot.across(score.value), y, name, f"all: {title} {score.value:.3f}"))
    for row, number in enumerate(numbers):
        y = plot.top + pitch * (row + 1.5)
        body.append(text(plot.left - 8, y + 4, f"fold {number + 1}", "tick end"))
        for fold in (fold for fold in folds if fold.fold == number):
            for title, name, away in zip(titles, ("dot s0", "ring s1"), off, strict=False):
                value = fold.scores.get(title)
                if value is not None:
                    told = f"seed {fold.seed}, fold {number + 1}: {title} {value:.3f}"
                    body.append(dot(plot.across(value), y + away, name, told))
    base = plot.bottom + 38
    for title, name in zip(titles, ("dot s0", "ring s1"), strict=False):
        body += [dot(plot.left + 6, base - 4, name, title), text(plot.left + 18, base, title, "tick")]
        base += LINE
    return svg(plot.right + 16, base - LINE / 2, title="Scores of every fold", body=body)
