"""Scores, their intervals, and cross-validation by patient."""

from pathotune_pipeline.evaluation.comparison import Comparison, compare_paired, compare_results, holm
from pathotune_pipeline.evaluation.crossval import CrossvalProgress, CrossvalSpec, crossval
from pathotune_pipeline.evaluation.intervals import Interval, bootstrap
from pathotune_pipeline.evaluation.metrics import Score, accuracy, auroc, balanced_accuracy, roc_points
from pathotune_pipeline.evaluation.result import CrossvalResult, read_result, write_result
from pathotune_pipeline.evaluation.target_crossval import crossval_targets

__all__ = [
    "Comparison",
    "CrossvalProgress",
    "CrossvalResult",
    "CrossvalSpec",
    "Interval",
    "Score",
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "bootstrap",
    "compare_paired",
    "compare_results",
    "crossval",
    "crossval_targets",
    "holm",
    "read_result",
    "roc_points",
    "write_result",
]
