"""Whether two sets of vectors are of one distribution: the energy test, in any number of dimensions."""

from __future__ import annotations

import numpy as np

DRAWS = 9_999
"""Permutations; the least p-value is one part in so many and one."""
_BLOCK = 1_000
_SEED = 20_090_503


def energy_test(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The energy coefficient and its permutation p-value (Székely and Rizzo, J Stat Plan Inference 2013).

    Each dimension is brought to the first set's mean and spread, those that do not vary there to the pooled spread.
    The draws are always the same ones.

    Args:
        first: float [n, D], n at least 2.
        second: float [m, D], m at least 2.

    Returns:
        Energy distance over twice the mean distance between the sets, 0 (the same) to 1; and the p-value.
    """
    pooled = np.concatenate([first, second]).astype(np.float64)
    spread, wide = first.astype(np.float64).std(axis=0), pooled.std(axis=0)
    spread = np.where(spread > 1e-6 * np.maximum(wide, 1e-12), spread, wide)
    pooled = pooled[:, spread > 0]
    if not pooled.shape[1]:
        return 0.0, 1.0
    pooled = (pooled - first.astype(np.float64).mean(axis=0)[spread > 0]) / spread[spread > 0]
    distances = _distances(pooled)
    n, m = len(first), len(second)
    own = np.zeros((1, n + m))
    own[0, n:] = 1
    observed, between = _energies(distances, own, n, m)
    if between[0] <= 0:
        return 0.0, 1.0
    rng = np.random.default_rng(_SEED)
    as_large = 0
    for begin in range(0, DRAWS, _BLOCK):
        count = min(_BLOCK, DRAWS - begin)
        drawn = rng.permuted(np.repeat(own, count, axis=0), axis=1)
        energies, _ = _energies(distances, drawn, n, m)
        as_large += int((energies >= observed[0] - 1e-12).sum())
    coefficient = float(np.clip(observed[0] / (2 * between[0]), 0, 1))
    return coefficient, (1 + as_large) / (1 + DRAWS)


def _distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances, float64 [n, n]."""
    squares = (points**2).sum(axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * points @ points.T, 0))


def _energies(distances: np.ndarray, second: np.ndarray, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Energy distances and mean distances between the sets, each [P]; `second` [P, n + m] is 1 where a row is of it."""
    sums = second @ distances
    inside = (sums * second).sum(axis=1)
    across = (sums * (1 - second)).sum(axis=1)
    rest = distances.sum() - inside - 2 * across
    return 2 * across / (n * m) - rest / n**2 - inside / m**2, across / (n * m)
