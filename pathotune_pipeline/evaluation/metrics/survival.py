"""Survival curves: Kaplan-Meier, log-rank, and the censoring distribution that weighs what was not seen.

Ties: at one time, events come before censorings. A slide censored at t was under observation at t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics.score import check_lengths


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalCurve:
    """A step function from 1 downwards, continuous from the right.

    Attributes:
        times: [K] float64, distinct and ascending.
        survival: [K] float64, from each time on.
        at_risk: [K] int64, just before each time.
        events: [K] int64, at each time.
        low: [K] float64, of the pointwise interval.
        high: [K] float64, of the pointwise interval.
    """

    times: np.ndarray
    survival: np.ndarray
    at_risk: np.ndarray
    events: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, times: np.ndarray, *, before: bool = False) -> np.ndarray:
        """S(t), or with `before` its left limit S(t-); after the last time its last value. Any shape, float64."""
        side = "left" if before else "right"
        place = np.searchsorted(self.times, times, side=side)  # type: ignore[call-overload]
        return np.asarray(np.concatenate([[1.0], self.survival])[place])

    def median(self) -> float | None:
        """The first time at which survival is at most one half, or None where it stays above."""
        below = np.flatnonzero(self.survival <= 0.5 + 1e-12)
        return float(self.times[below[0]]) if len(below) else None


@dataclass(frozen=True, slots=True)
class LogRank:
    """A log-rank test.

    Attributes:
        chi2: the statistic.
        freedom: degrees: groups - 1.
        p_value: of a chi-squared of so many degrees.
    """

    chi2: float
    freedom: int
    p_value: float


@dataclass(frozen=True, slots=True, eq=False)
class Censoring:
    """The probability of being still uncensored, by which what was seen is divided.

    Attributes:
        own: [N] float64, just before each slide's own time.
        at: [N, T] float64, at each time of interest.
    """

    own: np.ndarray
    at: np.ndarray


def kaplan_meier(times: np.ndarray, events: np.ndarray, *, level: float = 0.95) -> SurvivalCurve:
    """The product-limit estimate, with Greenwood's variance on the log(-log) scale.

    Args:
        times: [N] float, 0 or more: of the event, or of the last observation.
        events: [N] bool: whether the event was seen.
        level: of the interval.

    Raises:
        UsageError: no slides, lengths differ, or times are negative or not finite.
    """
    distinct, died, _, at_risk = _table(times, events)
    return _product_limit(distinct, died, at_risk, level=level)


def censoring_curve(times: np.ndarray, events: np.ndarray) -> SurvivalCurve:
    """Kaplan-Meier of being censored; those with an event at a time are no longer at risk of censoring there.

    Args:
        times: [N] float.
        events: [N] bool.

    Raises:
        UsageError: as `kaplan_meier`.
    """
    distinct, died, censored, at_risk = _table(times, events)
    return _product_limit(distinct, censored, at_risk - died, level=0.95)


def censoring_of(curve: SurvivalCurve, times: np.ndarray, horizons: np.ndarray) -> Censoring:
    """What `curve`, best that of the training part, says of slides.

    Args:
        curve: of `censoring_curve`.
        times: [N] float, each slide's own.
        horizons: [T] float.
    """
    horizons = np.asarray(horizons, np.float64)
    return Censoring(curve.at(times, before=True), np.broadcast_to(curve.at(horizons), (len(times), len(horizons))))


def log_rank(times: np.ndarray, events: np.ndarray, groups: Sequence[object] | np.ndarray) -> LogRank:
    """Whether groups share one survival curve (Mantel 1966), for two groups or more.

    Args:
        times: [N] float.
        events: [N] bool.
        groups: of each slide.

    Raises:
        UsageError: fewer than two groups, lengths differ, or there is nothing to compare: no event while two groups
            are at risk.
    """
    times, events = _checked(times, events)
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2 or len(of) != len(times):
        raise UsageError(f"log-rank: {len(names)} groups of {len(of)} rows for {len(times)} slides; two are needed.")
    distinct = np.unique(times[events])  # [K]
    member = (of == np.arange(len(names))[:, None]).astype(np.float64)  # [G, N]
    died = np.zeros((len(names), len(distinct)))
    np.add.at(died, (of[events], np.searchsorted(distinct, times[events])), 1.0)
    leaving = np.zeros((len(names), len(distinct) + 1))  # by the number of distinct event times passed
    np.add.at(leaving, (of, np.searchsorted(distinct, times, side="right")), 1.0)
    at_risk = member.sum(axis=1, keepdims=True) - np.cumsum(leaving, axis=1)[:, :-1]  # [G, K]
    d, n = died.sum(axis=0), at_risk.sum(axis=0)  # [K]
    share = at_risk / n
    scale = d * np.where(n > 1, (n - d) / np.maximum(n - 1, 1), 0.0)
    excess = (died - d * share).sum(axis=1)[:-1]
    covariance = np.diag((scale * share).sum(axis=1)) - (scale * share) @ share.T
    chosen = covariance[:-1, :-1]
    if np.linalg.matrix_rank(chosen) < len(chosen):
        raise UsageError("log-rank: there is no event while all groups are at risk. Join groups, or leave one out.")
    chi2 = float(excess @ np.linalg.solve(chosen, excess))
    return LogRank(chi2, len(names) - 1, chi_squared_tail(chi2, len(names) - 1))


def chi_squared_tail(value: float, freedom: int) -> float:
    """P(chi-squared of `freedom` degrees > value), from the closed sums for even and odd degrees."""
    half = value / 2
    if freedom % 2 == 0:
        term = total = 1.0
        for k in range(1, freedom // 2):
            term *= half / k
            total += term
        return math.exp(-half) * total
    tail = math.erfc(math.sqrt(half))
    term = math.exp(-half) * math.sqrt(half) / math.gamma(1.5)
    for k in range(1, (freedom + 1) // 2):
        tail += term
        term *= half / (k + 0.5)
    return tail


def check_survival(what: str, times: np.ndarray, events: np.ndarray, **others: np.ndarray) -> None:
    """Make sure that times are finite and not negative, and every array has one row for each slide.

    Raises:
        UsageError: they do not.
    """
    check_lengths(what, times=times, events=events, **others)
    if len(times) and times.min() < 0:
        raise UsageError(f"{what}: a time is {times.min():g}; times are 0 or more.")


def _checked(times: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    times, events = np.asarray(times, np.float64), np.asarray(events, bool)
    check_survival("survival", times, events)
    if not len(times):
        raise UsageError("survival: no slides. Give at least one time.")
    return times, events


def _table(times: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct times, events there, censorings there, at risk just before: [K] each."""
    times, events = _checked(times, events)
    distinct, place = np.unique(times, return_inverse=True)
    died = np.bincount(place[events], minlength=len(distinct))
    censored = np.bincount(place[~events], minlength=len(distinct))
    gone = np.concatenate([[0], np.cumsum(died + censored)[:-1]])
    return distinct, died, censored, len(times) - gone


def _product_limit(distinct: np.ndarray, died: np.ndarray, at_risk: np.ndarray, *, level: float) -> SurvivalCurve:
    here = at_risk > 0
    n = np.where(here, at_risk, 1)
    survival = np.cumprod(np.where(here, 1 - died / n, 1.0))
    left = n - died
    greenwood = np.cumsum(np.where(here & (left > 0), died / (n * np.maximum(left, 1)), 0.0))
    inside = (survival > 0) & (survival < 1)
    logs = np.log(np.where(inside, survival, 0.5))
    width = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(greenwood) / -logs
    low, high = (np.exp(logs * np.exp(sign * np.minimum(width, 500))) for sign in (1, -1))
    low, high = np.where(inside, low, survival), np.where(inside, high, survival)
    return SurvivalCurve(distinct, survival, at_risk, died, low, high)
