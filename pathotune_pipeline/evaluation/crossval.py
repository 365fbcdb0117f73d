"""Cross-validation by patient: train, choose the epoch on validation, judge on slides the model never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.splits import patient_labels
from pathotune_pipeline.bags.targets import Classes
from pathotune_pipeline.engine.device import cpu_threads
from pathotune_pipeline.evaluation.cohort import Cohort, gather_cohort, relabelled
from pathotune_pipeline.evaluation.fold_models import train_folds
from pathotune_pipeline.evaluation.folds import FoldPlan, SplitSpec, Splitter, plan_folds
from pathotune_pipeline.evaluation.judging import judge_model
from pathotune_pipeline.evaluation.preflight import Asked, Findings, check_external, check_folds
from pathotune_pipeline.evaluation.result import CrossvalResult
from pathotune_pipeline.heads.learner import HeadFitSpec, TrainedHead
from pathotune_pipeline.heads.task import Task
from pathotune_pipeline.provenance import package_versions
from pathotune_pipeline.spec import setting

SMALL_BAG = 2_000_000
"""Numbers in a bag up to which one thread trains faster than several: 2,000 tiles of 1,024 features."""


SHUFFLED = "Labels were permuted among patients: this run shows what chance scores."


class CrossvalSpec(SplitSpec, HeadFitSpec):
    """Which head is cross-validated, and how."""

    unit: Literal["slides", "fuse", "average"] = setting(
        "slides",
        "What counts once: slides; or patients, whose slides are fused to one bag, or whose slides' answers are averaged.",
    )
    test_where: str | None = setting(
        None, "External test set: COLUMN=VALUE of the label table, several values by commas; never trained on."
    )
    external_labels: str | None = setting(None, "External test set: a label table of its own; never trained on.")
    external_store: str | None = setting(None, "The store of the external test set, where it is another one.")

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
class Sources:
    """What a study takes beside its bags and settings.

    Attributes:
        sites: bag id -> site, where `CrossvalSpec.site` names a column.
        external: bags that every model judges and none learns from.
        split: what cuts the bags, instead of what the settings name.
        record: whether `CrossvalSpec.assignments` may be written.
    """

    sites: Mapping[str, str] | None = None
    external: Sequence[Bag] = ()
    split: Splitter | None = None
    record: bool = True


NO_SOURCES = Sources()


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
    sources: Sources = NO_SOURCES,
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
        sources: sites, an external test set, a split of the caller's own.
        on_progress: told of each trained model.

    Raises:
        UsageError: two bags have one id, dimensions differ, or features are not finite.
        ManifestError: what would spoil the study: fewer than two classes, too few patients, parts that lack a class.
        PathotuneError: a patient is in two parts, or a loss is not finite.
    """
    prepared = prepare(bags, spec, sources)
    cohort, plan = prepared.cohort, prepared.plan
    result = CrossvalResult(
        settings=spec.model_dump(mode="json"),
        classes=prepared.classes,
        feature_set=feature_set,
        versions=package_versions(),
        notes=list(plan.notes),
    )
    run_plan({"": result}, spec, cohort, plan, classes=prepared.classes, on_progress=on_progress)
    return result


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study in which nothing was found that would spoil it.

    Attributes:
        cohort: not fused.
        plan: seeds and folds, and all notes so far.
        classes: names in the order of the probabilities.
    """

    cohort: Cohort
    plan: FoldPlan
    classes: tuple[str, ...]


def prepare(bags: Mapping[str, Bag] | Sequence[Bag], spec: CrossvalSpec, sources: Sources = NO_SOURCES) -> Prepared:
    """All of `crossval` that comes before training; the bags' features are looked at, and not used.

    Args:
        bags: as for `crossval`.
        spec: of the study.
        sources: what the spec does not hold.

    Raises:
        UsageError: as `crossval`.
        ManifestError: as `crossval`.
        PathotuneError: a patient is in two parts.
    """
    spec.train_spec()
    cohort, notes = gather_cohort(bags, sources.external, unit=spec.unit)
    labels = {bag_id: str(bag.target) for bag_id, bag in cohort.bags.items()}
    if spec.shuffle_labels:
        labels = shuffled_labels(labels, cohort.groups, seed=spec.seed0)
        notes.append(SHUFFLED)
    classes = Classes.of(labels.values())
    asked = Asked("", "binary" if classes.binary else "multiclass", classes.names, labels)
    abroad = {bag.bag_id: str(bag.target) for bag in cohort.external}
    cohort = relabelled(cohort, labels)
    plan = plan_study(spec, cohort, [asked], labels, external=[abroad], sources=sources)
    return Prepared(cohort, FoldPlan(plan.folds, (*notes, *plan.notes)), classes.names)


def plan_study(
    spec: CrossvalSpec,
    cohort: Cohort,
    asked: Sequence[Asked],
    strata: Mapping[str, str],
    *,
    external: Sequence[Mapping[str, str]],
    sources: Sources,
) -> FoldPlan:
    """The folds, once nothing is found that would spoil the study.

    Args:
        spec: of the study.
        cohort: not fused.
        asked: of each target, what the cohort says.
        strata: bag id -> what shall be as frequent in every part.
        external: of each target, what the external bags say by id.
        sources: what the spec does not hold.

    Raises:
        ManifestError: something is found.
        PathotuneError: a patient is in two parts.
    """
    findings = Findings()
    for each, abroad in zip(asked, external, strict=True):
        if cohort.external:
            check_external(replace(each, values=abroad), findings)

    def plan(*, record: bool) -> FoldPlan:
        return plan_folds(spec, strata, cohort.groups, sites=sources.sites, split=sources.split, record=record)

    tried = findings.attempt(partial(plan, record=False))
    for found in tried:
        check_folds(found, asked, cohort.groups, findings)
    notes = findings.settle()
    record = spec.assignments and sources.record and not spec.shuffle_labels
    done = plan(record=True) if record else tried[0]
    if cohort.external:
        patients = len({bag.group for bag in cohort.external})
        notes.append(
            f"External test set: {len(cohort.external)} slides of {patients} patients, judged by all {len(done)} models "
            "together; nothing was chosen on it."
        )
    return FoldPlan(done.folds, (*done.notes, *notes))


def threads_for(bags: Iterable[Bag]) -> int:
    """Threads for training on a CPU: one where bags are small, for sharing them out costs more than it saves."""
    median = float(np.median([len(bag) * bag.dim for bag in bags]))
    return 1 if median <= SMALL_BAG else torch.get_num_threads()


def run_plan(
    results: Mapping[str, CrossvalResult],
    spec: CrossvalSpec,
    cohort: Cohort,
    plan: FoldPlan,
    *,
    classes: tuple[str, ...] = (),
    task_of: Callable[[Sequence[Bag]], Task] | None = None,
    on_progress: Callable[[CrossvalProgress], None] | None = None,
) -> None:
    """Train the models of all seeds and folds in one pass, judge each, and score the whole.

    Args:
        results: of each target by its name; are filled.
        spec: of the study.
        cohort: not fused.
        plan: seeds and folds.
        classes: names in the order of the logits, where a slide has one class.
        task_of: what is asked, measured on a training part; instead of `classes`.
        on_progress: told of each trained model.

    Raises:
        PathotuneError: a model could not be trained.
    """
    if spec.unit == "fuse":
        cohort, plan = cohort.fused(plan)

    def told(done: int, place: int, trained: TrainedHead) -> None:
        if on_progress:
            seed, fold = plan.folds[place]
            on_progress(CrossvalProgress(done, len(plan), seed, fold.index, len(trained.history)))

    with cpu_threads(threads_for(cohort.bags.values())):
        models = train_folds(
            cohort.bags,
            plan.folds,
            [spec.fit_spec(model_seed(seed, fold.index)) for seed, fold in plan],
            classes=classes,
            tasks=[task_of(cohort.parts(fold)[0]) for _, fold in plan] if task_of else (),
            feature_set=next(iter(results.values())).feature_set,
            on_trained=told,
        )
        for (seed, fold), trained in zip(plan, models, strict=True):
            judge_model(results, trained, cohort, seed=seed, fold=fold)
    initial = models[0].initial if models else None
    if initial:
        for result in results.values():
            result.notes.append(initial.sentence())
    _finish(list(results.values()), spec, cohort, plan)


def _finish(results: Sequence[CrossvalResult], spec: CrossvalSpec, cohort: Cohort, plan: FoldPlan) -> None:
    """Average the attention that the first result gathered, hand it to all, and score each."""
    tested = Counter(bag_id for _, fold in plan for bag_id in fold.test)
    means = {bag_id: (total / tested[bag_id]).astype(np.float32) for bag_id, total in results[0].attention.items()}
    attention = cohort.by_slide(means)
    for result in results:
        bare = sum(run.threshold is None for run in result.runs)
        if result.kind == "binary" and bare:
            result.notes.append(
                f"{bare} of {len(result.runs)} models have no threshold, for their validation part lacks a class: the scores "
                "at the threshold are left out."
            )
        result.attention = attention
        result.summarise(draws=spec.bootstrap, seed=spec.seed0)


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
