"""Which scores a kind of target has, each as a function of how often slides count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from pathotune_pipeline.bags.targets import SURVIVAL, read_labels, read_number, read_survival
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.intervals import Weighted, bootstrap_scores
from pathotune_pipeline.evaluation.metrics.calibration import reliability, weighted_brier, weighted_calibration_error
from pathotune_pipeline.evaluation.metrics.classification import (
    weighted_accuracy,
    weighted_auroc,
    weighted_average_precision,
    weighted_balanced_accuracy,
    weighted_multilabel_auroc,
    weighted_multilabel_average_precision,
    weighted_quadratic_kappa,
    weighted_share,
)
from pathotune_pipeline.evaluation.metrics.concordance import (
    dynamic_auc,
    inverse_weights,
    mean_by_fall,
    survival_falls,
    weighted_concordance,
    weighted_dynamic_auc,
)
from pathotune_pipeline.evaluation.metrics.regression import (
    weighted_mean_absolute_error,
    weighted_pearson,
    weighted_r2,
)
from pathotune_pipeline.evaluation.metrics.score import Score, once, score_of
from pathotune_pipeline.evaluation.metrics.survival import (
    Censoring,
    SurvivalCurve,
    censoring_curve,
    censoring_of,
    kaplan_meier,
    log_rank,
)
from pathotune_pipeline.evaluation.metrics.survival_brier import brier_at, weighted_integrated_brier

CLASSES = ("binary", "multiclass")
RANKED = frozenset({"auroc", "auprc", "c_index", "c_index_ipcw", "auc_t"})
"""Scores that look at the order of the predictions alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What was predicted of N slides, and what is true.

    Attributes:
        kind: of the target, never "auto".
        classes: names of classes, grades or labels.
        labels: of each slide, as the table says it.
        values: [N, P] float64, as the model says it.
        scaled: [N, P] float64, class probabilities at each model's temperature, or None.
        censoring: of survival, from the training parts; None takes it from the sample itself.
        horizons: of survival.
        thresholds: [N] float64, from which probability on each slide is called positive, of two classes; or None.
    """

    kind: str
    classes: tuple[str, ...]
    labels: Sequence[str]
    values: np.ndarray
    scaled: np.ndarray | None = None
    censoring: Censoring | None = None
    horizons: tuple[float, ...] = ()
    thresholds: np.ndarray | None = None

    def truth(self) -> np.ndarray:
        """[N] int64 classes or grades, [N, L] float64 labels, [N] float64 numbers, or [N, 2] times and events."""
        if self.kind == "regression":
            return np.array([read_number(label) for label in self.labels], np.float64)
        if self.kind in SURVIVAL:
            return np.array([read_survival(label) for label in self.labels], np.float64).reshape(-1, 2)
        if self.kind == "multilabel":
            said = [read_labels(label) for label in self.labels]
            table = [[name in labels for name in self.classes] for labels in said]
            return np.array(table, np.float64).reshape(-1, len(self.classes))
        return np.array([self.classes.index(label) for label in self.labels], np.int64)

    def strata(self) -> np.ndarray | None:
        """Of each slide, among which patients are drawn: its class or grade, or whether its event was seen."""
        if self.kind in ("regression", "multilabel"):
            return None
        return self.truth()[:, 1].astype(np.int64) if self.kind in SURVIVAL else self.truth()


@dataclass(frozen=True, slots=True)
class Scorer:
    """A score of the sample under any weights, and why it may not be defined."""

    weighted: Weighted
    reason: str

    def once(self, count: int) -> Score:
        """The score of every slide once."""
        return score_of(self.weighted(once(count)), self.reason) if count else Score(None, "no slides")


def scorers(sample: Sample) -> dict[str, Scorer]:
    """The scores of the sample's kind, the headline first."""
    truth, values = sample.truth(), sample.values
    match sample.kind:
        case "multilabel":
            return {
                "auroc": Scorer(partial(weighted_multilabel_auroc, truth, values), "no label has both sides"),
                "auprc": Scorer(
                    partial(weighted_multilabel_average_precision, truth, values), "no label has both sides"
                ),
            }
        case "regression":
            said = values[:, 0]
            return {
                "r2": Scorer(partial(weighted_r2, truth, said), "the targets do not vary"),
                "mae": Scorer(partial(weighted_mean_absolute_error, truth, said), "no slides"),
                "pearson": Scorer(partial(weighted_pearson, truth, said), "the targets or predictions do not vary"),
            }
        case "survival-discrete" | "survival-cox":
            return _survival_scorers(sample, truth[:, 0], truth[:, 1] > 0)
    absent = [name for index, name in enumerate(sample.classes) if not (truth == index).any()]
    reason = f"no slide of class {sample.classes.index(absent[0])} among {len(truth)}" if absent else "no slides"
    found = {
        "auroc": Scorer(partial(weighted_auroc, truth, values), reason),
        "balanced_accuracy": Scorer(partial(weighted_balanced_accuracy, truth, values), reason),
        "accuracy": Scorer(partial(weighted_accuracy, truth, values), "no slides"),
    }
    if sample.kind == "ordinal":
        kappa = Scorer(partial(weighted_quadratic_kappa, truth, values), "all slides have one grade")
        off = np.abs(values.argmax(axis=1) - truth).astype(np.float64) if len(truth) else np.zeros(0)
        apart = Scorer(partial(weighted_mean_absolute_error, np.zeros(len(off)), off), "no slides")
        return {"quadratic_kappa": kappa, **found, "mae": apart}
    found["auprc"] = Scorer(partial(weighted_average_precision, truth, values), reason)
    for suffix, probs in (("", values), ("_calibrated", sample.scaled)):
        if probs is not None:
            found[f"brier{suffix}"] = Scorer(partial(weighted_brier, truth, probs), "no slides")
            found[f"ece{suffix}"] = Scorer(partial(weighted_calibration_error, truth, probs), "no slides")
    if sample.thresholds is not None:
        called = values[:, 1] >= sample.thresholds
        sides = {"sensitivity": (called, truth == 1), "specificity": (~called, truth == 0)}
        for name, (right, among) in sides.items():
            found[name] = Scorer(partial(weighted_share, right, among), reason)
        found["balanced_accuracy_at_threshold"] = Scorer(
            partial(weighted_balanced_accuracy, truth, np.stack([~called, called], axis=1).astype(np.float64)), reason
        )
    return found


def score_table(sample: Sample, *, groups: Sequence[str], draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """Every score of a sample with its interval from resampled patients.

    Args:
        sample: N slides or patients.
        groups: the patient of each.
        draws: of the bootstrap; at least 1000.
        seed: of the draws.

    Returns:
        Name -> {"value", "low", "high", "level", "reason"}; what is not defined is None.
    """
    found = scorers(sample)
    intervals = bootstrap_scores(
        {name: each.weighted for name, each in found.items()},
        groups=groups,
        strata=sample.strata(),
        draws=draws,
        seed=seed,
    )
    table: dict[str, dict[str, Any]] = {}
    for name, each in found.items():
        said, interval = asdict(each.once(len(groups))), intervals[name]
        bounds: dict[str, float | None] = {"low": None, "high": None, "level": None}
        if interval is not None and said["value"] is not None:
            bounds = {"low": interval.low, "high": interval.high, "level": interval.level}
        table[name] = said | bounds
    return table


def curves_of(sample: Sample) -> dict[str, Any]:
    """What is drawn of a sample: reliability of classes; of survival scores by time and curves by risk."""
    if sample.kind in CLASSES:
        parts = {"raw": sample.values, "calibrated": sample.scaled}
        points = {name: reliability(sample.truth(), probs) for name, probs in parts.items() if probs is not None}
        return {"reliability": points}
    if sample.kind not in SURVIVAL or not len(sample.labels):
        return {}
    times, events = sample.truth()[:, 0], sample.truth()[:, 1] > 0
    survival, at = sample.values[:, 1:], np.array(sample.horizons)
    left = _censoring(sample, times, events)
    _, areas = dynamic_auc(times, events, 1 - survival, censoring=left, horizons=at)
    errors = brier_at(times, events, survival, censoring=left, horizons=at)
    higher = sample.values[:, 0] > np.median(sample.values[:, 0])
    return {
        "horizons": list(sample.horizons),
        "auc": [score.value for score in areas],
        "brier": [float(error) if np.isfinite(error) else None for error in errors],
        **curves_by_risk(times, events, higher),
    }


def curves_by_risk(times: np.ndarray, events: np.ndarray, higher: np.ndarray) -> dict[str, Any]:
    """Kaplan-Meier curves of those of lower and of higher risk, and their log-rank test, in plain values.

    Args:
        times: [N] float.
        events: [N] bool.
        higher: [N] bool.
    """
    found: dict[str, Any] = {
        "kaplan_meier": {
            name: _plain(kaplan_meier(times[part], events[part]))
            for name, part in (("lower risk", ~higher), ("higher risk", higher))
            if part.any()
        },
    }
    try:
        test = log_rank(times, events, higher)
        found["log_rank"] = {"chi2": test.chi2, "freedom": test.freedom, "p_value": test.p_value}
    except UsageError as error:
        found["log_rank"] = {"reason": str(error)}
    return found


def _survival_scorers(sample: Sample, times: np.ndarray, events: np.ndarray) -> dict[str, Scorer]:
    risks, survival, at = sample.values[:, 0], sample.values[:, 1:], np.array(sample.horizons)
    left = _censoring(sample, times, events)
    falls = survival_falls(times, events, at)
    pairs = {"c_index": np.ones(len(times)), "c_index_ipcw": inverse_weights(left) ** 2}
    found = {
        name: Scorer(
            partial(weighted_concordance, times, events, risks, pair_weights=each), "no comparable pair of slides"
        )
        for name, each in pairs.items()
    }

    def mean_auc(weights: np.ndarray) -> np.ndarray:
        by_time = weighted_dynamic_auc(times, events, 1 - survival, weights, censoring=left, horizons=at)
        return mean_by_fall(by_time, falls)

    found["auc_t"] = Scorer(mean_auc, "at no horizon are there slides on both sides")
    found["integrated_brier"] = Scorer(
        partial(weighted_integrated_brier, times, events, survival, censoring=left, horizons=at),
        "fewer than two horizons within the training part's follow-up",
    )
    return found


def _censoring(sample: Sample, times: np.ndarray, events: np.ndarray) -> Censoring:
    if sample.censoring is not None:
        return sample.censoring
    if not len(times):
        return Censoring(np.zeros(0), np.zeros((0, len(sample.horizons))))
    return censoring_of(censoring_curve(times, events), times, np.array(sample.horizons))


def _plain(curve: SurvivalCurve) -> Mapping[str, list[float]]:
    names = ("times", "survival", "low", "high", "at_risk")
    return {name: getattr(curve, name).astype(float).tolist() for name in names}
