"""A case's follow-up in words: bins cut on the training cases, each said so that it is true of every time in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.spec import Spec

N_BINS = 4
_DIGITS = 1


class SurvivalBins(Spec):
    """Where the four bins of a follow-up end.

    Attributes:
        edges: three times in months, rising, with at most one digit behind the point, as the texts say them. Bin 0 is below
            the first, and the last bin begins at the last one and has no end.
    """

    edges: tuple[float, float, float]

    @classmethod
    def fit(cls, months: Sequence[float] | np.ndarray, where: str = "survival bins") -> SurvivalBins:
        """Quartiles of the training cases' times, whether or not the patient died; rounded to what the texts say.

        Args:
            months: [n], at least one; finite and not negative.
            where: the cohort, for the message.

        Raises:
            UsageError: none, or a time that is none.
        """
        times = np.asarray(months, np.float64)
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or (times < 0).any():
            raise UsageError(
                f"{where}: times in months must be finite, not negative, and at least one; {len(times)} were found."
            )
        first, middle, last = (round(float(edge), _DIGITS) for edge in np.quantile(times, (0.25, 0.5, 0.75)))
        return cls(edges=(first, middle, last))

    def number(self, months: float) -> int:
        """The bin of a time: 0 to 3. A time on an edge is in the bin that begins there."""
        return int(np.searchsorted(self.edges, months, side="right"))

    def words(self, months: float, *, died: bool) -> str:
        """What became of the patient, such as "The patient died between 12 and 30.5 months".

        Raises:
            UsageError: a time that is none.
        """
        if not np.isfinite(months) or months < 0:
            raise UsageError(f"survival: {months} months is no time. Give a number from 0, or leave it empty.")
        low, middle, high = (f"{edge:g}" for edge in self.edges)
        when = (f"before {low}", f"between {low} and {middle}", f"between {middle} and {high}", f"at or after {high}")
        return f"The patient {'died' if died else 'was censored'} {when[self.number(months)]} months"
