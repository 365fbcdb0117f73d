"""Train a head on bags, and use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pathotune_pipeline.bags.bag import Bag, BagBatch
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.heads.fit_many import FitJob, fit_many
from pathotune_pipeline.heads.learner import HeadFitSpec, TrainedHead
from pathotune_pipeline.heads.task import Task


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
    CPU the same seed, bags and number of threads give the same weights bit for bit. `fit_many` trains several at once.

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
    job = FitJob(
        spec=spec or HeadFitSpec(),
        train=range(len(train_bags)),
        val=range(len(train_bags), len(train_bags) + len(val_bags)),
        classes=tuple(classes),
        task=task,
    )
    told = None if on_epoch is None else lambda _, record: on_epoch(record)
    (outcome,) = fit_many([*train_bags, *val_bags], [job], feature_set=feature_set, on_epoch=told)
    return outcome.head()


@torch.no_grad()
def predict(trained: TrainedHead, bags: Sequence[Bag]) -> Prediction:
    """Probabilities and attention of bags, each from all of its tiles and by itself, in bounded memory.

    Args:
        trained: stays in evaluation mode.
        bags: of the features that the head was trained on.

    Raises:
        UsageError: a bag is empty, or of another dimension.
    """
    model = trained.model.eval()
    probs, attention = [], []
    for bag in bags:
        output = model.read(BagBatch.of_bag(bag))
        probs.append(
            trained.task.read(output.logits)[0] if trained.task else output.probabilities()[0].double().cpu().numpy()
        )
        if output.attention is not None:
            attention.append(output.attention[0].float().cpu().numpy())
    stacked = np.stack(probs) if probs else np.zeros((0, len(trained.classes)))
    return Prediction(stacked, attention if len(attention) == len(probs) and probs else None)
