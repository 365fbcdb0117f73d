"""Slide-level heads: tensors in, tensors out."""

from pathotune_pipeline.heads.head import HEADS, HeadOutput, HeadSpec, MILHead, create_head
from pathotune_pipeline.heads.train import HeadFitSpec, Prediction, TrainedHead, fit_head, predict
from pathotune_pipeline.heads.trained import load_head, save_head

__all__ = [
    "HEADS",
    "HeadFitSpec",
    "HeadOutput",
    "HeadSpec",
    "MILHead",
    "Prediction",
    "TrainedHead",
    "create_head",
    "fit_head",
    "load_head",
    "predict",
    "save_head",
]
