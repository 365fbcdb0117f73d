"""Scores of class probabilities. What is not defined is None with a reason, never NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Score:
    """A number, or the reason why there is none.

    Attributes:
        value: None where the score is not defined.
        reason: why not, or empty.
    """

    value: float | None
    reason: str = ""


def auroc(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Area under the ROC curve; for more than two classes the mean of each class against the rest.

    Ties count half.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float; of two classes the second is the positive one.
    """
    absent = _absent(targets, probs.shape[1])
    if absent:
        return Score(None, f"no slide of class {absent[0]} among {len(targets)}")
    return Score(float(weighted_auroc(targets, probs, np.ones((1, len(targets))))[0]))


def balanced_accuracy(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Mean over classes of the share that got its highest probability right.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
    """
    absent = _absent(targets, probs.shape[1])
    if absent:
        return Score(None, f"no slide of class {absent[0]} among {len(targets)}")
    return Score(float(weighted_balanced_accuracy(targets, probs, np.ones((1, len(targets))))[0]))


def accuracy(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Share whose highest probability is on the right class.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
    """
    if not len(targets):
        return Score(None, "no slides")
    return Score(float((probs.argmax(axis=1) == targets).mean()))


def roc_points(targets: np.ndarray, probs: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """The ROC curve of the positive class, or of each of several classes against the rest.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
        classes: C names.

    Returns:
        class -> {"fpr": [...], "tpr": [...]}, from (0, 0) to (1, 1); a class without both sides is left out.
    """
    from sklearn.metrics import roc_curve

    curves = {}
    for index in _judged(len(classes)):
        positive = targets == index
        if positive.any() and not positive.all():
            fpr, tpr, _ = roc_curve(positive, probs[:, index])
            curves[classes[index]] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
    return curves


def weighted_auroc(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`auroc` for many weightings at once, [R] float64.

    Args:
        targets: [N] int.
        probs: [N, C] float.
        weights: [R, N] float: how often each slide counts. Every class must have some weight in each row.
    """
    per_class = [_weighted_binary(targets == index, probs[:, index], weights) for index in _judged(probs.shape[1])]
    return np.mean(per_class, axis=0)


def weighted_balanced_accuracy(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`balanced_accuracy` for many weightings at once, [R] float64; arguments as for `weighted_auroc`."""
    right = probs.argmax(axis=1) == targets
    recalls = []
    for index in range(probs.shape[1]):
        of_class = targets == index
        recalls.append(weights[:, of_class & right].sum(axis=1) / weights[:, of_class].sum(axis=1))
    return np.mean(recalls, axis=0)


def weighted_accuracy(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`accuracy` for many weightings at once, [R] float64; arguments as for `weighted_auroc`."""
    right = probs.argmax(axis=1) == targets
    return weights[:, right].sum(axis=1) / weights.sum(axis=1)


def _weighted_binary(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)  # one group for each distinct score
    sorted_weights = weights[:, order]
    up = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)  # [R, groups]
    down = np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)  # [R, groups]
    below = np.cumsum(down, axis=1) - 0.5 * down
    return (up * below).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))


def _judged(n_classes: int) -> list[int]:
    return [1] if n_classes == 2 else list(range(n_classes))


def _absent(targets: np.ndarray, n_classes: int) -> list[int]:
    return [index for index in range(n_classes) if not (targets == index).any()]
