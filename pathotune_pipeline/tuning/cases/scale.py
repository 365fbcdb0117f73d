"""What a network is given of genes and clinical fields, and their scale, measured on the training cases alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.tuning.cases.genes import GeneTable
from pathotune_pipeline.tuning.cases.table import Case

_LEAST_STD = 1e-6
_MOST_CATEGORIES = 20


@dataclass(frozen=True, slots=True, eq=False)
class GeneScale:
    """Mean and deviation of each gene that varies among the training cases.

    Attributes:
        genes: G names.
        mean: float64 [G].
        std: float64 [G], above 0.
        cases: how many it was measured on.
        constant: genes of the table that do not vary among them and are left out.
    """

    genes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    cases: int
    constant: int

    @classmethod
    def fit(cls, table: GeneTable, train: Sequence[str]) -> Self:
        """Measure the training cases; those without genes, and cells without a value, are passed over.

        Args:
            table: expression.
            train: ids of the training cases.

        Raises:
            UsageError: no training case has genes, or no gene varies.
        """
        wanted = set(train)
        own = [place for place, case in enumerate(table.cases) if case in wanted]
        if not own:
            raise UsageError(f"None of the {len(wanted)} training cases is in the gene table, so it cannot be scaled.")
        values = table.values[own].astype(np.float64)
        known = ~np.isnan(values)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0).sum(axis=0) / count
        std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
        varies = std > _LEAST_STD
        if not varies.any():
            raise UsageError(
                f"None of the {len(varies)} genes varies among {len(own)} training cases. Look at the table."
            )
        genes = tuple(gene for gene, kept in zip(table.genes, varies, strict=True) if kept)
        return cls(genes, mean[varies], std[varies], len(own), int((~varies).sum()))

    def of(self, genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of these genes, float64 each; all of them vary."""
        at = {gene: place for place, gene in enumerate(self.genes)}
        places = [at[gene] for gene in genes]
        return self.mean[places], self.std[places]


def gene_rows(table: GeneTable, genes: Sequence[str], *, max_missing: float = 0.0) -> dict[str, np.ndarray]:
    """Each case's expression of these genes, as measured: case id -> float32 [G], NaN where nothing was.

    Args:
        table: any that has the genes, in any order.
        genes: of the network, in its order.
        max_missing: share of them that may be absent from the table.

    Raises:
        ManifestError: more are absent.
    """
    at = {gene: place for place, gene in enumerate(table.genes)}
    absent = [gene for gene in genes if gene not in at]
    if len(absent) > max_missing * len(genes):
        raise ManifestError(
            f"The gene table lacks {len(absent)} of the {len(genes)} genes that the network reads, such as {absent[0]!r}. "
            "Add the columns, or allow that with --max-missing-genes."
        )
    here = [place for place, gene in enumerate(genes) if gene in at]
    values = np.full((len(table.cases), len(genes)), np.nan, np.float32)
    values[:, here] = table.values[:, [at[genes[place]] for place in here]]
    return dict(zip(table.cases, values, strict=True))


@dataclass(frozen=True, slots=True)
class ClinicalField:
    """One clinical column.

    Attributes:
        name: of the column.
        levels: its categories among the training cases, sorted; empty for numbers.
        mean: of the training cases' numbers; 0 for categories.
        std: of them; 1 for categories, and where numbers do not vary.
    """

    name: str
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of what it becomes: itself, or one for each level."""
        return tuple(f"{self.name}={level}" for level in self.levels) or (self.name,)

    def values(self, said: str | None) -> list[float]:
        """A cell as the network takes it: a number, or 0 and 1 by level; NaN where it is not known.

        A level that no training case has is 0 everywhere.

        Raises:
            ManifestError: numbers are wanted, and it is none.
        """
        if said is None:
            return [np.nan] * len(self.names)
        if self.levels:
            return [float(said == level) for level in self.levels]
        number = _number(said)
        if number is None:
            raise ManifestError(f"clinical column {self.name!r} holds {said!r}; the training cases have numbers there.")
        return [number]


@dataclass(frozen=True, slots=True)
class ClinicalScale:
    """Clinical columns as numbers.

    Attributes:
        fields: in the order of the network's input.
    """

    fields: tuple[ClinicalField, ...]

    @classmethod
    def fit(cls, cases: Sequence[Case], columns: Sequence[str]) -> Self:
        """Measure the training cases: a column is numbers where each of its cells is one, else categories.

        Raises:
            ManifestError: no training case has a value, or there are too many categories.
        """
        return cls(tuple(_field(column, [case.field(column) for case in cases]) for column in columns))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the network's C clinical inputs."""
        return tuple(name for each in self.fields for name in each.names)

    @property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the inputs, float64 [C] each."""
        mean = [each.mean for each in self.fields for _ in each.names]
        return np.array(mean), np.array([each.std for each in self.fields for _ in each.names])

    def values(self, case: Case) -> np.ndarray:
        """A case's clinical input as measured, float32 [C], NaN where nothing is known.

        Raises:
            ManifestError: a number was expected.
        """
        found = [value for each in self.fields for value in each.values(case.field(each.name))]
        return np.array(found, np.float32)

    def told(self) -> list[dict[str, Any]]:
        """As plain values, for a file."""
        return [asdict(each) for each in self.fields]

    @classmethod
    def of(cls, told: Sequence[Mapping[str, Any]]) -> Self:
        """What `told` gave."""
        return cls(tuple(ClinicalField(**{**each, "levels": tuple(each["levels"])}) for each in told))


def _field(name: str, cells: Sequence[str | None]) -> ClinicalField:
    known = [cell for cell in cells if cell is not None]
    if not known:
        raise ManifestError(f"Clinical column {name!r}: no training case has a value. Leave it out of --clinical.")
    numbers = [_number(cell) for cell in known]
    found = [each for each in numbers if each is not None]
    if len(found) == len(known):
        std = float(np.std(found))
        return ClinicalField(name, mean=float(np.mean(found)), std=std if std > _LEAST_STD else 1.0)
    levels = tuple(sorted(set(known)))
    if len(levels) > _MOST_CATEGORIES:
        raise ManifestError(
            f"Clinical column {name!r}: {len(levels)} different words, such as {levels[0]!r} and {levels[1]!r}; at most "
            f"{_MOST_CATEGORIES} make sense as categories. Group them, or leave it out of --clinical."
        )
    return ClinicalField(name, levels=levels)


def _number(said: str) -> float | None:
    try:
        value = float(said)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
