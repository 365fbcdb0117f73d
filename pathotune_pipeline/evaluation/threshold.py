"""The probability from which on a slide is called positive, chosen on a validation part and never on a test part."""

from __future__ import annotations

import numpy as np

from pathotune_pipeline.errors import UsageError


def youden_threshold(positive: np.ndarray, probs: np.ndarray) -> float | None:
    """The threshold with the largest sensitivity + specificity - 1, which is also that of the best balanced accuracy.

    Thresholds lie midway between neighbouring distinct probabilities; of equally good ones the nearest to 0.5 is taken.
    Source: Youden 1950, Index for rating diagnostic tests.

    Args:
        positive: [N] bool, of slides that the model was not trained on.
        probs: [N] float, of the positive class.

    Returns:
        The threshold, or None where only one side occurs.

    Raises:
        UsageError: lengths differ, or a probability is not finite.
    """
    positive, probs = np.asarray(positive, bool), np.asarray(probs, np.float64)
    if positive.shape != probs.shape or not np.isfinite(probs).all():
        raise UsageError(f"threshold: {positive.shape} sides and {probs.shape} probabilities; both are [N] and finite.")
    if positive.all() or not positive.any():
        return None
    values = np.unique(probs)
    cuts = np.concatenate([[values[0]], (values[:-1] + values[1:]) / 2])  # the first calls all positive
    called = probs[None, :] >= cuts[:, None]  # [T, N]
    sensitivity, false_alarms = called[:, positive].mean(axis=1), called[:, ~positive].mean(axis=1)
    index = sensitivity - false_alarms
    best = cuts[index >= index.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])
