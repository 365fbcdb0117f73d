"""A trained head on disk: `head.safetensors` (weights, mean and deviation of the features) and `head.json`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pathotune_pipeline.engine.checkpoint import save_checkpoint
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.heads.files import FORMAT, REVISION, REVISION_WITH_TASK, read_head_files
from pathotune_pipeline.heads.head import create_head
from pathotune_pipeline.heads.initialise import Initial
from pathotune_pipeline.heads.learner import HeadFitSpec, HeadModel, TrainedHead
from pathotune_pipeline.heads.task import Task
from pathotune_pipeline.provenance import now, package_versions


def save_head(folder: Path, trained: TrainedHead) -> None:
    """Write a trained head into a folder, which is made. Holds no slide's name."""
    record = {
        "format": FORMAT,
        "revision": REVISION_WITH_TASK if trained.task else REVISION,
        "spec": trained.spec.model_dump(mode="json"),
        "in_dim": trained.model.head.in_dim,
        "classes": list(trained.classes),
        "feature_set": trained.feature_set,
        "best_epoch": trained.best_epoch,
        "history": [asdict(epoch) for epoch in trained.history],
        "initial": trained.initial.record() if trained.initial else None,
        "versions": package_versions(),
        "written": now(),
    }
    if trained.task:
        record["task"] = trained.task.record()
    save_checkpoint(folder / "head", trained.model.state_dict(), record)


def load_head(folder: Path, *, device: str = "cpu") -> TrainedHead:
    """Read a trained head, ready for `predict`.

    Raises:
        FileNotFoundError: there is none in the folder.
        CorruptDataError: it cannot be read, or is of a format this version does not know.
        UnknownNameError: its head came from a plug-in that is not installed.
    """
    state, record = read_head_files(folder)
    spec = HeadFitSpec.parse(record["spec"], where=str(folder / "head.json"))
    classes: list[Any] = record["classes"]
    task = Task.of_record(record["task"]) if "task" in record else None
    outputs = task.outputs if task else len(classes)
    with torch.random.fork_rng(devices=[]):
        head = create_head(spec.head, in_dim=record["in_dim"], n_classes=outputs, **spec.settings)
    model = HeadModel(head)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CorruptDataError(f"{folder}: the weights do not fit the head they name. {error}") from error
    model.to(pick_device(device)).eval()
    history = tuple(EpochRecord(**epoch) for epoch in record["history"])
    initial = Initial.of_record(record["initial"]) if record.get("initial") else None
    return TrainedHead(
        model, spec, tuple(classes), record["feature_set"], history, record["best_epoch"], initial=initial, task=task
    )
