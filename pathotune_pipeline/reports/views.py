"""What a model folder says of scores and curves, as plain values to be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

SCORE_TITLES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
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
    "sensitivity": "Sensitivity at the threshold",
    "specificity": "Specificity at the threshold",
    "balanced_accuracy_at_threshold": "Balanced accuracy at the threshold",
    "integrated_brier": "Integrated Brier score",
}


def score_title(name: str) -> str:
    """A score's name as the page shows it."""
    return SCORE_TITLES.get(name, name.replace("_", " ").capitalize())


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

    @classmethod
    def of(cls, name: str, told: Mapping[str, Any]) -> Self:
        """One entry of `scores` in crossval.json."""
        return cls(
            title=score_title(name),
            value=number(told.get("value")),
            low=number(told.get("low")),
            high=number(told.get("high")),
            level=float(told.get("level") or 0.95),
            reason=str(told.get("reason") or ""),
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """One ROC curve: of the only positive class, or of one class against the rest."""

    name: str
    fpr: list[float]
    tpr: list[float]


@dataclass(frozen=True, slots=True)
class Band:
    """A curve with its band, at the places of `Bands.at`."""

    value: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """One band in crossval.json."""
        return cls(*(_floats(told[name]) for name in ("value", "low", "high")))


@dataclass(frozen=True, slots=True)
class ClassBands:
    """The bands of one class against the rest; `positive` is how many slides are of it."""

    name: str
    positive: int
    roc: Band
    pr: Band


@dataclass(frozen=True, slots=True)
class Bands:
    """ROC and precision-recall curves with bands.

    Attributes:
        level: share of the draws inside.
        draws: resamplings of the patients.
        units, patients: how many slides, or patients where they are judged as one, and how many patients.
        at: false positive rates, or recalls.
        classes: those that are judged.
    """

    level: float
    draws: int
    units: int
    patients: int
    at: list[float]
    classes: list[ClassBands]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """`curves.bands` of crossval.json."""
        classes = [
            ClassBands(str(name), int(each["positive"]), Band.of(each["roc"]), Band.of(each["pr"]))
            for name, each in told["of"].items()
        ]
        draws, units, patients = (int(told[name]) for name in ("draws", "slides", "patients"))
        return cls(float(told["level"]), draws, units, patients, _floats(told["at"]), classes)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of one reliability diagram: mean probability, share that came true, slides."""

    name: str
    predicted: list[float]
    observed: list[float]
    slides: list[float]

    @classmethod
    def of(cls, name: str, told: Mapping[str, Any]) -> Self:
        """One part of `curves.reliability` in crossval.json."""
        title = {"raw": "as predicted", "calibrated": "at the temperature fitted on validation"}.get(name, name)
        return cls(title, *(_floats(told[each]) for each in ("confidence", "observed", "slides")))


@dataclass(frozen=True, slots=True)
class SurvivalCurve:
    """A Kaplan-Meier curve, one value for each time."""

    name: str
    times: list[float]
    survival: list[float]
    low: list[float]
    high: list[float]
    at_risk: list[float]


@dataclass(frozen=True, slots=True)
class SurvivalView:
    """Kaplan-Meier curves by predicted risk; `p_value` of their log-rank test, or the reason why there is none."""

    curves: list[SurvivalCurve]
    p_value: float | None
    reason: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """`curves` of crossval.json, of survival."""
        names = ("times", "survival", "low", "high", "at_risk")
        curves = [
            SurvivalCurve(str(name), *(_floats(each[part]) for part in names))
            for name, each in told["kaplan_meier"].items()
        ]
        test = told.get("log_rank") or {}
        return cls(curves, number(test.get("p_value")), str(test.get("reason") or ""))


@dataclass(frozen=True, slots=True)
class FoldScore:
    """Scores of one fold of one seed, by title."""

    seed: int
    fold: int
    slides: int | None
    scores: dict[str, float | None] = field(default_factory=dict)


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if value is None or not np.isfinite(float(value)):
        return None
    return float(value)


def percent_of(share: float) -> str:
    """A share as it stands in a sentence: 95 %."""
    return f"{100 * share:g} %"


def count_text(units: int, patients: int | None, *, by_patient: bool = False) -> str:
    """What was judged, as a sentence begins."""
    if by_patient:
        return f"n = {units} patients"
    return f"n = {units} slides" + (f" of {patients} patients" if patients else "")


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]
