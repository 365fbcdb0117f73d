"""How far predicted survival probabilities are from what happened: the Brier score at given times, and its integral."""

from __future__ import annotations

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics.concordance import inverse_weights
from pathotune_pipeline.evaluation.metrics.score import Score, once, ratio, score_of
from pathotune_pipeline.evaluation.metrics.survival import Censoring, check_survival


def brier_at(
    times: np.ndarray, events: np.ndarray, survival: np.ndarray, *, censoring: Censoring, horizons: np.ndarray
) -> np.ndarray:
    """The Brier score at each horizon, weighted by the inverse probability of censoring, [T] float64.

    Source: Graf et al. 1999. NaN at a horizon that nobody of the training part reached under observation.

    Args:
        times: [N] float.
        events: [N] bool.
        survival: [N, T] float: the predicted probability to be free of the event at each horizon.
        censoring: of `censoring_of`, from the training part.
        horizons: [T] float, ascending.

    Raises:
        UsageError: lengths differ, or values are negative or not finite.
    """
    return _terms(times, events, survival, censoring=censoring, horizons=horizons).mean(axis=0)


def integrated_brier(
    times: np.ndarray, events: np.ndarray, survival: np.ndarray, *, censoring: Censoring, horizons: np.ndarray
) -> Score:
    """The Brier score's mean between the first and the last horizon, by the trapezoid rule; as `brier_at`."""
    values = weighted_integrated_brier(
        times, events, survival, once(len(times)), censoring=censoring, horizons=horizons
    )
    return score_of(values, "fewer than two horizons within the training part's follow-up, or no slides")


def weighted_integrated_brier(
    times: np.ndarray,
    events: np.ndarray,
    survival: np.ndarray,
    weights: np.ndarray,
    *,
    censoring: Censoring,
    horizons: np.ndarray,
) -> np.ndarray:
    """`integrated_brier` for many weightings at once, [R] float64; weights [R, N] float."""
    terms = _terms(times, events, survival, censoring=censoring, horizons=horizons)
    reached = ~np.isnan(terms).any(axis=0)
    at = np.asarray(horizons, np.float64)[reached]
    if len(at) < 2 or not len(times):
        return np.full(len(weights), np.nan)
    curve = ratio(weights @ terms[:, reached], weights.sum(axis=1, keepdims=True))  # [R, T]
    return np.asarray(np.trapezoid(curve, at, axis=1) / (at[-1] - at[0]))


def _terms(
    times: np.ndarray, events: np.ndarray, survival: np.ndarray, *, censoring: Censoring, horizons: np.ndarray
) -> np.ndarray:
    """What each slide adds at each horizon, [N, T] float64; NaN where a slide under observation has G(t) = 0."""
    check_survival("Brier score", times, events, survival=survival)
    wanted = (len(times), len(horizons))
    if survival.shape != wanted or censoring.at.shape != wanted:
        raise UsageError(
            f"Brier score: survival is {survival.shape} and censoring {censoring.at.shape}; both must be {wanted}, "
            "one column for each horizon."
        )
    dead = events[:, None] & (times[:, None] <= horizons)
    alive = times[:, None] > horizons
    after = np.square(survival) * inverse_weights(censoring)[:, None]
    before = np.where(alive, ratio(np.square(1 - survival), censoring.at), 0.0)
    return np.asarray(np.where(dead, after, 0.0) + before)
