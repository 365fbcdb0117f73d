"""Whether higher risks meet their event earlier: the C-index of Harrell, that of Uno, and the AUC at given times.

A pair is comparable where one slide's event was seen at a time at which the other was still under observation without
an event: a later time, or the same time censored. Two events at one time are not comparable. Equal risks count half.
Higher risk means an earlier event; nothing is turned round to look better.
"""

from __future__ import annotations

import numpy as np

from pathotune_pipeline.evaluation.metrics.classification import area_of_ranking
from pathotune_pipeline.evaluation.metrics.score import Score, once, ratio, score_of
from pathotune_pipeline.evaluation.metrics.survival import Censoring, check_survival, kaplan_meier

_BLOCK = 2_000_000
"""Pairs held at once."""


def concordance_index(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> Score:
    """Harrell's C in O(N log N).

    Args:
        times: [N] float, of the event or of the last observation.
        events: [N] bool.
        risks: [N] float; higher is worse.

    Raises:
        UsageError: lengths differ, or values are negative or not finite.
    """
    return _concordance(times, events, risks, pair_weights=np.ones(len(times)))


def concordance_index_ipcw(times: np.ndarray, events: np.ndarray, risks: np.ndarray, *, censoring: Censoring) -> Score:
    """Uno's C in O(N log N): each event weighs 1 / G(its time-)^2, so that censoring leaves no bias.

    Events from which on nobody of the training part was under observation (G = 0) count nothing.

    Args:
        times: [N] float.
        events: [N] bool.
        risks: [N] float; higher is worse.
        censoring: of `censoring_of`, from the training part. Source: Uno et al. 2011.

    Raises:
        UsageError: lengths differ, or values are negative or not finite.
    """
    return _concordance(times, events, risks, pair_weights=inverse_weights(censoring) ** 2)


def inverse_weights(censoring: Censoring) -> np.ndarray:
    """1 / G(own time-), [N] float64; 0 where G is 0."""
    return np.nan_to_num(ratio(np.ones(len(censoring.own)), censoring.own))


def weighted_concordance(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, weights: np.ndarray, *, pair_weights: np.ndarray
) -> np.ndarray:
    """The C-index for many weightings at once, [R] float64; NaN without a comparable pair.

    A matrix product over blocks of events, events x N x R multiplications in all.

    Args:
        times: [N] float.
        events: [N] bool.
        risks: [N] float.
        weights: [R, N] float: how often each slide counts.
        pair_weights: [N] float, of the pairs that a slide's event leads: ones for Harrell's C.
    """
    return ratio(*weighted_pairs(times, events, risks, weights, pair_weights=pair_weights))


def weighted_pairs(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, weights: np.ndarray, *, pair_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in the right order, and comparable pairs, for many weightings at once: float64 [R] each.

    Arguments as for `weighted_concordance`, which is their quotient. Where only pairs within a stratum are comparable, the
    quotient of their sums over strata is the stratified C-index.
    """
    leads = np.flatnonzero(events)
    leads = leads[np.argsort(times[leads], kind="stable")]
    right, total = np.zeros(len(weights)), np.zeros(len(weights))
    step = max(1, _BLOCK // max(len(times), 1))
    for start in range(0, len(leads), step):
        block = leads[start : start + step]
        t, r = times[block, None], risks[block, None]
        comparable = (times > t) | ((times == t) & ~events)  # [b, N]
        wins = comparable * np.where(risks < r, 1.0, np.where(risks == r, 0.5, 0.0))
        own = weights[:, block] * pair_weights[block]  # [R, b]
        right += (own * (weights @ wins.T)).sum(axis=1)
        total += (own * (weights @ comparable.T.astype(np.float64))).sum(axis=1)
    return right, total


def dynamic_auc(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, *, censoring: Censoring, horizons: np.ndarray
) -> tuple[Score, list[Score]]:
    """Cumulative/dynamic AUC: who had the event by t against who was free of it after t, cases weighing 1 / G(time-).

    Args:
        times: [N] float.
        events: [N] bool.
        risks: [N] float, or [N, T] where the risk differs by horizon, e.g. 1 - S(t).
        censoring: of `censoring_of`, from the training part.
        horizons: [T] float, ascending.

    Returns:
        Its mean over the horizons, weighted by the fall of the Kaplan-Meier curve up to each; and that of each.
        Source: Uno et al. 2007; Hung and Chiang 2010.

    Raises:
        UsageError: lengths differ, or values are negative or not finite.
    """
    check_survival("dynamic AUC", times, events, risks=risks)
    falls = survival_falls(times, events, horizons)
    each = weighted_dynamic_auc(times, events, risks, once(len(times)), censoring=censoring, horizons=horizons)
    scores = [
        score_of(values, f"no event by {t:g}, or no slide without one after it")
        for values, t in zip(each, horizons, strict=True)
    ]
    return score_of(mean_by_fall(each, falls), "at no horizon are there slides on both sides"), scores


def weighted_dynamic_auc(
    times: np.ndarray,
    events: np.ndarray,
    risks: np.ndarray,
    weights: np.ndarray,
    *,
    censoring: Censoring,
    horizons: np.ndarray,
) -> np.ndarray:
    """The AUC at each horizon for many weightings at once, [T, R] float64; NaN where one side is empty."""
    inverse = inverse_weights(censoring)
    found = []
    for index, t in enumerate(horizons):
        case, control = events & (times <= t), times > t
        risk = risks if risks.ndim == 1 else risks[:, index]
        used = case | control
        of_pair = weights[:, used] * np.where(case, inverse, 1.0)[used]
        found.append(area_of_ranking(case[used], risk[used], of_pair))
    return np.array(found).reshape(len(horizons), len(weights))


def survival_falls(times: np.ndarray, events: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """How far the Kaplan-Meier curve falls from each horizon's predecessor (0 for the first) to it, [T] float64."""
    if not len(times):
        return np.zeros(len(horizons))
    return -np.diff(kaplan_meier(times, events).at(np.asarray(horizons)), prepend=1.0)


def mean_by_fall(values: np.ndarray, falls: np.ndarray) -> np.ndarray:
    """Mean over horizons of what is defined, [R] float64.

    Args:
        values: [T, R] float, NaN where not defined.
        falls: [T] float weights.
    """
    share = falls[:, None] * ~np.isnan(values)
    return ratio((share * np.nan_to_num(values)).sum(axis=0), share.sum(axis=0))


def _concordance(times: np.ndarray, events: np.ndarray, risks: np.ndarray, *, pair_weights: np.ndarray) -> Score:
    times, events, risks = np.asarray(times, np.float64), np.asarray(events, bool), np.asarray(risks, np.float64)
    check_survival("C-index", times, events, risks=risks)
    # In this order, those comparable with an event form a prefix: later times, then those censored at its time.
    _, later = np.unique(-times, return_inverse=True)
    key = 2 * later + events
    order = np.argsort(key, kind="stable")
    ends = np.searchsorted(key[order], key[events])  # [E]
    _, rank = np.unique(risks, return_inverse=True)
    below = _count_below(rank[order], ends, rank[events])
    up_to = _count_below(rank[order], ends, rank[events] + 1)
    pairs = pair_weights[events]
    wins = pairs @ (0.5 * (below + up_to))
    return score_of(ratio(np.array([wins]), np.array([pairs @ ends])), "no comparable pair of slides")


def _count_below(values: np.ndarray, ends: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How many of values[:end] are below bound, for every (end, bound), [Q] int64.

    A wavelet matrix: bit by bit from the highest, values are parted into zeros and ones, and each query follows the
    side of its bound, counting those that stay below it.

    Args:
        values: [N] int64, 0 or more.
        ends: [Q] int64, 0 to N.
        bounds: [Q] int64, 0 or more.
    """
    starts, found = np.zeros_like(ends), np.zeros(len(ends), np.int64)
    for bit in reversed(range(int(max(values.max(initial=0), bounds.max(initial=0))).bit_length())):
        one = (values >> bit & 1).astype(bool)
        zeros = np.concatenate([[0], np.cumsum(~one)])
        up = (bounds >> bit & 1).astype(bool)
        low, high = zeros[starts], zeros[ends]
        found += np.where(up, high - low, 0)
        starts, ends = np.where(up, zeros[-1] + starts - low, low), np.where(up, zeros[-1] + ends - high, high)
        values = np.concatenate([values[~one], values[one]])
    return found
