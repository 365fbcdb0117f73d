"""The models of all seeds and folds of a study, trained in one pass over its bags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.heads.fit_many import FitOutcome, fit_many
from pathotune_pipeline.heads.learner import HeadFitSpec, TrainedHead
from pathotune_pipeline.heads.task import Task
from pathotune_pipeline.heads.trainee import FitJob


def train_folds(
    bags: Mapping[str, Bag],
    parts: Sequence[tuple[int, Fold]],
    specs: Sequence[HeadFitSpec],
    *,
    classes: tuple[str, ...] = (),
    tasks: Sequence[Task] = (),
    feature_set: str = "",
    on_trained: Callable[[int, int, TrainedHead], None] | None = None,
) -> list[TrainedHead]:
    """Train a model for each seed and fold, on its training part, its epoch chosen on its validation part.

    Args:
        bags: by id.
        parts: seeds and folds.
        specs: of each of them.
        classes: of all, where a slide has one class.
        tasks: of each of them, instead of classes.
        feature_set: recorded with the heads.
        on_trained: told how many models are done, the place of the last one among the parts, and that one.

    Raises:
        PathotuneError: a model could not be trained; the message says which.
    """
    places = {name: place for place, name in enumerate(bags)}
    jobs = [
        FitJob(
            spec,
            [places[name] for name in fold.train],
            [places[name] for name in fold.val],
            classes=classes,
            task=tasks[number] if tasks else None,
            name=f"seed {seed}, fold {fold.index}",
        )
        for number, ((seed, fold), spec) in enumerate(zip(parts, specs, strict=True))
    ]
    number_of = {job.name: number for number, job in enumerate(jobs)}
    done = 0

    def told(outcome: FitOutcome) -> None:
        nonlocal done
        done += 1
        if on_trained and outcome.trained:
            on_trained(done, number_of[outcome.job.name], outcome.trained)

    outcomes = fit_many(list(bags.values()), jobs, feature_set=feature_set, on_trained=told)
    return [outcome.head() for outcome in outcomes]
