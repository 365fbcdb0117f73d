"""Trainee: one head on its way through `fit_many`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.bags.bag import Bag, BagBatch, target_tensor
from pathotune_pipeline.bags.placement import PlacedBags
from pathotune_pipeline.engine.course import Course, EpochRecord, seeded
from pathotune_pipeline.errors import PathotuneError, UsageError
from pathotune_pipeline.heads.head import HEADS, create_head
from pathotune_pipeline.heads.initialise import Initial, initialise
from pathotune_pipeline.heads.learner import HeadFitSpec, HeadLearner, HeadModel, TrainedHead, class_index
from pathotune_pipeline.heads.losses import balanced_weights
from pathotune_pipeline.heads.moments import Moments, joined
from pathotune_pipeline.heads.task import Task

Pack = Callable[[Sequence[tuple[int, BagBatch]]], BagBatch]


@dataclass(frozen=True, slots=True)
class FitJob:
    """One head to be trained.

    Attributes:
        spec: head, its settings, training; the seed is `train["seed"]`.
        train: places of its training bags.
        val: places of the bags that choose the epoch; may be empty, and then the last epoch counts.
        classes: names in the order of the logits, at least two, where a slide has one class.
        task: any other target, or several; instead of `classes`.
        name: for messages.
    """

    spec: HeadFitSpec
    train: Sequence[int]
    val: Sequence[int] = ()
    classes: tuple[str, ...] = ()
    task: Task | None = None
    name: str = ""


class Trainee:
    """A job's model, its batches, and how far it has come.

    Attributes:
        job: what is to be trained.
        error: what stopped it, or None.
    """

    def __init__(self, job: FitJob, bags: Sequence[Bag], moments: Mapping[int, Moments], device: torch.device) -> None:
        """Make the model.

        Args:
            job: what is to be trained.
            bags: of all jobs.
            moments: of the job's bags, by their places.
            device: where it is trained.

        Raises:
            UsageError: no training bags, fewer than two classes, a batch too small for the task, `init_from` with a
                task, or a bag without a target.
            ManifestError: a bag's target is not what the task expects.
            WeightsError: what is at `init_from` does not fit the head, or nothing is.
        """
        spec, task = job.spec, job.task
        self.job = job
        self.error: PathotuneError | None = None
        self._train_spec = spec.train_spec()
        if not job.train:
            raise UsageError("A head needs bags to train on; none was given.")
        if task is None and len(job.classes) < 2:
            raise UsageError(f"A head is trained on two classes or more; found {list(job.classes)}.")
        if spec.init_from and task:
            raise UsageError("--init-from begins heads of one class a slide only. Leave it out for such targets.")
        self._most_bags, self._most_tiles = batch_size(spec, task)
        self._targets: dict[int, int | np.ndarray] = {
            place: task.encode(bags[place]) if task else class_index(bags[place], job.classes)
            for place in (*job.train, *job.val)
        }
        learner, self._initial = _learner(job, bags, moments, self._targets)
        self._learner = learner.to(device)
        self._device = device
        self._course = Course(self._learner, self._train_spec)
        self._waiting: list[tuple[int, BagBatch]] = []
        self._judged: dict[int, Tensor] = {}

    @property
    def done(self) -> bool:
        """Whether it has learnt all it will."""
        return self._course.done

    def begin_epoch(self) -> None:
        """To be called before an epoch's bags."""
        self._course.begin_epoch()
        self._judged = {}

    def take(self, place: int, one: BagBatch, pack: Pack) -> None:
        """One training bag; a full batch is learnt from at once."""
        waiting = sum(len(each.features) for _, each in self._waiting)
        if self._most_tiles and self._waiting and waiting + len(one.features) > self._most_tiles:
            self.flush(pack)
        self._waiting.append((place, one))
        if len(self._waiting) == self._most_bags:
            self.flush(pack)

    def flush(self, pack: Pack) -> None:
        """Learn from the bags that wait."""
        parts, self._waiting = self._waiting, []
        if not parts or self.error:
            return
        targets = self._targets_of([place for place, _ in parts])
        try:
            with self._course.random():
                self._course.step(replace(pack(parts), targets=targets))
        except PathotuneError as error:
            self.error = error

    def judge(self, place: int, one: BagBatch) -> None:
        """One validation bag."""
        self._learner.eval()
        self._judged[place] = self._learner.model.read(one).logits

    def end_epoch(self) -> EpochRecord | None:
        """What the epoch gave; None where training stopped with an error."""
        if self.error is None:
            try:
                return self._course.end_epoch(self._validation_loss if self.job.val else None)
            except PathotuneError as error:
                self.error = error
        return None

    def trained(self, placed: PlacedBags, feature_set: str) -> TrainedHead:
        """The head with the best epoch's weights."""
        result, last = self._course.result(), None
        if result.best_epoch < len(result.history) - 1:
            last = self._head(result.last_state, len(result.history) - 1, placed, feature_set)
            last = replace(last, history=result.history, model=copy.deepcopy(last.model))
        head = self._head(result.best_state, result.best_epoch, placed, feature_set)
        return replace(head, history=result.history, last=last)

    def _head(self, state: dict[str, Tensor], epoch: int, placed: PlacedBags, feature_set: str) -> TrainedHead:
        task, model = self.job.task, self._learner.model
        self._learner.load_state_dict(state)
        model.eval()
        if task and task.has_baselines:
            said = {place: model.read(one).logits for place, one in placed.walk(self.job.train)}
            logits = torch.cat([said[place] for place in self.job.train])
            task = task.with_baselines(logits, self._targets_of(self.job.train))
        spec = self.job.spec.with_values(train={**self.job.spec.train, "seed": self._train_spec.seed})
        classes = tuple(self.job.classes)
        return TrainedHead(model, spec, classes, feature_set, best_epoch=epoch, initial=self._initial, task=task)

    def _validation_loss(self) -> float:
        # Of all bags at once: some losses hold bags against each other, and labels may lack.
        logits = torch.cat([self._judged[place] for place in self.job.val])
        return float(self._learner.criterion(logits, self._targets_of(self.job.val)))

    def _targets_of(self, places: Sequence[int]) -> Tensor:
        return target_tensor([self._targets[place] for place in places]).to(self._device)


def batch_size(spec: HeadFitSpec, task: Task | None) -> tuple[int | None, int | None]:
    """Bags and tiles in a batch at most: those asked for, those the task needs, or the head's own.

    Raises:
        UsageError: the task needs more than one bag.
    """
    needed = task.preset_batch if task else None
    if needed and spec.batch_bags == 1:
        raise UsageError(f"A Cox model holds the bags of a batch against each other; batch_bags is 1. Try {needed}.")
    if spec.batch_bags or spec.batch_tiles:
        return spec.batch_bags, spec.batch_tiles
    return needed or HEADS.get(spec.head).preset_batch, None


def _learner(
    job: FitJob, bags: Sequence[Bag], moments: Mapping[int, Moments], targets: Mapping[int, int | np.ndarray]
) -> tuple[HeadLearner, Initial | None]:
    spec, task = job.spec, job.task
    features = bags[job.train[0]].features
    with seeded(spec.train_spec().seed):
        head = create_head(
            spec.head,
            in_dim=bags[job.train[0]].dim,
            n_classes=task.outputs if task else len(job.classes),
            **spec.settings,
        )
    model = HeadModel(head)
    mean, std = joined(moments[place] for place in job.train).scale()
    initial = None
    if spec.init_from:
        initial, mean, std = initialise(head, Path(spec.init_from), name=spec.head, classes=job.classes)
    if features.dtype in (np.float64, torch.float64):
        model.double()
    if spec.standardise or initial:
        model.mean.copy_(mean)
        model.std.copy_(std)
    weights = None
    if spec.class_weights == "balanced" and task is None:
        weights = balanced_weights(torch.tensor([targets[place] for place in job.train]), len(job.classes))
    return HeadLearner(model, weights, task), initial
