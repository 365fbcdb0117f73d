"""Figures as inline SVG. Colours come from the page's style sheet by class, so that they follow its theme."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from pathotune_pipeline.reports.models import SCORE_TITLES, Curve, FoldScore, Score
from pathotune_pipeline.reports.overlay import heat_colours

SERIES = 6
"""Colours (and dash patterns) of curves before they repeat: classes s0 to s5 of the style sheet."""
MOST_POINTS = 400


def _svg(width: float, height: float, *, title: str, body: Sequence[str]) -> Markup:
    opening = Markup(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}"><title>{}</title>'
    ).format(_px(width), _px(height), _px(width), _px(height), title, title)
    return opening + Markup("").join(map(Markup, body)) + Markup("</svg>")


def _px(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{_px(x1)}" y1="{_px(y1)}" x2="{_px(x2)}" y2="{_px(y2)}"/>'


def _rect(x: float, y: float, width: float, height: float, name: str) -> str:
    return f'<rect class="{name}" x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}"/>'


def _text(x: float, y: float, text: str, name: str = "", *, more: str = "") -> str:
    return f'<text class="{name}" x="{_px(x)}" y="{_px(y)}" {more}>{escape(text)}</text>'


def _thin(curve: Curve) -> list[tuple[float, float]]:
    """At most MOST_POINTS of a curve's points, its ends among them."""
    points = list(zip(curve.fpr, curve.tpr, strict=True))
    step = -(-len(points) // MOST_POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


def roc_figure(curves: Sequence[Curve], scores: Sequence[Score]) -> Markup:
    """ROC curves over their diagonal, with a legend below where there are several.

    Args:
        curves: one, or one a class against the rest.
        scores: the AUROC among them is told in the figure's title.
    """
    side, left, top, below = 270.0, 54.0, 10.0, 48.0
    named = [curve for curve in curves if curve.name] if len(curves) > 1 else []
    height = top + side + below + 18 * len(named) + (6 if named else 0)
    body = [_rect(left, top, side, side, "plot")]
    for step in range(5):
        share = step / 4
        x, y = left + share * side, top + (1 - share) * side
        if 0 < step < 4:
            body += [_line(x, top, x, top + side, "grid"), _line(left, y, left + side, y, "grid")]
        body.append(_text(x, top + side + 16, f"{share:.2f}", "tick mid"))
        body.append(_text(left - 7, y + 4, f"{share:.2f}", "tick end"))
    body.append(_line(left, top + side, left + side, top, "chance"))
    for index, curve in enumerate(curves):
        points = " ".join(f"{_px(left + x * side)},{_px(top + (1 - y) * side)}" for x, y in _thin(curve))
        body.append(f'<polyline class="curve s{index % SERIES}" points="{points}"/>')
    body.append(_text(left + side / 2, top + side + 38, "False positive rate (1 − specificity)", "axis mid"))
    middle = top + side / 2
    turned = f'transform="rotate(-90 14 {_px(middle)})"'
    body.append(_text(14, middle, "True positive rate (sensitivity)", "axis mid", more=turned))
    for index, curve in enumerate(named):
        y = top + side + below + 12 + 18 * index
        body.append(_line(left, y - 4, left + 26, y - 4, f"curve s{index % SERIES}"))
        body.append(_text(left + 34, y, f"{curve.name} against the rest", "tick"))
    auroc = next((score.value for score in scores if score.title == "AUROC" and score.value is not None), None)
    title = "ROC curve" if auroc is None else f"ROC curve, AUROC {auroc:.3f}"
    return _svg(left + side + 16, height, title=title, body=body)


def folds_figure(folds: Sequence[FoldScore], scores: Sequence[Score]) -> Markup:
    """The whole's scores with their intervals, and below them a row a fold with a dot a seed.

    AUROC is filled, balanced accuracy hollow. Empty where no fold has a score.
    """
    values = [value for fold in folds for value in (fold.auroc, fold.balanced_accuracy) if value is not None]
    if not values:
        return Markup("")
    named = {score.title: score for score in scores}
    whole = [named[title] for title in SCORE_TITLES.values() if title in named]
    ends = [end for score in whole for end in (score.low, score.value) if end is not None]
    low = min(0.5, int(min([*values, *ends]) * 10) / 10)
    numbers = sorted({fold.fold for fold in folds})
    width, left, top, pitch = 300.0, 54.0, 10.0, 32.0
    bottom = top + pitch * (1 + len(numbers))

    def across(value: float) -> float:
        return left + (value - low) / (1 - low) * width

    body = [_rect(left, top, width, bottom - top, "plot"), _line(left, top + pitch, left + width, top + pitch, "rule")]
    steps = round((1 - low) * 10)
    for step in range(steps + 1):
        if steps > 6 and step % 2 != steps % 2:
            continue
        x = across(low + step / 10)
        body += [_line(x, top, x, bottom, "grid"), _text(x, bottom + 16, f"{low + step / 10:.1f}", "tick mid")]
    body.append(_text(left - 8, top + pitch / 2 + 4, "all", "tick end"))
    for score in whole:
        name, y = ("dot s0", top + pitch / 2 - 6) if score.title == "AUROC" else ("ring s1", top + pitch / 2 + 6)
        if score.low is not None and score.high is not None:
            body.append(_line(across(score.low), y, across(score.high), y, f"whisker {name[-2:]}"))
        if score.value is not None:
            body.append(_dot(across(score.value), y, name, f"all: {score.title} {score.value:.3f}"))
    for row, number in enumerate(numbers):
        y = top + pitch * (row + 1.5)
        body.append(_text(left - 8, y + 4, f"fold {number + 1}", "tick end"))
        for fold in (fold for fold in folds if fold.fold == number):
            which = f"seed {fold.seed}, fold {number + 1}"
            if fold.auroc is not None:
                body.append(_dot(across(fold.auroc), y - 6, "dot s0", f"{which}: AUROC {fold.auroc:.3f}"))
            if fold.balanced_accuracy is not None:
                told = f"{which}: balanced accuracy {fold.balanced_accuracy:.3f}"
                body.append(_dot(across(fold.balanced_accuracy), y + 6, "ring s1", told))
    legend = bottom + 38
    body += [_dot(left + 6, legend - 4, "dot s0", "AUROC"), _text(left + 16, legend, "AUROC", "tick")]
    body.append(_dot(left + 82, legend - 4, "ring s1", "balanced accuracy"))
    body.append(_text(left + 92, legend, "balanced accuracy; bars: interval", "tick"))
    return _svg(left + width + 16, legend + 10, title="Scores of every fold", body=body)


def _dot(x: float, y: float, name: str, told: str) -> str:
    return f'<circle class="{name}" cx="{_px(x)}" cy="{_px(y)}" r="4"><title>{escape(told)}</title></circle>'


def colour_bar(gradient_id: str) -> Markup:
    """The heat map's legend: from the least attention to the most, by percentile.

    Args:
        gradient_id: a name that nothing else on the page has.
    """
    colours = heat_colours()
    stops = "".join(
        f'<stop offset="{_px(100 * index / (len(colours) - 1))}%" stop-color="{colour}"/>'
        for index, colour in enumerate(colours)
    )
    body = [
        f'<defs><linearGradient id="{escape(gradient_id)}">{stops}</linearGradient></defs>',
        f'<rect x="8" y="2" width="244" height="10" rx="2" fill="url(#{escape(gradient_id)})"/>',
    ]
    for x, text in ((8, "0"), (69, "25"), (130, "50"), (191, "75"), (252, "100")):
        body.append(_text(x, 26, text, "tick mid"))
    body.append(_text(284, 12, "percentile of attention", "tick"))
    body.append(_text(284, 26, "within the slide", "tick"))
    return _svg(430, 32, title="Colours: percentile of attention within the slide", body=body)
