"""Agreement of called classes with the truth: Cohen's kappa, and F1 by class weighted by how often each occurs."""

from __future__ import annotations

import numpy as np

from pathotune_pipeline.evaluation.metrics.score import Score, once, ratio, score_of


def cohen_kappa(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Cohen's kappa of the most probable class: (observed - chance agreement) / (1 - chance agreement).

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
    """
    reason = "all have one class, and were given it" if len(targets) else "there is nothing to judge"
    return score_of(weighted_cohen_kappa(targets, probs, once(len(targets))), reason)


def support_weighted_f1(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Mean over classes of 2 TP / (2 TP + FP + FN), each weighted by its share of the truth.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
    """
    return score_of(weighted_support_f1(targets, probs, once(len(targets))), "there is nothing to judge")


def weighted_cohen_kappa(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`cohen_kappa` for many weightings at once, [R] float64; NaN where chance never disagrees.

    Args:
        targets: [N] int.
        probs: [N, C] float.
        weights: [R, N] float: how often each counts.
    """
    truth, said, right = _counts(targets, probs, weights)
    total = weights.sum(axis=1)
    observed, chance = ratio(right.sum(axis=1), total), ratio((truth * said).sum(axis=1), total**2)
    return ratio(observed - chance, 1 - chance)


def weighted_support_f1(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`support_weighted_f1` for many weightings at once, [R] float64; arguments as for `weighted_cohen_kappa`.

    A class that neither occurs nor is called has no share, and so no say.
    """
    truth, said, right = _counts(targets, probs, weights)
    f1 = np.nan_to_num(ratio(2 * right, truth + said))
    return ratio((f1 * truth).sum(axis=1), truth.sum(axis=1))


def _counts(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight of each class in the truth, in what was called, and in both at once, [R, C] float64 each."""
    classes = np.arange(probs.shape[1])
    called = probs.argmax(axis=1) if len(probs) else np.zeros(0, np.int64)
    of_truth, of_said = (each[:, None] == classes for each in (targets, called))
    truth, said, right = (weights @ each.astype(np.float64) for each in (of_truth, of_said, of_truth & of_said))
    return truth, said, right
