"""How sure a score is: a bootstrap over patients, since slides of one patient are not independent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics.classification import (
    weighted_accuracy,
    weighted_auroc,
    weighted_balanced_accuracy,
)

_BLOCK = 4_000_000
"""Weights held at once."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: lower bound.
        high: upper bound.
        level: share of the draws between them.
        draws: bootstrap samples.
    """

    low: float
    high: float
    level: float
    draws: int


def bootstrap(
    targets: np.ndarray,
    probs: np.ndarray,
    *,
    groups: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of AUROC, balanced accuracy and accuracy from resampled patients.

    Patients are drawn with replacement among those with the same classes, as many as there are, so that no draw
    lacks a class. Each draw takes all slides of a patient. The order of the input does not matter.

    Args:
        targets: [N] int class indices; every class occurs.
        probs: [N, C] float.
        groups: the patient of each slide.
        draws: at least 1000.
        seed: of the draws.
        level: share of the draws inside.

    Returns:
        "auroc", "balanced_accuracy" and "accuracy".

    Raises:
        UsageError: too few draws, or a class does not occur.
    """
    if draws < 1000:
        raise UsageError(f"bootstrap: {draws} draws were asked for; an interval needs at least 1000.")
    if len(np.unique(targets)) < probs.shape[1]:
        raise UsageError(f"bootstrap: only {len(np.unique(targets))} of {probs.shape[1]} classes occur.")
    patients, owner = np.unique(np.asarray(groups), return_inverse=True)  # [P], [N]
    strata = _strata(targets, owner, len(patients))
    rng = np.random.default_rng(seed)
    names = {
        "auroc": weighted_auroc,
        "balanced_accuracy": weighted_balanced_accuracy,
        "accuracy": weighted_accuracy,
    }
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    step = max(1, _BLOCK // len(targets))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        counts = np.zeros((rows, len(patients)))
        for members in strata:
            counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=rows)
        weights = counts[:, owner]  # [rows, N]
        for name, score in names.items():
            values[name].append(score(targets, probs, weights))
    tail = (1 - level) / 2
    return {name: _interval(np.concatenate(parts), tail, level) for name, parts in values.items()}


def _strata(targets: np.ndarray, owner: np.ndarray, patients: int) -> list[np.ndarray]:
    by_classes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for patient in range(patients):
        by_classes[tuple(np.unique(targets[owner == patient]).tolist())].append(patient)
    return [np.array(members) for _, members in sorted(by_classes.items())]


def _interval(values: np.ndarray, tail: float, level: float) -> Interval:
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), level, len(values))
