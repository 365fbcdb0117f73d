"""Train many heads in one pass over the bags: all folds, seeds and heads of a study at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from pathotune_pipeline.bags.bag import Bag, BagBatch, check_alike
from pathotune_pipeline.bags.placement import PlacedBags
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.engine.device import cpu_threads, pick_device
from pathotune_pipeline.errors import PathotuneError, UsageError
from pathotune_pipeline.heads.learner import TrainedHead
from pathotune_pipeline.heads.moments import Moments, measure
from pathotune_pipeline.heads.trainee import FitJob, Trainee


@dataclass(frozen=True, slots=True)
class FitOutcome:
    """What came of a job.

    Attributes:
        job: that was asked for.
        trained: the head, or None.
        error: why there is none.
    """

    job: FitJob
    trained: TrainedHead | None = None
    error: PathotuneError | None = None

    def head(self) -> TrainedHead:
        """The trained head.

        Raises:
            PathotuneError: there is none; of the kind that stopped the training, with the job's name.
        """
        if self.trained is not None:
            return self.trained
        error = self.error or PathotuneError(f"{self.job.name}: was not trained.")
        raise error


def fit_many(
    bags: Sequence[Bag],
    jobs: Sequence[FitJob],
    *,
    feature_set: str = "",
    on_epoch: Callable[[FitJob, EpochRecord], None] | None = None,
    on_trained: Callable[[FitOutcome], None] | None = None,
) -> list[FitOutcome]:
    """Train a head for each job; each epoch goes through the bags once, whatever the number of jobs.

    Each model has its own weights, random state, optimiser, scale of the features, class weights and early stop, and
    gets its own batches, so it learns what it would learn alone: on a CPU bit for bit. Bags come in an order that
    hangs on their ids and the epoch alone, so models see those that they share in the same order, whatever their seed.
    A job that fails leaves the others alone.

    Args:
        bags: of all jobs, with targets as each job's classes or task take them.
        jobs: that are trained on the same device.
        feature_set: recorded with the heads.
        on_epoch: told of each job's epochs.
        on_trained: told of each job when it is done.

    Returns:
        What came of each job, in their order.

    Raises:
        UsageError: a bag is empty, dimensions differ, features are not finite, or jobs ask for several devices.
    """
    if not jobs:
        return []
    devices = {job.spec.device for job in jobs}
    if len(devices) > 1:
        raise UsageError(f"Heads that are trained together share a device; found {', '.join(sorted(devices))}.")
    check_alike(bags)
    device = pick_device(devices.pop())
    limits = [job.spec.gpu_memory_gb for job in jobs if job.spec.gpu_memory_gb is not None]
    placed = PlacedBags(bags, device, limit_gb=min(limits, default=None))
    outcomes: list[FitOutcome | None] = [None] * len(jobs)

    def settle(place: int, outcome: FitOutcome) -> None:
        if outcome.error and outcome.job.name:
            outcome.error.args = (f"{outcome.job.name}: {outcome.error}",)
        outcomes[place] = outcome
        if on_trained:
            on_trained(outcome)

    wanted = sorted({place for job in jobs for place in (*job.train, *job.val)})
    with cpu_threads(1):  # sums of few rows: sharing them out costs more than it saves, and much more on a busy machine
        moments: dict[int, Moments] = {
            place: measure(one.features, bags[place].bag_id) for place, one in placed.walk(wanted)
        }
    running: dict[int, Trainee] = {}
    for place, job in enumerate(jobs):
        try:
            running[place] = Trainee(job, bags, moments, device)
        except PathotuneError as error:
            settle(place, FitOutcome(job, error=error))
    epoch = 0
    while running:
        _train_epoch(running, placed, _order(bags, epoch))
        _validate(running, placed)
        for place, trainee in list(running.items()):
            record = trainee.end_epoch()
            if record and on_epoch:
                on_epoch(jobs[place], record)
            if trainee.error:
                settle(place, FitOutcome(jobs[place], error=trainee.error))
            elif trainee.done:
                settle(place, FitOutcome(jobs[place], trainee.trained(placed, feature_set)))
            else:
                continue
            del running[place]
        epoch += 1
    return [outcome for outcome in outcomes if outcome is not None]


def _train_epoch(running: dict[int, Trainee], placed: PlacedBags, order: Sequence[int]) -> None:
    takers = _takers({place: trainee.job.train for place, trainee in running.items()}, running)
    packs = _Packs()
    for trainee in running.values():
        trainee.begin_epoch()
    for place, one in placed.walk([place for place in order if place in takers]):
        for trainee in takers[place]:
            trainee.take(place, one, packs.packed)
    for trainee in running.values():
        trainee.flush(packs.packed)


def _validate(running: dict[int, Trainee], placed: PlacedBags) -> None:
    takers = _takers({place: trainee.job.val for place, trainee in running.items() if not trainee.error}, running)
    for place, one in placed.walk(sorted(takers)):
        for trainee in takers[place]:
            trainee.judge(place, one)


def _takers(parts: dict[int, Sequence[int]], running: dict[int, Trainee]) -> dict[int, list[Trainee]]:
    """For each bag's place, the models that want it."""
    found: dict[int, list[Trainee]] = {}
    for job, places in parts.items():
        for place in places:
            found.setdefault(place, []).append(running[job])
    return found


def _order(bags: Sequence[Bag], epoch: int) -> list[int]:
    """All bags as if shuffled: the place of one hangs on its id and the epoch, and not on which others there are."""
    keys = [blake2b(f"{epoch}/{bag.bag_id}".encode(), digest_size=8).digest() for bag in bags]
    return sorted(range(len(bags)), key=keys.__getitem__)


class _Packs:
    """The last batch that was packed: models of one fold want the same."""

    def __init__(self) -> None:
        self._names: tuple[int, ...] = ()
        self._batch: BagBatch | None = None

    def packed(self, parts: Iterable[tuple[int, BagBatch]]) -> BagBatch:
        """Bags as one batch, given with their places."""
        names, batches = zip(*parts, strict=True)
        if self._batch is None or names != self._names:
            self._names, self._batch = names, BagBatch.joined(batches)
        return self._batch
