"""Slide encoders joined by genes and clinical variables, trained on texts about cases."""

from pathotune_pipeline.adapt.modal.adapter import ModalCase, ModalInputs, ModalNetwork, ModalReadOut, attach_modal
from pathotune_pipeline.adapt.modal.pathways import PathwayTable, read_pathways
from pathotune_pipeline.adapt.modal.spec import ModalSpec

__all__ = [
    "ModalCase",
    "ModalInputs",
    "ModalNetwork",
    "ModalReadOut",
    "ModalSpec",
    "PathwayTable",
    "attach_modal",
    "read_pathways",
]
