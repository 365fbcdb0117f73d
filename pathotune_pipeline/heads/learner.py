"""A head with its scale and its loss: what is trained, what comes out, and the settings of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import Bag, BagBatch
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.heads.head import HEADS, HeadOutput, MILHead
from pathotune_pipeline.heads.initialise import Initial
from pathotune_pipeline.heads.losses import classification_loss
from pathotune_pipeline.heads.streaming import CHUNK_ROWS, TileChunks
from pathotune_pipeline.heads.task import Task
from pathotune_pipeline.spec import Spec, setting


class HeadFitSpec(Spec):
    """Which head is trained, and how it departs from its published recipe."""

    head: str = setting(
        "abmil",
        "Head: mean, max, abmil, abmil-ungated, clam-sb, clam-mb, transmil, dsmil, dtfd, transformer, or a plug-in's.",
    )
    settings: dict[str, Any] = setting({}, "The head's own settings, where not its defaults.")
    train: dict[str, Any] = setting({}, "Settings of the training, where not the head's preset.")
    batch_bags: int | None = setting(None, "Bags in a batch; empty takes the head's own: one as published.", ge=1)
    batch_tiles: int | None = setting(
        None,
        "Tiles in a batch at most; a longer bag is a batch of its own. With batch_bags empty, as many bags as fit.",
        ge=1,
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none", "Weight of each class in the loss: none, or inverse to its frequency in the training part."
    )
    standardise: bool = setting(True, "Bring each feature to mean 0 and deviation 1, measured on the training part.")
    init_from: str | None = setting(
        None,
        "Begin with the weights of a trained head's folder, or with a file of its authors' weights. "
        "The scale of the features comes with them.",
    )
    device: str = setting("auto", "Device: auto, cpu, cuda, cuda:<number> or mps.", hashed=False)
    gpu_memory_gb: float | None = setting(
        None,
        "GB of features that a GPU may hold; empty: as its memory allows. Others go to it one bag at a time.",
        hashed=False,
        gt=0,
    )

    def train_spec(self, *, seed: int | None = None) -> TrainSpec:
        """The head's preset with this Spec's changes, and the seed where one is given.

        Raises:
            UnknownNameError: no such head.
            SpecError: a changed setting has no such name or value.
        """
        values = {**HEADS.get(self.head).preset.model_dump(), **self.train}
        if seed is not None:
            values["seed"] = seed
        return TrainSpec.parse(values, where="train")


class HeadModel(nn.Module):
    """A head behind the standardisation of its features."""

    mean: Tensor
    std: Tensor

    def __init__(self, head: MILHead) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("mean", torch.zeros(head.in_dim))
        self.register_buffer("std", torch.ones(head.in_dim))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.mean.dtype

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits and attention of bags with features as the encoder gave them."""
        return self.head(self.prepared(batch))

    def prepared(self, batch: BagBatch) -> BagBatch:
        """The batch as the head takes it: with the scale, or brought to scale."""
        scaled = replace(batch, scale=(self.mean, self.std))
        return scaled if self.head.applies_scale else scaled.scaled()

    @torch.no_grad()
    def read(self, bag: BagBatch) -> HeadOutput:
        """What `forward` gives for one bag, from all of its tiles; a long one goes through in chunks.

        Args:
            bag: a batch of one, with features as stored; it may lie elsewhere than the model.
        """
        self.head.check(bag)
        tiles = TileChunks(replace(bag, scale=(self.mean, self.std)), self.mean.device, self.dtype)
        return self.head.stream(tiles) if len(tiles) > CHUNK_ROWS else self(bag.to(self.mean.device))


class HeadLearner(nn.Module):
    """A HeadModel and its loss, as `engine.fit` wants them."""

    def __init__(self, model: HeadModel, class_weights: Tensor | None, task: Task | None = None) -> None:
        super().__init__()
        self.model = model
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.task = task

    def losses(self, batch: BagBatch) -> dict[str, Tensor]:
        """The head's own: {"bag": the task's loss}, and what else it trains on."""
        return self.model.head.losses(self.model.prepared(batch), self.criterion)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The task's loss, without the head's own ones."""
        if self.task:
            return self.task.loss(logits, targets)
        return classification_loss(logits, targets, class_weights=self.class_weights)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedHead:
    """A head that has learnt, with all that is needed to use it elsewhere.

    Attributes:
        model: in evaluation mode, with the best epoch's weights.
        spec: how it was trained.
        classes: names in the order of the logits.
        feature_set: name or fingerprint of the features it takes, or empty.
        history: one record for each epoch.
        best_epoch: from 0.
        initial: what it began with, where that was not chance.
        task: what the logits mean, where they are not those of one class for each slide.
        last: the same with the weights after the last epoch, where those are others.
    """

    model: HeadModel
    spec: HeadFitSpec
    classes: tuple[str, ...]
    feature_set: str = ""
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int = 0
    initial: Initial | None = None
    task: Task | None = None
    last: TrainedHead | None = None


def class_index(bag: Bag, classes: Sequence[str]) -> int:
    """The index of a bag's class; an integer target is an index already.

    Raises:
        UsageError: it has none, or one that is not among the classes.
    """
    target = bag.target
    if isinstance(target, str) and target in classes:
        return list(classes).index(target)
    if isinstance(target, int | np.integer) and 0 <= target < len(classes):
        return int(target)
    raise UsageError(f"bag {bag.bag_id}: its target is {target!r}; the classes are {', '.join(classes)}.")
