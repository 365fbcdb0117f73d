"""Slide-level heads: tensors in, tensors out."""

from pathotune_pipeline.heads.fit_many import FitOutcome, fit_many
from pathotune_pipeline.heads.head import HEADS, HeadOutput, HeadSpec, MILHead, create_head
from pathotune_pipeline.heads.learner import HeadFitSpec, TrainedHead
from pathotune_pipeline.heads.train import Prediction, fit_head, predict
from pathotune_pipeline.heads.trained import load_head, save_head
from pathotune_pipeline.heads.trainee import FitJob

__all__ = [
    "HEADS",
    "FitJob",
    "FitOutcome",
    "HeadFitSpec",
    "HeadOutput",
    "HeadSpec",
    "MILHead",
    "Prediction",
    "TrainedHead",
    "create_head",
    "fit_head",
    "fit_many",
    "load_head",
    "predict",
    "save_head",
]
