"""Train a head on bags, and use it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import Bag, BagBatch, as_floats, collate
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.engine.loop import EpochRecord, FitResult, fit, seeded
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.heads.head import HEADS, HeadOutput, MILHead, create_head, targets_of
from pathotune_pipeline.heads.initialise import Initial, initialise
from pathotune_pipeline.heads.losses import balanced_weights, classification_loss
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

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits and attention of bags with features as the encoder gave them."""
        return self.head(self.scaled(batch))

    def scaled(self, batch: BagBatch) -> BagBatch:
        """The batch as the head takes it."""
        return replace(batch, features=(batch.features - self.mean) / self.std)  # [sum of N, D]


class HeadLearner(nn.Module):
    """A HeadModel and its loss, as `engine.fit` wants them."""

    def __init__(self, model: HeadModel, class_weights: Tensor | None, task: Task | None = None) -> None:
        super().__init__()
        self.model = model
        self.class_weights = class_weights
        self.task = task

    def losses(self, batch: BagBatch) -> dict[str, Tensor]:
        """The head's own: {"bag": the task's loss}, and what else it trains on."""
        return self.model.head.losses(self.model.scaled(batch), self.criterion)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The task's loss, without the head's own ones."""
        if self.task:
            return self.task.loss(logits, targets)
        return classification_loss(logits, targets, class_weights=self.class_weights)

    def validation_loss(self, batch: BagBatch) -> Tensor:
        """The task's loss on what the head answers; this chooses the epoch."""
        return self.criterion(self.model(batch).logits, targets_of(batch))


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


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a head says of bags.

    Attributes:
        probs: [B, C] float64; for another task what `Task.read` says.
        attention: for each bag [N_b] float32, or None where the head has none.
    """

    probs: np.ndarray
    attention: list[np.ndarray] | None


def fit_head(
    train_bags: Sequence[Bag],
    val_bags: Sequence[Bag],
    *,
    classes: Sequence[str] = (),
    task: Task | None = None,
    spec: HeadFitSpec | None = None,
    feature_set: str = "",
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainedHead:
    """Train a head, and keep the weights of the epoch with the lowest validation loss.

    Mean and deviation of the features come from the training bags alone, or with the weights of `init_from`. On a
    CPU the same seed, bags and number of threads give the same weights bit for bit.

    Args:
        train_bags: with targets, as names or indices of `classes`.
        val_bags: likewise; may be empty, and then the last epoch counts.
        classes: names in the order of the logits, at least two, where a slide has one class.
        task: any other target, or several; instead of `classes`.
        spec: head, its settings, training; the seed is `train["seed"]`.
        feature_set: recorded with the head.
        on_epoch: told of each epoch.

    Raises:
        UsageError: no training bags, fewer than two classes, a batch too small for the task, `init_from` with a task,
            or a bag without a target, without tiles, or with features that are not finite.
        ManifestError: a bag's target is not what the task expects.
        WeightsError: what is at `init_from` does not fit the head, or nothing is.
        PathotuneError: the loss is not finite.
    """
    spec = spec or HeadFitSpec()
    train_spec = spec.train_spec()
    if not train_bags:
        raise UsageError("A head needs bags to train on; none was given.")
    if task is None and len(classes) < 2:
        raise UsageError(f"A head is trained on two classes or more; found {list(classes)}.")
    device = pick_device(spec.device)
    size = batch_size(spec, task)
    targets: dict[str, int | np.ndarray] = {
        bag.bag_id: task.encode(bag) if task else class_index(bag, classes) for bag in [*train_bags, *val_bags]
    }
    with seeded(train_spec.seed):
        head = create_head(
            spec.head, in_dim=train_bags[0].dim, n_classes=task.outputs if task else len(classes), **spec.settings
        )
    model = HeadModel(head)
    mean, std = feature_scale(train_bags)
    initial = None
    if spec.init_from and task:
        raise UsageError("--init-from begins heads of one class a slide only. Leave it out for such targets.")
    if spec.init_from:
        initial, mean, std = initialise(head, Path(spec.init_from), name=spec.head, classes=classes)
    if spec.standardise or initial:
        model.mean.copy_(mean)
        model.std.copy_(std)
    weights = None
    if spec.class_weights == "balanced" and task is None:
        weights = balanced_weights(torch.tensor([targets[bag.bag_id] for bag in train_bags]), len(classes)).to(device)
    learner = HeadLearner(model, weights, task).to(device)

    def batches(epoch: int) -> Iterator[BagBatch]:
        order = np.random.default_rng([train_spec.seed, epoch]).permutation(len(train_bags))
        for start in range(0, len(order), size):
            bags = [train_bags[i] for i in order[start : start + size]]
            yield collate(bags, targets=[targets[bag.bag_id] for bag in bags]).to(device)

    def answers(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
        said = torch.cat([model(collate([bag]).to(device)).logits for bag in bags])
        return said, torch.tensor(np.stack([targets[bag.bag_id] for bag in bags]), dtype=torch.float32, device=device)

    def validation_loss() -> float:
        if task:  # of all bags at once: some losses hold bags against each other, and labels may lack
            return float(learner.criterion(*answers(val_bags)))
        one_by_one = (collate([bag], targets=[targets[bag.bag_id]]).to(device) for bag in val_bags)
        return float(torch.stack([learner.validation_loss(batch) for batch in one_by_one]).mean())

    result: FitResult = fit(
        learner, batches, train_spec, validate=validation_loss if val_bags else None, on_epoch=on_epoch
    )

    def finished(state: dict[str, Tensor], epoch: int) -> TrainedHead:
        learner.load_state_dict(state)
        model.eval()
        with torch.no_grad():
            known = task.with_baselines(*answers(train_bags)) if task else None
        return TrainedHead(
            model,
            spec.with_values(train={**spec.train, "seed": train_spec.seed}),
            tuple(classes),
            feature_set,
            result.history,
            epoch,
            initial=initial,
            task=known,
        )

    last = None
    if result.best_epoch < len(result.history) - 1:
        last = finished(result.last_state, len(result.history) - 1)
        last = replace(last, model=copy.deepcopy(last.model))
    return replace(finished(result.best_state, result.best_epoch), last=last)


def batch_size(spec: HeadFitSpec, task: Task | None) -> int:
    """Bags in a batch: those asked for, those the task needs, or the head's own.

    Raises:
        UsageError: the task needs more than one.
    """
    needed = task.preset_batch if task else None
    if needed and spec.batch_bags == 1:
        raise UsageError(f"A Cox model holds the bags of a batch against each other; batch_bags is 1. Try {needed}.")
    return spec.batch_bags or needed or HEADS.get(spec.head).preset_batch


@torch.no_grad()
def predict(trained: TrainedHead, bags: Sequence[Bag]) -> Prediction:
    """Probabilities and attention of bags, each from all of its tiles and by itself.

    Args:
        trained: stays in evaluation mode.
        bags: of the features that the head was trained on.

    Raises:
        UsageError: a bag is empty, or of another dimension.
    """
    model = trained.model.eval()
    device = model.mean.device
    probs, attention = [], []
    for bag in bags:
        output = model(collate([bag]).to(device))
        probs.append(
            trained.task.read(output.logits)[0] if trained.task else output.probabilities()[0].double().cpu().numpy()
        )
        if output.attention is not None:
            attention.append(output.attention[0].float().cpu().numpy())
    stacked = np.stack(probs) if probs else np.zeros((0, len(trained.classes)))
    return Prediction(stacked, attention if len(attention) == len(probs) and probs else None)


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


def feature_scale(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature over all instances of the bags, each [D] float32, summed in float64.

    A feature that does not vary gets deviation 1.

    Raises:
        UsageError: a feature is not finite; the message names the bag.
    """
    count, total = 0, torch.zeros(bags[0].dim, dtype=torch.float64)
    spread = torch.zeros_like(total)
    for bag in bags:
        # Two steps, each bag about its own mean, so that large offsets lose no digits (Chan et al. 1979).
        values = as_floats(bag.features).double()  # [N, D]
        if not bool(values.isfinite().all()):
            raise UsageError(f"bag {bag.bag_id} has features that are not finite. Extract it again, or leave it out.")
        n, own = len(values), values.mean(dim=0)
        shift = own - total
        spread += (values - own).square().sum(dim=0) + shift.square() * (count * n / (count + n))
        total += shift * (n / (count + n))
        count += n
    std = (spread / count).sqrt()
    flat = std <= 1e-6 * total.abs().clamp(min=1e-6)
    return total.float(), torch.where(flat, 1.0, std).float()
