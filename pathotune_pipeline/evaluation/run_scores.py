"""Scores of several models' class probabilities as one number each: the mean over the models, how much they vary, and
an interval from resampled groups of what was judged.

Models may have judged the same images (seeds), others each (folds), or both. In every draw a group counts as often
for each model that judged it, so that what models share is shared in the interval too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.intervals import Weighted, patient_draws, percentile_interval
from pathotune_pipeline.evaluation.metrics.agreement import weighted_cohen_kappa, weighted_support_f1
from pathotune_pipeline.evaluation.metrics.classification import weighted_auroc, weighted_balanced_accuracy
from pathotune_pipeline.evaluation.metrics.score import mean_of_defined, once

SCORES = ("balanced_accuracy", "auroc", "kappa", "weighted_f1")
"""Of each model, in the order in which they are shown."""
Unit = Literal["group", "image", "group or image"]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedRun:
    """What one model said of the images that it was tested on.

    Attributes:
        names: N ids of images, each once.
        targets: [N] int64 class indices.
        groups: N slides or patients; "" where it is not known, and then the image stands for itself.
        probs: [N, C] float.
    """

    names: tuple[str, ...]
    targets: np.ndarray
    groups: tuple[str, ...]
    probs: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.targets), len(self.groups), len(self.probs)}
        if len(lengths) > 1 or len(set(self.names)) != len(self.names):
            raise UsageError(
                f"A judged run needs one name, target, group and row of probabilities an image, and each image once; "
                f"found {len(set(self.names))} names, {len(self.targets)} targets, {len(self.groups)} groups, "
                f"{len(self.probs)} rows."
            )

    @property
    def unit(self) -> Unit:
        """What is resampled for its intervals."""
        known = sum(1 for group in self.groups if group)
        if known == len(self.groups) and known:
            return "group"
        return "group or image" if known else "image"

    def scores(self) -> dict[str, float | None]:
        """Each of SCORES with every image once; None where it is not defined, as where a class does not occur."""
        values = {name: float(score(once(len(self.names)))[0]) for name, score in self.weighted().items()}
        return {name: value if np.isfinite(value) else None for name, value in values.items()}

    def weighted(self) -> dict[str, Weighted]:
        """Each of SCORES as a function of how often images count."""
        functions = (weighted_balanced_accuracy, weighted_auroc, weighted_cohen_kappa, weighted_support_f1)
        return {name: partial(each, self.targets, self.probs) for name, each in zip(SCORES, functions, strict=True)}


@dataclass(frozen=True, slots=True)
class RunScore:
    """One score of several models.

    Attributes:
        mean: over the models in which it is defined; None where it is in none.
        std: between those models, with n - 1; None of fewer than two.
        low: lower end of the interval of the mean; None where there is none.
        high: upper end.
        level: share of the draws between them.
        runs: models in which it is defined.
        images: that were judged, each counted once.
        groups: slides or patients that were resampled, or images that stand for themselves.
        unit: what was resampled.
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    level: float
    runs: int
    images: int
    groups: int
    unit: Unit


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher models score than others on the same images.

    Attributes:
        mean: over the pairs in which both are defined; None where there is none.
        low: lower end of the interval of the mean; None where there is none.
        high: upper end.
        level: share of the draws between them.
        pairs: in which both are defined.
    """

    mean: float | None
    low: float | None
    high: float | None
    level: float
    pairs: int


def score_runs(
    runs: Sequence[JudgedRun], *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, RunScore]:
    """Each of SCORES over several models.

    Groups are drawn with replacement among those with the same classes that were judged by the same models.

    Args:
        runs: of the same classes. An image has the same target and group in each.
        draws: of the bootstrap, at least 1000.
        seed: of the draws.
        level: share of the draws inside.

    Raises:
        UsageError: no runs, too few draws, or runs that contradict each other.
    """
    drawn, counts = _drawn(runs, draws=draws, seed=seed)
    units = {run.unit for run in runs}
    unit: Unit = units.pop() if len(units) == 1 else "group or image"
    told = [run.scores() for run in runs]
    found = {}
    for name in SCORES:
        known = [value for each in told if (value := each[name]) is not None]
        interval = percentile_interval(mean_of_defined(drawn[name]), level=level) if known else None
        found[name] = RunScore(
            mean=float(np.mean(known)) if known else None,
            std=float(np.std(known, ddof=1)) if len(known) > 1 else None,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            level=level,
            runs=len(known),
            images=counts[0],
            groups=counts[1],
            unit=unit,
        )
    return found


def compare_runs(
    pairs: Sequence[tuple[JudgedRun, JudgedRun]], *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Difference]:
    """How much higher the first of each pair scores than the second, over all pairs; both see the same draws.

    Args:
        pairs: two models each that judged the same images, such as two methods of one fold and seed.
        draws: of the bootstrap, at least 1000.
        seed: of the draws.
        level: share of the draws inside.

    Raises:
        UsageError: no pairs, too few draws, or a pair that did not judge the same images.
    """
    for one, other in pairs:
        if set(one.names) != set(other.names):
            raise UsageError("Two runs are compared on the images that both judged; these judged others.")
    runs = [run for pair in pairs for run in pair]
    drawn, _ = _drawn(runs, draws=draws, seed=seed)
    told = [run.scores() for run in runs]
    found = {}
    for name in SCORES:
        values = [(a[name], b[name]) for a, b in zip(told[::2], told[1::2], strict=True)]
        known = [one - other for one, other in values if one is not None and other is not None]
        apart = mean_of_defined(drawn[name][::2] - drawn[name][1::2])
        interval = percentile_interval(apart, level=level) if known else None
        found[name] = Difference(
            mean=float(np.mean(known)) if known else None,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            level=level,
            pairs=len(known),
        )
    return found


def _drawn(runs: Sequence[JudgedRun], *, draws: int, seed: int) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """Each score of each run in each draw, [runs, draws]; and how many images and groups there are."""
    names, targets, groups, places = _joined(runs)
    judges: dict[int, list[int]] = defaultdict(list)
    for number, own in enumerate(places):
        for place in own.tolist():
            judges[place].append(number)
    strata = [f"{targets[place]}:{','.join(map(str, judges[place]))}" for place in range(len(names))]
    every = [run.weighted() for run in runs]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in SCORES}
    for weights in patient_draws(groups, strata=strata, draws=draws, seed=seed):
        own_weights = [weights[:, own] for own in places]
        for name in SCORES:
            parts[name].append(np.stack([each[name](own) for each, own in zip(every, own_weights, strict=True)]))
    return {name: np.concatenate(each, axis=1) for name, each in parts.items()}, (len(names), len(set(groups)))


def _joined(runs: Sequence[JudgedRun]) -> tuple[list[str], list[int], list[str], list[np.ndarray]]:
    """Names, targets and groups of all images, and of each run the places of its own."""
    if not runs:
        raise UsageError("There are no runs to score. Give at least one.")
    known: dict[str, tuple[int, int, str]] = {}
    places = []
    for run in runs:
        own = []
        for name, target, group in zip(run.names, run.targets.tolist(), run.groups, strict=True):
            # A name cannot be taken for a group: groups are marked.
            place, *facts = known.setdefault(name, (len(known), target, f"group {group}" if group else f"image {name}"))
            if facts != [target, f"group {group}" if group else f"image {name}"]:
                raise UsageError(f"Image {name!r} has two classes or groups in these runs. Score runs of one table.")
            own.append(place)
        places.append(np.array(own, np.int64))
    rows = list(known.items())
    return [name for name, _ in rows], [row[1] for _, row in rows], [row[2] for _, row in rows], places
