"""Scores of predicted numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pathotune_pipeline.evaluation.metrics.score import Score, check_lengths, once, ratio, score_of


def r2(targets: np.ndarray, predicted: np.ndarray) -> Score:
    """1 - squared error / squared error of the targets' own mean; below 0 where that mean would do better.

    Args:
        targets: [N] float.
        predicted: [N] float, in the targets' unit.

    Raises:
        UsageError: lengths differ, or a value is not finite.
    """
    return _one(weighted_r2, targets, predicted, "the targets do not vary")


def mean_absolute_error(targets: np.ndarray, predicted: np.ndarray) -> Score:
    """Mean of |predicted - target|, in the targets' unit; arguments as for `r2`."""
    return _one(weighted_mean_absolute_error, targets, predicted, "no slides")


def pearson(targets: np.ndarray, predicted: np.ndarray) -> Score:
    """Pearson's correlation; arguments as for `r2`."""
    return _one(weighted_pearson, targets, predicted, "the targets or the predictions do not vary")


def weighted_r2(targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`r2` for many weightings at once, [R] float64; NaN where it is not defined.

    Args:
        targets: [N] float.
        predicted: [N] float.
        weights: [R, N] float: how often each slide counts.
    """
    _, spread = _moments(targets, targets, weights)
    error = weights @ np.square(predicted - targets)
    return 1 - ratio(error, _nothing_where_flat(spread, targets))


def weighted_mean_absolute_error(targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`mean_absolute_error` for many weightings at once; arguments as for `weighted_r2`."""
    return ratio(weights @ np.abs(predicted - targets), weights.sum(axis=1))


def weighted_pearson(targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`pearson` for many weightings at once; arguments as for `weighted_r2`."""
    _, shared = _moments(targets, predicted, weights)
    _, of_targets = _moments(targets, targets, weights)
    _, of_predicted = _moments(predicted, predicted, weights)
    flat = _nothing_where_flat(of_targets, targets) * _nothing_where_flat(of_predicted, predicted)
    return np.clip(ratio(shared, np.sqrt(flat)), -1, 1)


def _moments(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Total weight [R] and sum of w (x - mean x)(y - mean y) [R]; x and y are centred first, to lose no digits."""
    total = weights.sum(axis=1)
    x, y = (x - x.mean(), y - y.mean()) if len(x) else (x, y)
    return total, weights @ (x * y) - (weights @ x) * np.nan_to_num(ratio(weights @ y, total))


def _nothing_where_flat(spread: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The spread, and exactly 0 where it is what rounding leaves of values that do not vary."""
    scale = np.square(values - values.mean()).sum() if len(values) else 0.0
    floor = 1e-20 * np.square(values).sum() if len(values) else 0.0
    return np.where(spread <= max(1e-12 * scale, floor), 0.0, spread)


def _one(weighted: Callable[..., np.ndarray], targets: np.ndarray, predicted: np.ndarray, reason: str) -> Score:
    targets, predicted = np.asarray(targets, np.float64), np.asarray(predicted, np.float64)
    check_lengths("regression", targets=targets, predicted=predicted)
    return score_of(weighted(targets, predicted, once(len(targets))), reason if len(targets) else "no slides")
