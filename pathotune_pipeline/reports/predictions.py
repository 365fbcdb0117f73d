"""What a model folder says slide by slide: predictions and attention."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.store.npz import DAMAGED, open_npz

PREDICTIONS = "predictions.csv"
ATTENTION = "attention.npz"
MOST_CLASSES_PICKED = 4
_BAD_ARCHIVE = (OSError, ValueError, *DAMAGED)


@dataclass(frozen=True, slots=True)
class SlideValues:
    """What was predicted of one slide, the mean over seeds.

    Attributes:
        slide_id, case_id: whose.
        label: as the table says it.
        values: [P] float64, in the order of the columns.
        threshold: the mean of those of its models, from which probability on it is called positive; or None.
    """

    slide_id: str
    case_id: str
    label: str
    values: np.ndarray
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The class of one slide, by models that were not trained on it; the mean over seeds.

    Attributes:
        slide_id, case_id: whose.
        label: the class it has.
        predicted: the class of the highest probability.
        probability: of that class.
        label_probability: of the class it has.
    """

    slide_id: str
    case_id: str
    label: str
    predicted: str
    probability: float
    label_probability: float

    @property
    def correct(self) -> bool:
        return self.label == self.predicted


def read_predictions(
    path: Path, columns: Sequence[str], *, thresholds: Mapping[tuple[int, int], float] | None = None
) -> list[SlideValues]:
    """Each slide's mean over its models, in the order of ids; empty where the file cannot be read.

    Args:
        path: the table.
        columns: of what is predicted.
        thresholds: (seed, fold) -> the model's; of every model, or none.

    Raises:
        KeyError: the file lacks a column.
        ValueError: a value is no number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError:
        return []
    grouped: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(text, newline="")):
        grouped.setdefault(row["slide_id"], []).append(row)
    return [
        SlideValues(
            slide_id,
            several[0].get("case_id") or "",
            several[0]["label"],
            np.array([[float(row[column]) for column in columns] for row in several]).mean(axis=0),
            float(np.mean([thresholds[int(row["seed"]), int(row["fold"])] for row in several])) if thresholds else None,
        )
        for slide_id, several in sorted(grouped.items())
    ]


def by_patient(slides: Iterable[SlideValues]) -> list[SlideValues]:
    """Each patient's mean over the slides; the patient's id stands for the slide's."""
    grouped: dict[str, list[SlideValues]] = {}
    for each in slides:
        grouped.setdefault(each.case_id or each.slide_id, []).append(each)
    return [
        replace(several[0], slide_id=case, values=np.mean([each.values for each in several], axis=0))
        for case, several in sorted(grouped.items())
    ]


def classified(slides: Iterable[SlideValues], classes: Sequence[str]) -> dict[str, Prediction]:
    """The predicted class of each slide, by id."""
    found = {}
    for each in slides:
        best = int(np.argmax(each.values))
        own = float(each.values[list(classes).index(each.label)]) if each.label in classes else float("nan")
        found[each.slide_id] = Prediction(
            each.slide_id, each.case_id, each.label, classes[best], float(each.values[best]), own
        )
    return found


def confusion(units: Iterable[SlideValues], classes: Sequence[str]) -> np.ndarray:
    """[C, C] int64: how many of each class, rows, were taken for each.

    A class is that of the highest mean probability; of two, where its models have a threshold, the second from that on.
    """
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for each in units:
        said = int(np.argmax(each.values)) if each.threshold is None else int(each.values[1] >= each.threshold)
        if each.label in place:
            counts[place[each.label], said] += 1
    return counts


def pick_slides(predictions: Iterable[Prediction], classes: list[str]) -> list[tuple[str, Prediction]]:
    """Slides worth a look: of each class the surest that is right, and the surest error of all.

    Returns:
        Pairs of why and which.
    """
    every = list(predictions)
    picked = []
    for name in classes[:MOST_CLASSES_PICKED]:
        right = [row for row in every if row.correct and row.label == name]
        if right:
            picked.append((f"surest correct {name}", max(right, key=lambda row: (row.probability, row.slide_id))))
    wrong = [row for row in every if not row.correct]
    if wrong:
        picked.append(("surest error", max(wrong, key=lambda row: (row.probability, row.slide_id))))
    return picked


class Attention:
    """The attention of a model folder, read a slide at a time; empty where the folder has none."""

    def __init__(self, folder: Path) -> None:
        self._file: Any = None
        self.slides: frozenset[str] = frozenset()
        with contextlib.suppress(*_BAD_ARCHIVE):
            self._file = open_npz(folder / ATTENTION)
            self.slides = frozenset(self._file.files)

    def __enter__(self) -> Attention:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def of(self, slide_id: str) -> np.ndarray | None:
        """Float [N] over the slide's readable tiles, or None where it cannot be read."""
        if self._file is None or slide_id not in self.slides:
            return None
        try:
            return np.asarray(self._file[slide_id], np.float64).reshape(-1)
        except _BAD_ARCHIVE:
            return None
