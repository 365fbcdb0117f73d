"""Figures of survival and of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pathotune_pipeline.reports.figures.canvas import (
    BELOW,
    LEFT,
    LINE,
    MOST_POINTS,
    Figure,
    Plot,
    legend,
    line,
    series,
    shorten,
    stairs,
    svg,
    text,
    ticks,
)
from pathotune_pipeline.reports.views import Score, SurvivalView, count_text

MOST_DOTS = 2000
"""Slides in a scatter plot; of more, so many are drawn, evenly over their order."""


def survival_figure(view: SurvivalView, target: str, *, by_patient: bool = False) -> Figure:
    """Kaplan-Meier curves of the halves of lower and higher risk, their bands, the log-rank test and who is at risk.

    Args:
        view: the curves.
        target: the column of the times, whose unit the axis has.
        by_patient: whether patients are judged, and not slides.
    """
    last = max((curve.times[-1] for curve in view.curves if curve.times), default=1.0) or 1.0
    plot = Plot(x=(0.0, last), left=LEFT + 40, width=330.0, height=240.0)
    body = plot.axes(f"Time, in the unit of {shorten(target, 30)}" if target else "Time", "Survival")
    for index, curve in enumerate(view.curves):
        name = series(index)
        places = [0.0, *curve.times]
        low, high = (stairs(list(zip(places, [1.0, *values], strict=True))) for values in (curve.low, curve.high))
        points = list(zip(places, [1.0, *curve.survival], strict=True))
        body.append(plot.band(low, high, name))
        body.append(plot.curve(stairs(_falls(points)), name))
        for (x, y), (_, before) in list(zip(points[1:], points, strict=False))[: 4 * MOST_POINTS]:
            if y == before:  # nobody died here: a censoring
                body.append(line(plot.across(x), plot.up(y) - 4, plot.across(x), plot.up(y) + 4, f"tickmark {name}"))
    top = plot.bottom + BELOW + 14
    body.append(text(16, top, "At risk", "axis"))
    at = ticks(*plot.x)
    for row, curve in enumerate(view.curves):
        y = top + LINE * (row + 1)
        body.append(text(16, y, curve.name, "tick"))
        for value in at:
            body.append(text(plot.across(value), y, str(_at_risk(curve.times, curve.at_risk, value)), "tick mid"))
    under = top + LINE * (len(view.curves) + 1) + 10
    said = [
        f"{curve.name}: {curve.at_risk[0]:g} {'patients' if by_patient else 'slides'}" if curve.at_risk else curve.name
        for curve in view.curves
    ]
    body += legend(plot.left, under, [(f"curve {series(i)}", each) for i, each in enumerate(said)])
    height = under + LINE * len(said)
    test = _log_rank_text(view)
    told = (
        f"{test} Halves are cut at the median of the predicted risk; bands: pointwise 95 % (Greenwood, log-log); "
        "small strokes: last seen without the event."
    )
    picture = svg(plot.right + 20, height, title=f"Kaplan-Meier curves by predicted risk. {test}", body=body)
    return Figure("Survival of lower and higher risk", picture, told)


def scatter_figure(
    truth: Sequence[float],
    said: Sequence[float],
    *,
    target: str,
    scores: Sequence[Score],
    patients: int | None = None,
    by_patient: bool = False,
) -> Figure:
    """Predicted over true numbers, with the line on which they are equal.

    Args:
        truth: of each slide.
        said: the mean prediction of each slide.
        target: the column of the numbers, whose unit both axes have.
        scores: told below.
        patients: how many.
        by_patient: whether patients are judged, and not slides.
    """
    both = [*truth, *said]
    low, high = min(both), max(both)
    margin = 0.04 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    plot = Plot(x=ends, y=ends)
    unit = shorten(target, 24) or "the table's number"
    body = plot.axes(f"True {unit}", f"Predicted {unit}")
    body.append(line(plot.left, plot.bottom, plot.right, plot.top, "chance"))
    shown = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), MOST_DOTS)).round().astype(int))
    order = np.argsort(np.asarray(truth), kind="stable")[shown]
    places = " ".join(f"M{plot.across(truth[i]):.1f} {plot.up(said[i]):.1f}h0" for i in order.tolist())
    body.append(f'<path class="dots s0" d="{places}"/>')
    body += legend(plot.left, plot.bottom + BELOW + 12, [("chance", "predicted = true")])
    told = (
        count_text(len(truth), patients, by_patient=by_patient)
        + (f", of which {len(order)} are drawn" if len(order) < len(truth) else "")
        + ". "
    )
    told += "; ".join(f"{score.title} {score.value:.3g}" for score in scores if score.value is not None)
    picture = svg(plot.right + 16, plot.bottom + BELOW + LINE, title="Predicted over true numbers", body=body)
    return Figure("Predicted and true", picture, f"{told.rstrip()}{'' if told.endswith('. ') else '.'}")


def _falls(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points at which the curve falls, and its ends."""
    kept = points[:1] + [here for before, here in pairwise(points) if here[1] != before[1]]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _at_risk(times: Sequence[float], at_risk: Sequence[float], time: float) -> int:
    """How many are under observation just before a time."""
    place = int(np.searchsorted(times, time - 1e-9))
    return int(at_risk[place]) if place < len(at_risk) else 0


def _log_rank_text(view: SurvivalView) -> str:
    if view.p_value is None:
        return f"No log-rank test: {view.reason}" if view.reason else ""
    return f"Log-rank test: p = {view.p_value:.2g}." if view.p_value >= 1e-4 else "Log-rank test: p < 0.0001."
