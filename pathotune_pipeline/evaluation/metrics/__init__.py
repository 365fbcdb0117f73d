"""Metrics of slide-level predictions, each from its definition; a `weighted_` one scores many weightings at once."""

from pathotune_pipeline.evaluation.metrics.calibration import (
    brier,
    expected_calibration_error,
    fit_temperature,
    reliability,
    scale_by_temperature,
)
from pathotune_pipeline.evaluation.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    multilabel_auroc,
    multilabel_average_precision,
    quadratic_kappa,
    roc_points,
    weighted_auroc,
)
from pathotune_pipeline.evaluation.metrics.concordance import concordance_index, concordance_index_ipcw, dynamic_auc
from pathotune_pipeline.evaluation.metrics.regression import mean_absolute_error, pearson, r2
from pathotune_pipeline.evaluation.metrics.score import Score
from pathotune_pipeline.evaluation.metrics.survival import (
    censoring_curve,
    censoring_of,
    kaplan_meier,
    log_rank,
)
from pathotune_pipeline.evaluation.metrics.survival_brier import brier_at, integrated_brier

__all__ = [
    "Score",
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "brier_at",
    "censoring_curve",
    "censoring_of",
    "concordance_index",
    "concordance_index_ipcw",
    "dynamic_auc",
    "expected_calibration_error",
    "fit_temperature",
    "integrated_brier",
    "kaplan_meier",
    "log_rank",
    "mean_absolute_error",
    "multilabel_auroc",
    "multilabel_average_precision",
    "pearson",
    "quadratic_kappa",
    "r2",
    "reliability",
    "roc_points",
    "scale_by_temperature",
    "weighted_auroc",
]
