"""Whether probabilities mean what they say: Brier score, calibration error, and one temperature to mend them."""

from __future__ import annotations

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics.score import Score, check_lengths, once, ratio, score_of

ECE_BINS = 15
"""Bins of equal width, as Guo et al. 2017."""
COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of a fitted temperature: where all of a part is right, the likelihood has no optimum above 0."""


def brier(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Mean squared distance of the probabilities from the truth.

    Of two classes it is that of the positive one, from 0 to 1; of more, the sum over classes, from 0 to 2.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.

    Raises:
        UsageError: lengths differ, or a value is not finite.
    """
    check_lengths("brier", targets=targets, probs=probs)
    return score_of(weighted_brier(targets, probs, once(len(targets))), "no slides")


def expected_calibration_error(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Mean over bins of |share that came true - mean probability|, weighted by the bins' slides.

    Judged is the positive class of two, and the most probable of more. `ECE_BINS` bins of equal width.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.

    Raises:
        UsageError: lengths differ, or a value is not finite.
    """
    check_lengths("expected calibration error", targets=targets, probs=probs)
    return score_of(weighted_calibration_error(targets, probs, once(len(targets))), "no slides")


def reliability(targets: np.ndarray, probs: np.ndarray) -> dict[str, list[float]]:
    """The points of a reliability plot: of each bin that holds slides, mean probability, share that came true, slides.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.

    Returns:
        {"confidence": [...], "observed": [...], "slides": [...]}, from the lowest bin.
    """
    sure, true, bins = _judged_outcomes(targets, probs)
    count = np.bincount(bins, minlength=ECE_BINS)
    held = count > 0
    points = {"confidence": sure, "observed": true.astype(np.float64)}
    found = {name: (np.bincount(bins, each, ECE_BINS)[held] / count[held]).tolist() for name, each in points.items()}
    return {**found, "slides": count[held].astype(float).tolist()}


def weighted_brier(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`brier` for many weightings at once, [R] float64.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
        weights: [R, N] float: how often each slide counts.
    """
    truth = targets[:, None] == np.arange(probs.shape[1])
    each = np.square(probs - truth).sum(axis=1)  # [N]
    if probs.shape[1] == 2:
        each = np.square(probs[:, 1] - truth[:, 1])
    return ratio(weights @ each, weights.sum(axis=1))


def weighted_calibration_error(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`expected_calibration_error` for many weightings at once, [R] float64; arguments as for `weighted_brier`."""
    sure, true, bins = _judged_outcomes(targets, probs)
    gap = np.zeros((len(targets), ECE_BINS))  # what each slide adds to its bin's sum of (true - sure)
    gap[np.arange(len(targets)), bins] = true - sure
    return ratio(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


def fit_temperature(targets: np.ndarray, probs: np.ndarray) -> float:
    """The temperature that makes the probabilities of a validation part likeliest: p ** (1/T), normalised.

    The mean negative log-likelihood is convex in 1/T, so its slope is bisected; T stays within `COLDEST` and
    `HOTTEST`. Source: Guo et al. 2017, On Calibration of Modern Neural Networks.

    Args:
        targets: [N] int class indices, of slides that the model was not trained on.
        probs: [N, C] float.

    Raises:
        UsageError: no slides, lengths differ, or a value is not finite.
    """
    check_lengths("temperature", targets=targets, probs=probs)
    if not len(targets):
        raise UsageError("temperature: no slide to fit it on. Give a validation part.")
    logs = _logs(probs)
    right = logs[np.arange(len(targets)), targets]  # [N]

    def slope(inverse: float) -> float:
        return float(((_normalised(logs * inverse) * logs).sum(axis=1) - right).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / (low * high) ** 0.5


def scale_by_temperature(probs: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Probabilities at a temperature, [N, C] float64; 1 leaves them as they are.

    Args:
        probs: [N, C] float.
        temperature: one, or [N].
    """
    return _normalised(_logs(probs) / np.reshape(temperature, (-1, 1)))


def _logs(probs: np.ndarray) -> np.ndarray:
    return np.log(np.clip(np.asarray(probs, np.float64), 1e-300, None))


def _normalised(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _judged_outcomes(targets: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of what is judged [N], whether it came true [N] bool, its bin [N] int; bins are (a, b]."""
    judged = np.ones(len(targets), np.int64) if probs.shape[1] == 2 else probs.argmax(axis=1)
    sure = probs[np.arange(len(targets)), judged]
    bins = np.clip(np.ceil(sure * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return sure, targets == judged, bins
