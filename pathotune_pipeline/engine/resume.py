"""A course on disk after each epoch: one file, so that a killed run finds the state of one epoch, and whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.engine.course import Course
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.failpoints import failpoint

_FORMAT = "pathotune-course-1"


@dataclass(frozen=True, slots=True)
class CourseFile:
    """Where a training keeps its state.

    Attributes:
        path: a safetensors file; its folder is made.
        key: says what is trained on what. No training of another key, or with another TrainSpec, goes on from it.
    """

    path: Path
    key: str = ""

    def save(self, course: Course, spec: TrainSpec) -> None:
        """Keep a course's state between two epochs, all or nothing, in place of an older one."""
        tensors, meta = course.state()
        flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        record = {
            "format": _FORMAT,
            "key": self.key,
            "spec": spec.model_dump_json(),
            "course": json.dumps(meta, allow_nan=False),
        }
        record["sha256"] = _digest(flat, record["course"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, save(flat, metadata=record))
        failpoint("course.saved")

    def load(self, course: Course, spec: TrainSpec) -> bool:
        """Let a new course go on from the kept state; whether there is one.

        Raises:
            UsageError: the state is of another training.
            CorruptDataError: the file is damaged.
        """
        if not self.path.exists():
            return False
        try:
            with safe_open(self.path, framework="pt") as file:
                record: dict[str, str] = file.metadata() or {}
            tensors = load_file(self.path)
        except (SafetensorError, OSError) as error:
            raise CorruptDataError(f"{self.path}: cannot be read ({error}). Remove it to begin anew.") from None
        if record.get("format") != _FORMAT or record.get("sha256") != _digest(tensors, record.get("course", "")):
            raise CorruptDataError(f"{self.path}: is not what a training left there. Remove it to begin anew.")
        if (record["key"], record["spec"]) != (self.key, spec.model_dump_json()):
            raise UsageError(
                f"{self.path}: was left by a training of other data or settings. Give those, or remove it to begin anew."
            )
        course.resume(tensors, json.loads(record["course"]))
        return True


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
