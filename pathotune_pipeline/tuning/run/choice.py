"""What of a validation counts: one number, lower is better."""

from __future__ import annotations

import numpy as np

_LEAST = 1e-12


def validation_value(probs: np.ndarray, labels: np.ndarray, select: str) -> float:
    """How bad class probabilities are.

    Args:
        probs: [n, C] float.
        labels: [n] int, each from 0 to C - 1; n at least 1.
        select: "loss": the mean negative log of the right class's probability; "balanced_accuracy": 1 less the mean
            share of each class that occurs whose most probable class is right.
    """
    if select == "loss":
        return float(-np.log(np.maximum(probs[np.arange(len(labels)), labels], _LEAST)).mean())
    right = probs.argmax(axis=1) == labels
    return 1.0 - float(np.mean([right[labels == each].mean() for each in np.unique(labels)]))
