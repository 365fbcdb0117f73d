"""How sure a score is: a bootstrap over patients, since slides of one patient are not independent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics.classification import (
    weighted_accuracy,
    weighted_auroc,
    weighted_balanced_accuracy,
)

_BLOCK = 4_000_000
"""Weights held at once."""
LEAST_DRAWS = 1000

Weighted = Callable[[np.ndarray], np.ndarray]
"""A score of many weightings at once: weights [R, N] to values [R], NaN where it is not defined."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: lower bound.
        high: upper bound.
        level: share of the draws between them.
        draws: bootstrap samples in which the score was defined.
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
    if len(np.unique(targets)) < probs.shape[1]:
        raise UsageError(f"bootstrap: only {len(np.unique(targets))} of {probs.shape[1]} classes occur.")
    scores: dict[str, Weighted] = {
        "auroc": partial(weighted_auroc, targets, probs),
        "balanced_accuracy": partial(weighted_balanced_accuracy, targets, probs),
        "accuracy": partial(weighted_accuracy, targets, probs),
    }
    found = bootstrap_scores(scores, groups=groups, strata=targets, draws=draws, seed=seed, level=level)
    return {name: interval for name, interval in found.items() if interval is not None}


def bootstrap_scores(
    scores: Mapping[str, Weighted],
    *,
    groups: Sequence[str],
    strata: Sequence[object] | np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval | None]:
    """Percentile intervals of any scores from resampled patients; all scores see the same draws.

    Args:
        scores: by name.
        groups: the patient of each slide, N of them.
        strata: of each slide; patients are drawn among those whose slides have the same ones. None draws among all.
        draws: at least 1000. Those in which a score is not defined are left out of its interval.
        seed: of the draws.
        level: share of the draws inside.

    Returns:
        By name; None where a score was defined in fewer than half of the draws.

    Raises:
        UsageError: too few draws, or no slides.
    """
    values: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for weights in patient_draws(groups, strata=strata, draws=draws, seed=seed):
        for name, score in scores.items():
            values[name].append(score(weights))
    return {name: percentile_interval(np.concatenate(parts), level=level) for name, parts in values.items()}


def patient_draws(
    groups: Sequence[str], *, strata: Sequence[object] | np.ndarray | None = None, draws: int, seed: int
) -> Iterator[np.ndarray]:
    """How often each slide counts in each draw of the patients, block after block, each [rows, N] float64.

    Raises:
        UsageError: too few draws, or no slides.
    """
    if draws < LEAST_DRAWS:
        raise UsageError(f"bootstrap: {draws} draws were asked for; an interval needs at least {LEAST_DRAWS}.")
    if not len(groups):
        raise UsageError("bootstrap: there are no slides.")
    patients, owner = np.unique(np.asarray(groups), return_inverse=True)  # [P], [N]
    of_slide = (
        np.zeros(len(owner), np.int64) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    )
    shares = _strata(of_slide, owner, len(patients))
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(owner))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        counts = np.zeros((rows, len(patients)))
        for members in shares:
            counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=rows)
        yield counts[:, owner]


def percentile_interval(values: np.ndarray, *, level: float) -> Interval | None:
    """The middle `level` of what is not NaN, [R] float; None where that is fewer than half."""
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high), level, len(defined))


def _strata(of_slide: np.ndarray, owner: np.ndarray, patients: int) -> list[np.ndarray]:
    of_patient: list[set[int]] = [set() for _ in range(patients)]
    for stratum, patient in zip(of_slide.tolist(), owner.tolist(), strict=True):
        of_patient[patient].add(stratum)
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for patient, found in enumerate(of_patient):
        members[tuple(sorted(found))].append(patient)
    return [np.array(each) for _, each in sorted(members.items())]
