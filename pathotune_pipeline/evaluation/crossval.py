"""Cross-validation by patient: train, choose the epoch on validation, judge on slides the model never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.splits import Fold, patient_labels
from pathotune_pipeline.bags.targets import Classes
from pathotune_pipeline.engine.device import cpu_threads
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.folds import FoldPlan, SplitSpec, plan_folds
from pathotune_pipeline.evaluation.metrics.calibration import fit_temperature
from pathotune_pipeline.evaluation.result import CrossvalResult, FoldRun, PredictionRow, SplitRow
from pathotune_pipeline.heads.train import HeadFitSpec, TrainedHead, class_index, fit_head, predict
from pathotune_pipeline.provenance import package_versions
from pathotune_pipeline.spec import setting

SMALL_BAG = 2_000_000
"""Numbers in a bag up to which one thread trains faster than several: 2,000 tiles of 1,024 features."""


class CrossvalSpec(SplitSpec, HeadFitSpec):
    """Which head is cross-validated, and how."""

    bootstrap: int = setting(2000, "Draws of the patient bootstrap.", ge=1000)
    shuffle_labels: bool = setting(
        False, "Permute the labels among patients first: what a model without any signal would score."
    )
    targets: dict[str, Any] = setting(
        {}, "Settings of the targets by column: kind, event, order, bins, alpha, horizons, weight."
    )

    def fit_spec(self, seed: int) -> HeadFitSpec:
        """The part that trains one head, with its seed."""
        values = {name: getattr(self, name) for name in HeadFitSpec.model_fields}
        return HeadFitSpec.parse({**values, "train": {**self.train, "seed": seed}})


@dataclass(frozen=True, slots=True)
class CrossvalProgress:
    """Said after each trained model.

    Attributes:
        done: models trained.
        total: models to train.
        seed: of the last one.
        fold: of the last one.
        epochs: that it was trained for.
    """

    done: int
    total: int
    seed: int
    fold: int
    epochs: int


def crossval(
    bags: Mapping[str, Bag] | Sequence[Bag],
    spec: CrossvalSpec,
    *,
    feature_set: str = "",
    sites: Mapping[str, str] | None = None,
    on_progress: Callable[[CrossvalProgress], None] | None = None,
) -> CrossvalResult:
    """Train one model for each seed and fold, and pool what they say of slides they did not see.

    Of slides that have one class each; `crossval_targets` takes all other targets.

    The headline is scored on each slide's mean probability over the seeds. Standardisation, epoch choice and class
    weights see nothing of the test part. The order of the bags does not matter.

    Args:
        bags: with targets and groups (patients); bags without tiles or target are left out, with a note.
        spec: head, training, folds, seeds.
        feature_set: name or fingerprint of the features, recorded with results and models.
        sites: bag id -> site, where `spec.site` names a column.
        on_progress: told of each trained model.

    Raises:
        UsageError: two bags have one id, dimensions differ, or features are not finite.
        ManifestError: fewer than two classes, or a class has too few patients.
        PathotuneError: a loss is not finite.
    """
    spec.train_spec()
    usable, notes = usable_bags(bags)
    labels = {bag_id: str(bag.target) for bag_id, bag in usable.items()}
    groups = {bag_id: bag.group for bag_id, bag in usable.items()}
    if spec.shuffle_labels:
        labels = shuffled_labels(labels, groups, seed=spec.seed0)
        notes.append("Labels were permuted among patients: this run shows what chance scores.")
    classes = Classes.of(labels.values())
    usable = {bag_id: replace(bag, target=labels[bag_id]) for bag_id, bag in usable.items()}
    result = CrossvalResult(
        settings=spec.model_dump(mode="json"),
        classes=classes.names,
        feature_set=feature_set,
        versions=package_versions(),
        notes=notes,
    )
    plan = plan_folds(spec, labels, groups, sites=sites, record=not spec.shuffle_labels)
    result.notes.extend(plan.notes)
    with cpu_threads(threads_for(usable.values())):
        _train_all(result, spec, usable, plan=plan, on_progress=on_progress)
    result.attention = mean_attention(result.attention, plan)
    result.summarise(draws=spec.bootstrap, seed=spec.seed0)
    return result


def threads_for(bags: Iterable[Bag]) -> int:
    """Threads for training on a CPU: one where bags are small, for sharing them out costs more than it saves."""
    median = float(np.median([len(bag) * bag.dim for bag in bags]))
    return 1 if median <= SMALL_BAG else torch.get_num_threads()


def _train_all(
    result: CrossvalResult,
    spec: CrossvalSpec,
    usable: Mapping[str, Bag],
    *,
    plan: FoldPlan,
    on_progress: Callable[[CrossvalProgress], None] | None,
) -> None:
    """Train and judge one model for each seed and fold."""
    classes = result.classes
    for seed, fold in plan:
        val = [usable[each] for each in fold.val]
        trained = fit_head(
            [usable[each] for each in fold.train],
            val,
            classes=classes,
            spec=spec.fit_spec(model_seed(seed, fold.index)),
            feature_set=result.feature_set,
        )
        _judge(result, trained, [usable[each] for each in fold.test], seed=seed, fold=fold)
        truth = np.array([class_index(bag, classes) for bag in val])
        keep_run(result, trained, seed=seed, fold=fold, temperature=fit_temperature(truth, predict(trained, val).probs))
        if trained.initial and len(result.runs) == 1:
            result.notes.append(trained.initial.sentence())
        if on_progress:
            on_progress(CrossvalProgress(len(result.runs), len(plan), seed, fold.index, len(trained.history)))


def model_seed(seed: int, fold: int) -> int:
    """The seed of the model of one fold; no two folds share it for seeds up to a million."""
    return seed * 1000 + fold


def shuffled_labels(labels: Mapping[str, str], groups: Mapping[str, str], *, seed: int) -> dict[str, str]:
    """Labels permuted among patients; all slides of a patient get the one that the patient drew.

    Args:
        labels: bag id -> class.
        groups: bag id -> patient.
        seed: of the permutation.
    """
    by_patient = patient_labels(labels, groups)
    patients = sorted(by_patient)
    order = np.random.default_rng([seed, 0x5F]).permutation(len(patients))
    drawn = {patient: by_patient[patients[i]] for patient, i in zip(patients, order, strict=True)}
    return {bag_id: drawn[groups[bag_id]] for bag_id in labels}


def usable_bags(bags: Mapping[str, Bag] | Sequence[Bag]) -> tuple[dict[str, Bag], list[str]]:
    """Bags with tiles and a target, by id in its order, and a note on the others.

    Raises:
        UsageError: two bags have one id.
    """
    bags = list(bags.values()) if isinstance(bags, Mapping) else list(bags)
    found: dict[str, Bag] = {}
    empty, unlabelled = [], []
    for bag in sorted(bags, key=lambda bag: bag.bag_id):
        if bag.bag_id in found:
            raise UsageError(f"Two bags are called {bag.bag_id}. Give each slide an id of its own.")
        if len(bag) == 0:
            empty.append(bag.bag_id)
        elif bag.target is None:
            unlabelled.append(bag.bag_id)
        else:
            found[bag.bag_id] = bag
    notes = []
    for what, ids in (("no tiles", empty), ("no label", unlabelled)):
        if ids:
            notes.append(f"{len(ids)} slides have {what} and were left out, {ids[0]} for one.")
    return found, notes


def _judge(result: CrossvalResult, trained: TrainedHead, test: Sequence[Bag], *, seed: int, fold: Fold) -> None:
    said = predict(trained, test)
    for i, bag in enumerate(test):
        probs = tuple(said.probs[i].tolist())
        result.predictions.append(PredictionRow(bag.bag_id, bag.group, str(bag.target), seed, fold.index, probs))
    add_attention(result.attention, said.attention, test)


def add_attention(total: dict[str, Any], attention: Sequence[np.ndarray] | None, bags: Sequence[Bag]) -> None:
    """Add one model's attention to the sums by slide."""
    for weights, bag in zip(attention or (), bags, strict=attention is not None):
        total[bag.bag_id] = total.get(bag.bag_id, 0.0) + weights.astype(np.float64)


def mean_attention(total: Mapping[str, Any], plan: FoldPlan) -> dict[str, Any]:
    """The sums of `add_attention` over the number of models that tested each slide, [N] float32."""
    tested = Counter(bag_id for _, fold in plan for bag_id in fold.test)
    return {bag_id: (weights / tested[bag_id]).astype(np.float32) for bag_id, weights in total.items()}


def keep_run(
    result: CrossvalResult, trained: TrainedHead, *, seed: int, fold: Fold, temperature: float | None = None
) -> None:
    """Add a model, how it was trained, and where each slide was."""
    for part, ids in fold.parts().items():
        result.splits.extend(SplitRow(seed, fold.index, part, each) for each in ids)
    result.runs.append(FoldRun(seed, fold.index, trained.best_epoch, len(trained.history), temperature))
    result.models[(seed, fold.index)] = trained
