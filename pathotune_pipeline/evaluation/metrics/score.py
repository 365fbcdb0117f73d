"""Score: a number, or the reason why there is none; and what all metrics check and divide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Score:
    """A number, or the reason why there is none.

    Attributes:
        value: None where the score is not defined.
        reason: why not, or empty.
    """

    value: float | None
    reason: str = ""


def once(count: int) -> np.ndarray:
    """The weights that count every slide once, [1, N] float64."""
    return np.ones((1, count))


def score_of(values: np.ndarray, reason: str) -> Score:
    """The score of one weighting, [1] float64; NaN is None with the reason."""
    value = float(values[0])
    return Score(value) if np.isfinite(value) else Score(None, reason)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient above / below, float64; NaN where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def check_lengths(what: str, **arrays: np.ndarray) -> None:
    """Make sure that arrays have one row for each slide and only finite numbers.

    Args:
        what: the metric, for the message.
        arrays: each [N, ...].

    Raises:
        UsageError: lengths differ, or a value is not finite.
    """
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UsageError(f"{what}: one row for each slide is needed; found {found}.")
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise UsageError(f"{what}: {name} holds a value that is not finite. Leave such slides out first.")
