"""Training without knowing what is trained: course, loop, schedule, optimiser, checkpoint, device."""

from pathotune_pipeline.engine.checkpoint import load_checkpoint, save_checkpoint
from pathotune_pipeline.engine.course import Course, EpochRecord, FitResult
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.engine.loop import fit
from pathotune_pipeline.engine.optimizer import ParameterGroup
from pathotune_pipeline.engine.resume import CourseFile
from pathotune_pipeline.engine.spec import TrainSpec

__all__ = [
    "Course",
    "CourseFile",
    "EpochRecord",
    "FitResult",
    "ParameterGroup",
    "TrainSpec",
    "fit",
    "load_checkpoint",
    "pick_device",
    "save_checkpoint",
]
