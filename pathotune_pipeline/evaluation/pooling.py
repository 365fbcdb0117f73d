"""What models said of slides, and how it becomes one answer for each slide or patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pathotune_pipeline.evaluation.metrics import scale_by_temperature
from pathotune_pipeline.evaluation.metrics.survival import Censoring
from pathotune_pipeline.evaluation.scoring import CLASSES, Sample


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """What a model that had not seen a slide said of it.

    Attributes:
        slide_id: the slide; where a patient's slides are fused, the patient.
        case_id: its patient.
        label: its class, or what else the table says of the target.
        seed: of the run.
        fold: of the model: the one whose test part the slide was in.
        probs: of each class; of another target what `CrossvalResult.classes` names.
    """

    slide_id: str
    case_id: str
    label: str
    seed: int
    fold: int
    probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FoldRun:
    """How one model was trained, and what its validation part settled.

    Attributes:
        seed: of the run.
        fold: its number.
        best_epoch: whose weights were kept, from 0.
        epochs: trained.
        temperature: of the class probabilities, or None.
        threshold: from which probability on a slide is called positive, of two classes, or None.
    """

    seed: int
    fold: int
    best_epoch: int
    epochs: int
    temperature: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Predictions of some models, to be scored.

    Attributes:
        rows: of slides, any number from each model.
        kind: of the target.
        classes: names of what is predicted.
        horizons: of survival.
        runs: the models, with their temperatures and thresholds.
        by_patient: whether the answers for a patient's slides are averaged, model by model, before anything else.
        censoring: (seed, fold, slide id) -> [1 + T] float64, as in `CrossvalResult`.
    """

    rows: Sequence[PredictionRow]
    kind: str
    classes: tuple[str, ...]
    horizons: tuple[float, ...] = ()
    runs: Sequence[FoldRun] = ()
    by_patient: bool = False
    censoring: Mapping[tuple[int, int, str], np.ndarray] = field(default_factory=dict)

    def unit_of(self, row: PredictionRow) -> str:
        """What is scored as one: the slide, or its patient."""
        return row.case_id if self.by_patient else row.slide_id

    def pooled(self) -> list[PredictionRow]:
        """One row for each unit, sorted by its id: the mean over its models (seed and fold are -1)."""
        return [replace(_mean(each), seed=-1, fold=-1) for each in self._units()]

    def sample(self) -> Sample:
        """The mean over models of each unit, with what is true of it."""
        units = self._units()
        values = np.array([_mean(each).probs for each in units], np.float64)
        return Sample(
            kind=self.kind,
            classes=self.classes,
            labels=[each[0].label for each in units],
            values=values.reshape(len(units), len(self.classes)),
            scaled=self._scaled(units),
            censoring=self._censoring(units),
            horizons=self.horizons,
            thresholds=self._thresholds(units),
        )

    def _units(self) -> list[list[PredictionRow]]:
        """The rows of each unit, one for each model."""
        rows = list(self.rows)
        if self.by_patient:
            of_model = _grouped(rows, lambda row: (row.case_id, row.seed, row.fold))
            rows = [replace(_mean(each), slide_id=each[0].case_id) for each in of_model]
        return _grouped(rows, lambda row: row.slide_id)

    def _scaled(self, units: Sequence[Sequence[PredictionRow]]) -> np.ndarray | None:
        """Mean over models of the probabilities at each model's temperature, [N, C]; None where one has none."""
        heat = {(run.seed, run.fold): run.temperature for run in self.runs}
        if self.kind not in CLASSES or not heat or None in heat.values():
            return None
        found = [
            scale_by_temperature(
                np.array([row.probs for row in each]), np.array([heat[row.seed, row.fold] for row in each])
            ).mean(axis=0)
            for each in units
        ]
        return np.array(found).reshape(len(units), len(self.classes))

    def _thresholds(self, units: Sequence[Sequence[PredictionRow]]) -> np.ndarray | None:
        """Mean over models of their thresholds, [N]; None where one has none."""
        cut = {(run.seed, run.fold): run.threshold for run in self.runs}
        if self.kind != "binary" or not cut or None in cut.values():
            return None
        return np.array([np.mean([cut[row.seed, row.fold] or 0.0 for row in each]) for each in units], np.float64)

    def _censoring(self, units: Sequence[Sequence[PredictionRow]]) -> Censoring | None:
        if not self.censoring:
            return None
        known = {(row.seed, row.fold, self.unit_of(row)): row.slide_id for row in self.rows}
        left = [
            np.mean(
                [self.censoring[row.seed, row.fold, known[row.seed, row.fold, row.slide_id]] for row in each], axis=0
            )
            for each in units
        ]
        table = np.array(left).reshape(len(units), 1 + len(self.horizons))
        return Censoring(table[:, 0], table[:, 1:])


def mean_by_patient(groups: Sequence[str], labels: Sequence[str], values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Slides' values averaged by patient.

    Args:
        groups: N patients.
        labels: N labels, one for all slides of a patient.
        values: [N, P] float.

    Returns:
        Labels and [M, P] float64 of the patients, in the order of their first slides.
    """
    patients = list(dict.fromkeys(groups))
    first = dict(zip(reversed(groups), reversed(labels), strict=True))
    owner = np.array(groups)
    means = [values[owner == patient].mean(axis=0) for patient in patients]
    return [first[patient] for patient in patients], np.array(means, np.float64).reshape(len(patients), values.shape[1])


def _mean(rows: Sequence[PredictionRow]) -> PredictionRow:
    return replace(rows[0], probs=tuple(np.mean([row.probs for row in rows], axis=0).tolist()))


def _grouped(
    rows: Iterable[PredictionRow], key: Callable[[PredictionRow], tuple[Any, ...] | str]
) -> list[list[PredictionRow]]:
    found: dict[Any, list[PredictionRow]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return [found[each] for each in sorted(found)]
