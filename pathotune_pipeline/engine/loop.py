"""The training loop. One for heads, probes, prompts and students: the model says what its losses are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

from pathotune_pipeline.engine.course import Course, EpochRecord, FitResult, Learner
from pathotune_pipeline.engine.optimizer import ParameterGroup
from pathotune_pipeline.engine.resume import CourseFile
from pathotune_pipeline.engine.spec import TrainSpec

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]
"""Batches that can be gone through once an epoch, or a function from the epoch's number to such batches."""


def fit(
    model: Learner,
    batches: Batches,
    spec: TrainSpec,
    *,
    validate: Callable[[], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    groups: Sequence[ParameterGroup] | None = None,
    kept: CourseFile | None = None,
) -> FitResult:
    """Train a model; the same seed, data and machine give the same weights bit for bit on a CPU.

    The random state of the process is left as it was. The model keeps the last weights; load `best_state` for the
    best ones. At an epoch's end, batches left over from accumulation make a step of their own.

    Args:
        model: changed in place; lies on its device, as the batches do.
        batches: gone through once an epoch, in their own order.
        spec: optimiser, schedule, stopping rule, seed.
        validate: called after each epoch in evaluation mode without gradients; lower is better.
        on_epoch: told of each epoch.
        groups: of the trained parameters, with learning rates of their own.
        kept: where the state is kept after every epoch. What lies there already is gone on from; where batches hang on
            the epoch alone, that gives the weights of a run without the interruption.

    Raises:
        UsageError: there are no batches or nothing to train, or what is kept is of another training.
        CorruptDataError: what is kept is damaged.
        PathotuneError: a loss or the validation value is not finite.
    """
    course = Course(model, spec, groups=groups)
    if kept is not None:
        kept.load(course, spec)
    while not course.done:
        with course.random():
            source = batches(course.epoch) if callable(batches) else batches
            course.begin_epoch(batches=len(source) if isinstance(source, Sized) else None)
            for batch in source:
                course.step(batch)
            record = course.end_epoch(validate)
        if kept is not None:
            kept.save(course, spec)
        if on_epoch:
            on_epoch(record)
    return course.result()
