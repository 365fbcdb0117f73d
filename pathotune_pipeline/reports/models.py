"""What a model folder says: scores, curves, predictions and attention, as plain values to be shown."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.reports.settings import flatten

RESULT = "crossval.json"
PREDICTIONS = "predictions.csv"
ATTENTION = "attention.npz"
MOST_CLASSES_PICKED = 4
SCORE_TITLES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "brier_calibrated": "Brier score, calibrated",
    "ece": "ECE",
    "ece_calibrated": "ECE, calibrated",
    "quadratic_kappa": "Quadratic kappa",
    "r2": "R²",
    "mae": "Mean absolute error",
    "pearson": "Pearson's r",
    "c_index": "C-index (Harrell)",
    "c_index_ipcw": "C-index (IPCW)",
    "auc_t": "Time-dependent AUC",
    "integrated_brier": "Integrated Brier score",
}
CLASS_KINDS = ("", "binary", "multiclass", "ordinal")
"""Kinds of target of which each slide has one class with a probability; only their slides are listed."""
_BAD_ARCHIVE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_BROKEN = (TypeError, KeyError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its interval.

    Attributes:
        title: as the page names it.
        value: None where it is not defined.
        low, high: of the interval; None where there is none.
        level: of the interval, 0.95 for 95 %.
        reason: why there is no value.
    """

    title: str
    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """One ROC curve: of the only positive class, or of one class against the rest."""

    name: str
    fpr: list[float]
    tpr: list[float]


@dataclass(frozen=True, slots=True)
class FoldScore:
    """Scores of one fold of one seed."""

    seed: int
    fold: int
    slides: int | None
    auroc: float | None
    balanced_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said of one slide that it was not trained on, the mean over seeds.

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


@dataclass(slots=True)
class ModelView:
    """One model folder as the page shows it.

    Attributes:
        name: of the folder.
        folder: where it is.
        head: the head's name.
        features: the set it was trained on, as `--features` takes it.
        target: column of the label table.
        classes: names in the order of the probabilities.
        slides, cases: how many it was trained and tested on.
        scores: with intervals.
        curves: ROC.
        folds: scores of every fold.
        notes: what was left out, one sentence each.
        warnings: what a reader should know, one sentence each.
        settings: name and value.
        predictions: by slide id.
    """

    name: str
    folder: Path
    head: str = ""
    features: str = ""
    target: str = ""
    classes: list[str] = field(default_factory=list)
    slides: int | None = None
    cases: int | None = None
    scores: list[Score] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    folds: list[FoldScore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    predictions: dict[str, Prediction] = field(default_factory=dict)


def read_model(folder: Path) -> ModelView:
    """Read a folder that `pathotune crossval` wrote.

    Raises:
        UsageError: it holds no crossval.json, or one that cannot be read.
    """
    path = folder / RESULT
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        found = "a folder without it" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise UsageError(
            f"--model {folder}: a folder with {RESULT} is needed, {found} was found. "
            "Give one that `pathotune crossval` wrote."
        ) from None
    except ValueError as error:
        raise UsageError(
            f"--model {folder}: its {RESULT} is no JSON ({error}). Run `pathotune crossval` again."
        ) from None
    view = ModelView(folder.resolve().name, folder)
    try:
        _fill(view, told)
        if told.get("kind", "") in CLASS_KINDS:
            view.predictions = _predictions(folder / PREDICTIONS, view.classes)
    except _BROKEN as error:
        raise UsageError(
            f"--model {folder}: its files are not as `pathotune crossval` writes them "
            f"({type(error).__name__}: {error}). Run it again with this version."
        ) from None
    if view.predictions:
        view.slides = view.slides or len(view.predictions)
        view.cases = len({row.case_id or row.slide_id for row in view.predictions.values()})
    elif told.get("kind", "") in CLASS_KINDS:
        view.warnings.append(f"The folder has no {PREDICTIONS}: no slide is shown with this model's attention.")
    return view


def _fill(view: ModelView, told: Mapping[str, Any]) -> None:
    settings, context = told.get("settings") or {}, told.get("context") or {}
    head = settings.get("head")
    view.head = str(head.get("name", "")) if isinstance(head, Mapping) else str(head or "")
    view.settings = flatten(settings)
    view.features = str(context.get("features") or told.get("feature_set") or "").removeprefix("features-")
    view.target = str(context.get("target") or told.get("target") or "")
    view.classes = [str(name) for name in told.get("classes") or []]
    view.slides = context.get("slides")
    # The same sentence may come from the study and from the cross-validation.
    view.notes = list(dict.fromkeys(str(note) for note in [*(told.get("notes") or []), *(context.get("notes") or [])]))
    view.scores = [_score(name, score) for name, score in told["scores"].items()]
    view.curves = _curves(told.get("roc") or {}, view.classes)
    view.folds = [
        FoldScore(
            seed=int(each["seed"]),
            fold=int(each["fold"]),
            slides=each.get("n_test"),
            auroc=_number(each.get("auroc")),
            balanced_accuracy=_number(each.get("balanced_accuracy")),
        )
        for each in told.get("per_fold") or []
    ]


def _score(name: str, score: Mapping[str, Any]) -> Score:
    return Score(
        title=SCORE_TITLES.get(name, name.replace("_", " ").capitalize()),
        value=_number(score.get("value")),
        low=_number(score.get("low")),
        high=_number(score.get("high")),
        level=float(score.get("level") or 0.95),
        reason=str(score.get("reason") or ""),
    )


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if value is None or not np.isfinite(float(value)):
        return None
    return float(value)


def _curves(roc: Mapping[str, Any], classes: list[str]) -> list[Curve]:
    """ROC curves by class; of two classes only that of the second, the positive one."""
    judged = classes[1:] if len(classes) == 2 else classes
    return [
        Curve(name, [float(x) for x in roc[name]["fpr"]], [float(y) for y in roc[name]["tpr"]])
        for name in judged
        if name in roc
    ]


def _predictions(path: Path, classes: list[str]) -> dict[str, Prediction]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError:
        return {}
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if not rows:
        return {}
    columns = [f"prob_{name}" for name in classes]
    grouped: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        grouped.setdefault(row["slide_id"], []).append(row)
    found = {}
    for slide_id, several in sorted(grouped.items()):
        mean = np.array([[float(row[column]) for column in columns] for row in several]).mean(axis=0)
        best, label = int(np.argmax(mean)), several[0]["label"]
        own = float(mean[classes.index(label)]) if label in classes else float("nan")
        found[slide_id] = Prediction(
            slide_id, several[0].get("case_id") or "", label, classes[best], float(mean[best]), own
        )
    return found


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
            loaded: Any = np.load(folder / ATTENTION, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                self._file, self.slides = loaded, frozenset(loaded.files)

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
