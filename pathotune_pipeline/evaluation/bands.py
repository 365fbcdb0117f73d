"""How sure a curve is: pointwise bands of ROC and precision-recall curves from resampled patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pathotune_pipeline.evaluation.intervals import patient_draws
from pathotune_pipeline.evaluation.metrics.classification import sides_by_score
from pathotune_pipeline.evaluation.scoring import CLASSES, Sample

POINTS = 101
"""Places at which a band is known: false positive rates, or recalls, from 0 to 1."""
MOST_DRAWS = 1000
"""A band needs no more: its ends are seen to a pixel."""
MOST_CURVES = 12
"""Classes of which bands are made; of more, the first so many."""
_DIGITS = 5

_Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bands_of(
    sample: Sample, *, groups: Sequence[str], draws: int = MOST_DRAWS, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """ROC and precision-recall curves with pointwise bands, for the positive class or each class, grade or label.

    All curves see the same draws of the patients. At each false positive rate, and each recall, the band holds the
    middle `level` of the draws' values.

    Args:
        sample: of classes, grades or labels; another kind has no such curves.
        groups: the patient of each slide.
        draws: at least 1000; of more, `MOST_DRAWS` are made.
        seed: of the draws.
        level: share of the draws inside.

    Returns:
        {"level", "draws", "slides", "patients", "at": [POINTS], "of": {class: {"positive": slides, "roc": band,
        "pr": band}}}, each band {"value", "low", "high"}, [POINTS] each. Empty where no class has both sides.

    Raises:
        UsageError: too few draws.
    """
    sides = dict(_sides(sample))
    if not sides:
        return {}
    at = np.linspace(0, 1, POINTS)
    draws = min(draws, MOST_DRAWS)
    kept: dict[tuple[str, str], list[np.ndarray]] = {(name, kind): [] for name in sides for kind in _CURVES}
    for weights in patient_draws(groups, strata=sample.strata(), draws=draws, seed=seed):
        for name, (positive, scores) in sides.items():
            up, down = sides_by_score(positive, scores, weights)
            for kind, curve in _CURVES.items():
                kept[name, kind].append(curve(up, down))
    found = {}
    for name, (positive, scores) in sides.items():
        up, down = sides_by_score(positive, scores, np.ones((1, len(scores))))
        curves = {
            kind: _band(curve(up, down)[0], np.concatenate(kept[name, kind]), level=level)
            for kind, curve in _CURVES.items()
        }
        found[name] = {"positive": int(positive.sum()), **curves}
    return {
        "level": level,
        "draws": draws,
        "slides": len(groups),
        "patients": len(set(groups)),
        "at": at.round(_DIGITS).tolist(),
        "of": found,
    }


def roc_at(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """True positive rate at each of `POINTS` false positive rates, [R, POINTS]; NaN where a side has no weight.

    Between two thresholds the curve is straight; where it rises, its upper end counts.

    Args:
        up: [R, K] weight of the positives at each distinct score, lowest first.
        down: [R, K] of the negatives.
    """
    tpr, fpr = (_share_above(each) for each in (up, down))
    at = np.linspace(0, 1, POINTS)
    rows = [np.interp(at, x, y) for x, y in zip(fpr, tpr, strict=True)]
    found = np.array(rows).reshape(len(up), POINTS)
    found[(up.sum(axis=1) == 0) | (down.sum(axis=1) == 0)] = np.nan
    return found


def precision_at(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Precision at the highest threshold that reaches each of `POINTS` recalls, [R, POINTS]; arguments as `roc_at`."""
    true, false = (_above(each) for each in (up, down))  # [R, K], highest threshold first
    total = true[:, -1:]
    precision = true / np.maximum(true + false, 1e-300)
    wanted = np.maximum(np.linspace(0, 1, POINTS), 1e-9)
    rows = []
    for reached, values in zip(true / np.maximum(total, 1e-300), precision, strict=True):
        place = np.searchsorted(reached, wanted - 1e-12)
        rows.append(values[np.minimum(place, len(values) - 1)])
    found = np.array(rows).reshape(len(up), POINTS)
    found[(total[:, 0] == 0) | (false[:, -1] == 0)] = np.nan
    return found


_CURVES: dict[str, _Curve] = {"roc": roc_at, "pr": precision_at}


def _sides(sample: Sample) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Of each class that is judged and has both sides: which slides are of it, and its probability, [N] each."""
    if sample.kind not in (*CLASSES, "ordinal", "multilabel"):
        return
    truth = sample.truth()
    first = 1 if sample.kind == "binary" else 0
    for index in range(first, min(len(sample.classes), first + MOST_CURVES)):
        positive = truth[:, index] == 1 if sample.kind == "multilabel" else truth == index
        if positive.any() and not positive.all():
            yield sample.classes[index], (positive, sample.values[:, index])


def _above(weights: np.ndarray) -> np.ndarray:
    return np.cumsum(weights[:, ::-1], axis=1)


def _share_above(weights: np.ndarray) -> np.ndarray:
    """The share with at least each score, highest first, from 0 to 1: [R, 1 + K]."""
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    return np.concatenate([np.zeros((len(weights), 1)), _above(weights) / total], axis=1)


def _band(value: np.ndarray, drawn: np.ndarray, *, level: float) -> dict[str, list[float]]:
    defined = drawn[~np.isnan(drawn).any(axis=1)]
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail], axis=0) if len(defined) else (value, value)
    return {name: each.round(_DIGITS).tolist() for name, each in (("value", value), ("low", low), ("high", high))}
