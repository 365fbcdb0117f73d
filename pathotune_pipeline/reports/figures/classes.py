"""Figures of class probabilities: ROC, precision-recall, reliability, confusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pathotune_pipeline.reports.figures.canvas import (
    BELOW,
    CHARACTER,
    LEFT,
    LINE,
    SIDE,
    TOP,
    Figure,
    Plot,
    dot,
    legend,
    line,
    rect,
    series,
    shorten,
    svg,
    text,
)
from pathotune_pipeline.reports.views import Bands, Curve, Reliability, Score, count_text, percent_of

MOST_CLASSES = 20
"""Classes up to which a confusion matrix can be read."""
BINS = 15
"""Of equal width, as the evaluation makes them."""
MOST_BANDS = 3
"""Curves up to which bands do not hide each other."""
_NAME, _LEGEND = 26, 40


def roc_figure(
    curves: Sequence[Curve], scores: Sequence[Score], bands: Bands | None = None, *, by_patient: bool = False
) -> Figure:
    """ROC curves over their diagonal, with bands where they are known.

    Args:
        curves: one, or one a class against the rest.
        scores: the AUROC among them is told in the legend.
        bands: of the same classes.
        by_patient: whether patients are judged, and not slides.
    """
    plot = Plot()
    body = plot.axes("False positive rate (1 − specificity)", "True positive rate (sensitivity)")
    body.append(line(plot.left, plot.bottom, plot.right, plot.top, "chance"))
    body += _bands(plot, "roc", bands)
    for index, curve in enumerate(curves):
        body.append(plot.curve(list(zip(curve.fpr, curve.tpr, strict=True)), series(index)))
    entries, room = _legend(plot, [curve.name for curve in curves], _told(scores, "AUROC"), chance=True)
    title = _with_score("ROC curve", scores, "AUROC")
    picture = svg(plot.right + 16, plot.bottom + room, title=title, body=[*body, *entries])
    return Figure("ROC curve", picture, _of(bands, "false positive rate", by_patient=by_patient))


def precision_recall_figure(bands: Bands, scores: Sequence[Score], *, by_patient: bool = False) -> Figure:
    """Precision over recall with bands, above the share of positive slides: what chance reaches."""
    plot, single = Plot(), len(bands.classes) == 1
    body = plot.axes("Recall (sensitivity)", "Precision (positive predictive value)")
    if single:
        share = plot.up(bands.classes[0].positive / max(bands.units, 1))
        body.append(line(plot.left, share, plot.right, share, "chance"))
    body += _bands(plot, "pr", bands)
    for index, each in enumerate(bands.classes):
        body.append(plot.curve(list(zip(bands.at, each.pr.value, strict=True)), series(index)))
    entries, room = _legend(plot, [each.name for each in bands.classes], _told(scores, "AUPRC"), chance=single)
    title = _with_score("Precision-recall curve", scores, "AUPRC")
    picture = svg(plot.right + 16, plot.bottom + room, title=title, body=[*body, *entries])
    return Figure("Precision and recall", picture, _of(bands, "recall", by_patient=by_patient))


def reliability_figure(parts: Sequence[Reliability], *, by_patient: bool = False) -> Figure:
    """What came true over what was predicted, before and after the temperature, with the slides of each bin below.

    Args:
        parts: as the model says it, and where known at its temperature.
        by_patient: whether patients are judged, and not slides.
    """
    plot, bars, units = Plot(), 54.0, "patients" if by_patient else "slides"
    most = max(max(part.slides, default=1.0) for part in parts)
    below = Plot(top=plot.bottom + 14, height=bars, y=(0.0, most))
    body = [each for each in plot.axes("", "Share that came true") if "tick mid" not in each]
    body += below.axes("Predicted probability")
    body += [
        text(below.left - 7, below.top + 10, f"{most:g}", "tick end"),
        text(below.left - 7, below.bottom, "0", "tick end"),
    ]
    body.append(line(plot.left, plot.bottom, plot.right, plot.top, "chance"))
    for index, part in enumerate(parts):
        name = series(index)
        points = list(zip(part.predicted, part.observed, strict=True))
        for (said, true), count in zip(points, part.slides, strict=True):
            x = plot.across(said)
            low, high = wilson(true, count)
            told = f"{part.name}: predicted {said:.2f}, came true {true:.2f} of {count:g} {units}"
            body.append(line(x, plot.up(low), x, plot.up(high), f"whisker fine {name}"))
            body.append(dot(x, plot.up(true), f"dot {name}" if index == 0 else f"ring {name}", told, radius=3.5))
            wide = SIDE / BINS / len(parts)
            left = below.across((np.ceil(said * BINS - 1e-9) - 1).clip(0, BINS - 1) / BINS) + wide * index
            size = below.bottom - below.up(count)
            body.append(rect(left + 0.5, below.up(count), wide - 1, size, f"bar {name}", told=told))
    names = [(f"mark {series(index)}", part.name) for index, part in enumerate(parts)]
    body += legend(LEFT, below.bottom + BELOW + 12, [*names, ("chance", "perfectly calibrated")])
    height = below.bottom + BELOW + LINE * (len(names) + 1)
    told = f"Whiskers: 95 % Wilson intervals of each bin, as if {units} were independent; bars: {units} of each bin."
    counted = f"n = {sum(parts[0].slides):g} {units}. "
    return Figure("Calibration", svg(plot.right + 16, height, title="Reliability diagram", body=body), counted + told)


def confusion_figure(
    classes: Sequence[str],
    counts: np.ndarray,
    *,
    patients: int | None = None,
    by_patient: bool = False,
    at_threshold: bool = False,
) -> Figure | None:
    """How often each class was taken for each, with shares of the rows. None above MOST_CLASSES.

    Args:
        classes: C names.
        counts: [C, C] int, rows are the classes that slides have.
        patients: how many.
        by_patient: whether patients are counted, and not slides.
        at_threshold: whether the second of two classes was called from a threshold on.
    """
    size = len(classes)
    if not 1 <= size <= MOST_CLASSES or not counts.sum():
        return None
    cell = max(30.0, min(76.0, 300.0 / size))
    letters = min(_NAME, max(map(len, classes)))
    left, upright = 40.0 + CHARACTER * letters, max(map(len, classes)) * CHARACTER <= cell - 4
    top = TOP + (20.0 if upright else 0.77 * CHARACTER * letters + 10)
    body, row_sums = [], counts.sum(axis=1)
    for row, name in enumerate(classes):
        y = top + cell * row
        body.append(text(left - 8, y + cell / 2 + 4, shorten(name, _NAME), "tick end"))
        for column, other in enumerate(classes):
            x, count = left + cell * column, int(counts[row, column])
            share = count / row_sums[row] if row_sums[row] else 0.0
            told = f"{name} taken for {other}: {count} of {int(row_sums[row])}"
            body.append(rect(x, y, cell, cell, "cell", more=f'fill-opacity="{0.04 + 0.86 * share:.3f}"', told=told))
            ink = "cell-text on mid" if share > 0.55 else "cell-text mid"
            roomy = cell >= 44
            body.append(text(x + cell / 2, y + cell / 2 + (0 if roomy else 4), str(count), ink))
            if roomy:
                body.append(
                    text(
                        x + cell / 2,
                        y + cell / 2 + 16,
                        f"{100 * share:.0f} %" if row_sums[row] else "–",
                        f"{ink} lesser",
                    )
                )
    for column, name in enumerate(classes):
        x = left + cell * (column + 0.5)
        if upright:
            body.append(text(x, top - 6, name, "tick mid"))
        else:
            body.append(
                text(x, top - 6, shorten(name, _NAME), "tick", more=f'transform="rotate(-50 {x:.1f} {top - 6:.1f})"')
            )
    bottom = top + cell * size
    middle = top + cell * size / 2
    body.append(text(left + cell * size / 2, bottom + 20, "Predicted class", "axis mid"))
    body.append(text(14, middle, "True class", "axis mid", more=f'transform="rotate(-90 14 {middle:.1f})"'))
    leaning = [cell * (place + 0.5) + 0.64 * CHARACTER * min(_NAME, len(name)) for place, name in enumerate(classes)]
    width = left + max(cell * size, 0 if upright else max(leaning)) + 12
    rule = "is the class of the highest mean probability"
    if at_threshold:
        rule = f"is {classes[-1]} from the threshold on that was chosen on validation"
    told = (
        f"{count_text(int(counts.sum()), patients, by_patient=by_patient)}. Predicted {rule}; "
        "shares are of the row, so those on the diagonal are recalls."
    )
    return Figure("Confusion matrix", svg(width, bottom + 30, title="Confusion matrix", body=body), told)


def wilson(share: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share of so many."""
    if count <= 0:
        return share, share
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def _bands(plot: Plot, kind: str, bands: Bands | None) -> list[str]:
    if bands is None or len(bands.classes) > MOST_BANDS:
        return []
    drawn = []
    for index, each in enumerate(bands.classes):
        band = each.roc if kind == "roc" else each.pr
        low, high = (list(zip(bands.at, values, strict=True)) for values in (band.low, band.high))
        drawn.append(plot.band(low, high, series(index)))
    return drawn


def _legend(plot: Plot, names: Sequence[str], told: str, *, chance: bool) -> tuple[list[str], float]:
    """Curves by name and their score, and the height below the plot."""
    several = len(names) > 1
    said = [f"{shorten(name, _LEGEND // 2)} against the rest" if several else shorten(name, _LEGEND) for name in names]
    entries = [(f"curve {series(index)}", each) for index, each in enumerate(said)]
    if told:
        entries.append(("", f"mean {told}" if several else told))
    if chance:
        entries.append(("chance", "chance"))
    return legend(plot.left, plot.bottom + BELOW + 12, entries), BELOW + LINE * len(entries) + 4


def _told(scores: Sequence[Score], title: str) -> str:
    for score in scores:
        if score.title == title and score.value is not None:
            bounded = score.low is not None and score.high is not None
            return f"{title} {score.value:.3f}" + (f" ({score.low:.3f} to {score.high:.3f})" if bounded else "")
    return ""


def _with_score(what: str, scores: Sequence[Score], title: str) -> str:
    value = next((score.value for score in scores if score.title == title and score.value is not None), None)
    return what if value is None else f"{what}, {title} {value:.3f}"


def _of(bands: Bands | None, at: str, *, by_patient: bool) -> str:
    if bands is None:
        return ""
    counted = count_text(bands.units, bands.patients, by_patient=by_patient)
    if len(bands.classes) == 1:
        counted += f", {bands.classes[0].positive} of them {bands.classes[0].name}"
    if len(bands.classes) > MOST_BANDS:
        return f"{counted}."
    return f"{counted}. Band: {percent_of(bands.level)} of {bands.draws} resamplings of patients, at each {at}."
