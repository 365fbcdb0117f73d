"""eva's protocol: how long a head is trained, when it stops, and which of its epochs counts.

Source of the rules: eva (kaiko-ai/eva, Apache-2.0): AdamW, a fixed number of steps whatever the data, early stopping after
a fifth of the epochs on validation balanced accuracy, best epoch kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.engine.course import FitResult, seeded
from pathotune_pipeline.engine.loop import fit
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.tuning.run.choice import validation_value
from pathotune_pipeline.tuning.studies.cell import Predict
from pathotune_pipeline.tuning.studies.eva_heads import ClassHead
from pathotune_pipeline.tuning.studies.spec import ProtocolSpec

Kind = Literal["patch", "slide"]
PATIENCE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol's numbers for one kind of data.

    Attributes:
        batch: items in a batch.
        lr: of AdamW.
        max_epochs: None for as many as the steps allow.
        patience: epochs; None for a fifth of all.
        runs: that differ in seed.
    """

    batch: int
    lr: float
    max_epochs: int | None
    patience: int | None
    runs: int


_RULES = {"patch": Rules(256, 3e-4, None, None, 5), "slide": Rules(32, 1e-3, 100, 20, 20)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long one run trains.

    Attributes:
        steps: optimiser steps at most.
        steps_per_epoch: of a whole epoch.
        epochs: the last of them may be cut short by `steps`.
        patience: epochs without a better validation.
    """

    steps: int
    steps_per_epoch: int
    epochs: int
    patience: int

    def steps_of(self, epoch: int) -> int:
        """Optimiser steps of an epoch, from 0."""
        return min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What a head learns from.

    Attributes:
        take: places [n] int64 to what the head takes.
        targets: [N] int64 of all items.
        train: places to learn from.
        val: places that choose the epoch.
        predict_batch: items in a batch where nothing is learnt.
    """

    take: Callable[[np.ndarray], Any]
    targets: np.ndarray
    train: np.ndarray
    val: np.ndarray
    predict_batch: int


def rules_for(kind: Kind, spec: ProtocolSpec) -> Rules:
    """The protocol's numbers for images or slides, with what the settings say over them."""
    usual = _RULES[kind]
    return Rules(
        batch=spec.batch or usual.batch,
        lr=spec.lr or usual.lr,
        max_epochs=spec.max_epochs or usual.max_epochs,
        patience=spec.patience or usual.patience,
        runs=spec.runs or usual.runs,
    )


def schedule_for(items: int, rules: Rules, *, steps: int) -> Schedule:
    """How long a run trains on so many items.

    Args:
        items: to train on, at least 1.
        rules: batch, most epochs, patience.
        steps: optimiser steps at most.
    """
    steps_per_epoch = math.ceil(items / rules.batch)
    whole = steps / steps_per_epoch if rules.max_epochs is None else min(steps / steps_per_epoch, rules.max_epochs)
    patience = rules.patience or math.ceil(PATIENCE_SHARE * whole - 1e-9)
    return Schedule(min(steps, math.ceil(whole) * steps_per_epoch), steps_per_epoch, math.ceil(whole), patience)


def fit_head(
    make: Callable[[], ClassHead], samples: Samples, rules: Rules, *, spec: ProtocolSpec, seed: int
) -> tuple[Predict, FitResult]:
    """Train one run's head. The same seed and samples give the same head bit for bit on a CPU.

    Args:
        make: a new head, with random weights.
        samples: to learn from and to choose with.
        rules: of the kind of data.
        spec: steps and weight decay.
        seed: of weights and batches.

    Returns:
        What gives any items' class probabilities, [n, C] float64, by the best epoch; and the training's course.
    """
    schedule = schedule_for(len(samples.train), rules, steps=spec.steps)
    with seeded(seed):
        head = make()

    def batches(epoch: int) -> Iterator[tuple[Any, Tensor]]:
        order = torch.randperm(len(samples.train)).numpy()  # of the course's own random state
        for step in range(schedule.steps_of(epoch)):
            own = samples.train[order[step * rules.batch : (step + 1) * rules.batch]]
            yield samples.take(own), torch.from_numpy(samples.targets[own])

    def predict(index: np.ndarray) -> np.ndarray:
        parts = [index[at : at + samples.predict_batch] for at in range(0, len(index), samples.predict_batch)]
        return np.concatenate([head.probabilities(samples.take(part)).numpy() for part in parts])

    result = fit(
        head,
        batches,
        TrainSpec(
            epochs=schedule.epochs,
            lr=rules.lr,
            weight_decay=spec.weight_decay,
            optimizer="adamw",
            patience=schedule.patience,
            seed=seed,
        ),
        validate=lambda: validation_value(predict(samples.val), samples.targets[samples.val], "balanced_accuracy"),
    )
    head.load_state_dict(result.best_state)
    head.eval()
    return predict, result
