"""A model folder as the page shows it, read from what `pathotune crossval` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.reports.predictions import (
    PREDICTIONS,
    Prediction,
    SlideValues,
    by_patient,
    classified,
    read_predictions,
)
from pathotune_pipeline.reports.settings import flatten
from pathotune_pipeline.reports.views import (
    Bands,
    Curve,
    FoldScore,
    Reliability,
    Score,
    SurvivalView,
    number,
    score_title,
)

RESULT = "crossval.json"
EXTERNAL_PREDICTIONS = "predictions_external.csv"
CLASS_KINDS = ("", "binary", "multiclass", "ordinal")
"""Kinds of target of which each slide has one class with a probability; only their slides are listed."""
_FOLD_SCORES = {
    "ordinal": ("quadratic_kappa", "balanced_accuracy"),
    "multilabel": ("auroc",),
    "regression": ("r2",),
    "survival-discrete": ("c_index", "auc_t"),
    "survival-cox": ("c_index", "auc_t"),
}
"""What is shown of each fold, by kind; AUROC and balanced accuracy of classes."""
_BROKEN = (TypeError, KeyError, ValueError, AttributeError, IndexError)


@dataclass(slots=True)
class ModelView:
    """One model folder as the page shows it.

    Attributes:
        name: of the folder; of one of several targets, with the folder above it.
        folder: where it is.
        kind: of the target; empty means classes.
        head: the head's name.
        features: the set it was trained on, as `--features` takes it.
        target: column of the label table.
        classes: names in the order of the probabilities.
        slides, cases: how many it was trained and tested on.
        scores: with intervals, the headline first.
        curves: ROC.
        bands: of ROC and precision-recall curves, where they are known.
        reliability: as predicted, and where known at the temperature.
        survival: curves by predicted risk.
        fold_titles: of the scores shown for each fold.
        folds: scores of every fold.
        notes: what was left out, one sentence each.
        warnings: what a reader should know, one sentence each.
        settings: name and value.
        predictions: by slide id, of classes.
        units: what was predicted of each slide, or of each patient where they are judged as one.
        by_patient: whether they are.
        last: scores of the weights after the last epoch, where they were kept.
        external: the same of an external test set.
    """

    name: str
    folder: Path
    kind: str = ""
    head: str = ""
    features: str = ""
    target: str = ""
    classes: list[str] = field(default_factory=list)
    slides: int | None = None
    cases: int | None = None
    scores: list[Score] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    bands: Bands | None = None
    reliability: list[Reliability] = field(default_factory=list)
    survival: SurvivalView | None = None
    fold_titles: tuple[str, ...] = ()
    folds: list[FoldScore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    units: list[SlideValues] = field(default_factory=list)
    by_patient: bool = False
    last: list[Score] = field(default_factory=list)
    external: ModelView | None = None

    @property
    def encoder(self) -> str:
        """The feature set's name without its fingerprint."""
        name, _, end = self.features.rpartition("-")
        return name if name and len(end) >= 8 and set(end) <= set("0123456789abcdef") else self.features


def model_folders(folder: Path) -> list[Path]:
    """The folder itself, or where it holds the results of several targets, theirs by name."""
    if (folder / RESULT).exists() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{RESULT}")) or [folder]


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
        _fill_judged(view, told)
        _fill_units(view, folder / PREDICTIONS, told)
        if told.get("external"):
            view.external = _external(view, told)
    except _BROKEN as error:
        raise UsageError(
            f"--model {folder}: its files are not as `pathotune crossval` writes them "
            f"({type(error).__name__}: {error}). Run it again with this version."
        ) from None
    if not view.units and view.kind in CLASS_KINDS:
        view.warnings.append(f"The folder has no {PREDICTIONS}: no slide is shown with this model's attention.")
    return view


def _fill(view: ModelView, told: Mapping[str, Any]) -> None:
    settings, context = told.get("settings") or {}, told.get("context") or {}
    head = settings.get("head")
    view.head = str(head.get("name", "")) if isinstance(head, Mapping) else str(head or "")
    view.settings = flatten(settings)
    view.kind = str(told.get("kind") or "")
    view.features = str(context.get("features") or told.get("feature_set") or "").removeprefix("features-")
    view.target = str(context.get("target") or told.get("target") or "")
    view.classes = [str(name) for name in told.get("classes") or []]
    view.slides = context.get("slides")
    # The same sentence may come from the study and from the cross-validation.
    view.notes = list(dict.fromkeys(str(note) for note in [*(told.get("notes") or []), *(context.get("notes") or [])]))
    view.by_patient = settings.get("unit") == "average"
    view.last = [Score.of(name, score) for name, score in (told.get("scores_last") or {}).items()]
    names = _FOLD_SCORES.get(view.kind, ("auroc", "balanced_accuracy"))
    view.fold_titles = tuple(map(score_title, names))
    view.folds = [
        FoldScore(
            seed=int(each["seed"]),
            fold=int(each["fold"]),
            slides=each.get("n_test"),
            scores={score_title(name): number(each.get(name)) for name in names},
        )
        for each in told.get("per_fold") or []
    ]


def _fill_judged(view: ModelView, told: Mapping[str, Any]) -> None:
    """Scores and curves, of the folds or of an external test set."""
    view.scores = [Score.of(name, score) for name, score in told["scores"].items()]
    # Of two classes only the curve of the second, the positive one.
    judged = view.classes[1:] if len(view.classes) == 2 else view.classes
    roc, curves = told.get("roc") or {}, told.get("curves") or {}
    view.curves = [
        Curve(name, [float(x) for x in roc[name]["fpr"]], [float(y) for y in roc[name]["tpr"]])
        for name in judged
        if name in roc
    ]
    if curves.get("bands"):
        view.bands = Bands.of(curves["bands"])
        if not view.curves:  # of grades and labels no exact curve is kept
            view.curves = [
                Curve(each.name, [0.0, *view.bands.at], [0.0, *each.roc.value]) for each in view.bands.classes
            ]
    view.reliability = [Reliability.of(name, each) for name, each in (curves.get("reliability") or {}).items()]
    if curves.get("kaplan_meier"):
        view.survival = SurvivalView.of(curves)


def _fill_units(view: ModelView, path: Path, told: Mapping[str, Any]) -> None:
    """Predictions of slides, and of what is judged as one."""
    columns = [f"prob_{name}" if view.kind in (*CLASS_KINDS, "multilabel") else name for name in view.classes]
    cuts = {(int(run["seed"]), int(run["fold"])): run.get("threshold") for run in told.get("runs") or []}
    known = bool(cuts) and None not in cuts.values() and len(view.classes) == 2
    slides = read_predictions(path, columns, thresholds=cuts if known else None)
    if view.kind in CLASS_KINDS:
        view.predictions = classified(slides, view.classes)
    view.units = by_patient(slides) if view.by_patient else slides
    if slides:
        view.slides = len(slides)
        view.cases = len({each.case_id or each.slide_id for each in slides})


def _external(view: ModelView, told: Mapping[str, Any]) -> ModelView:
    """What the models said of an external test set."""
    found = ModelView(view.name, view.folder, view.kind, view.head, view.features, view.target, view.classes)
    found.by_patient = view.by_patient
    _fill_judged(found, told["external"])
    _fill_units(found, view.folder / EXTERNAL_PREDICTIONS, told)
    return found
