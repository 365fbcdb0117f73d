"""Scores, their intervals, and cross-validation by patient."""

from pathotune_pipeline.evaluation.crossval import CrossvalProgress, CrossvalSpec, crossval
from pathotune_pipeline.evaluation.intervals import Interval, bootstrap
from pathotune_pipeline.evaluation.metrics import Score, accuracy, auroc, balanced_accuracy, roc_points
from pathotune_pipeline.evaluation.result import CrossvalResult, read_result, write_result

__all__ = [
    "CrossvalProgress",
    "CrossvalResult",
    "CrossvalSpec",
    "Interval",
    "Score",
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "bootstrap",
    "crossval",
    "read_result",
    "roc_points",
    "write_result",
]
