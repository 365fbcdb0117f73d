"""Cross-validation of any target, or of several that one head learns side by side, some of them not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.coding import TargetCoding, Value, fit_coding, output_columns, pick_horizons, resolve
from pathotune_pipeline.bags.targets import SURVIVAL, TargetSpec, read_labels, read_number, read_survival
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation.cohort import Cohort, gather_cohort, relabelled
from pathotune_pipeline.evaluation.crossval import (
    NO_SOURCES,
    SHUFFLED,
    CrossvalProgress,
    CrossvalSpec,
    Sources,
    plan_study,
    run_plan,
)
from pathotune_pipeline.evaluation.folds import FoldPlan
from pathotune_pipeline.evaluation.preflight import Asked, Findings, check_values
from pathotune_pipeline.evaluation.result import CrossvalResult
from pathotune_pipeline.evaluation.scoring import CLASSES
from pathotune_pipeline.heads.task import Task, value_of
from pathotune_pipeline.provenance import package_versions


@dataclass(frozen=True, slots=True)
class Question:
    """A target as it is asked of a whole cohort."""

    name: str
    spec: TargetSpec
    kind: str
    classes: tuple[str, ...]
    horizons: tuple[float, ...]

    def asked(self, bags: Iterable[Bag]) -> Asked:
        """What bags say of it."""
        return Asked(self.name, self.kind, self.classes, _values(self.name, bags))

    def coding(self, train: Sequence[Bag], *, balanced: bool) -> TargetCoding:
        """Its coding, measured on those bags."""
        return fit_coding(
            self.name,
            self.spec,
            [value_of(bag, self.name) for bag in train],
            kind=self.kind,
            classes=self.classes,
            horizons=self.horizons,
            balanced=balanced,
        )


def crossval_targets(
    bags: Mapping[str, Bag] | Sequence[Bag],
    targets: Mapping[str, TargetSpec],
    spec: CrossvalSpec,
    *,
    feature_set: str = "",
    sources: Sources = NO_SOURCES,
    on_progress: Callable[[CrossvalProgress], None] | None = None,
) -> dict[str, CrossvalResult]:
    """Train one head for all targets with each seed and fold, and score each target by its kind.

    Scales, intervals of time, class weights, baseline hazards and the censoring distribution come from the training
    part; temperatures and the epoch from validation. Folds are stratified by the first target: its class or grade,
    its rarest label, the quartile of its number, or whether its event was seen.

    Args:
        bags: with targets as `Bag.target` says: a mapping by name where there are several. A bag that knows none is
            left out, with a note; one that lacks some teaches the others.
        targets: name -> its Spec, at least one.
        spec: head, training, folds, seeds.
        feature_set: recorded with results and models.
        sources: sites, an external test set, a split of the caller's own.
        on_progress: told of each trained model.

    Returns:
        A result for each target. All hold the same models and attention.

    Raises:
        UsageError: two bags have one id, dimensions differ, features are not finite, or the settings do not fit.
        ManifestError: what would spoil the study: a value that is not of its target's kind, too few patients or events.
        PathotuneError: a patient is in two parts, or a loss is not finite.
    """
    prepared = prepare_targets(bags, targets, spec, sources)
    cohort, plan, questions = prepared.cohort, prepared.plan, prepared.questions
    results = {
        question.name: CrossvalResult(
            settings=spec.model_dump(mode="json"),
            classes=output_columns(question.kind, question.classes, question.horizons),
            feature_set=feature_set,
            versions=package_versions(),
            notes=list(plan.notes),
            kind=question.kind,
            horizons=question.horizons,
        )
        for question in questions
    }
    balanced = spec.class_weights == "balanced"

    def task_of(train: Sequence[Bag]) -> Task:
        return Task(tuple(question.coding(train, balanced=balanced) for question in questions))

    run_plan(results, spec, cohort, plan, task_of=task_of, on_progress=on_progress)
    return results


@dataclass(frozen=True, slots=True)
class PreparedTargets:
    """A study of several targets in which nothing was found that would spoil it.

    Attributes:
        cohort: not fused.
        plan: seeds and folds, and all notes so far.
        questions: one for each target.
    """

    cohort: Cohort
    plan: FoldPlan
    questions: Sequence[Question]


def prepare_targets(
    bags: Mapping[str, Bag] | Sequence[Bag],
    targets: Mapping[str, TargetSpec],
    spec: CrossvalSpec,
    sources: Sources = NO_SOURCES,
) -> PreparedTargets:
    """All of `crossval_targets` that comes before training; the bags' features are looked at, and not used.

    Args:
        bags: as for `crossval_targets`.
        targets: likewise.
        spec: of the study.
        sources: what the spec does not hold.

    Raises:
        UsageError: as `crossval_targets`.
        ManifestError: as `crossval_targets`.
        PathotuneError: a patient is in two parts.
    """
    spec.train_spec()
    if not targets:
        raise UsageError("A cross-validation needs a target; none was given.")
    cohort, notes = gather_cohort(bags, sources.external, targets=list(targets), unit=spec.unit)
    if spec.shuffle_labels:
        cohort = relabelled(cohort, _shuffled(cohort.bags, seed=spec.seed0))
        notes.append(SHUFFLED)
    questions = _questions(targets, cohort)
    if spec.class_weights == "balanced" and not any(question.kind in CLASSES for question in questions):
        raise UsageError(
            f"class_weights is balanced, and {questions[0].name!r} is {questions[0].kind}: no class to weigh."
        )
    plan = plan_study(
        spec,
        cohort,
        [question.asked(cohort.bags.values()) for question in questions],
        _strata(questions[0], cohort.bags, cohort.groups, spec),
        external=[question.asked(cohort.external).values for question in questions],
        sources=sources,
    )
    return PreparedTargets(cohort, FoldPlan(plan.folds, (*notes, *plan.notes)), questions)


def _questions(targets: Mapping[str, TargetSpec], cohort: Cohort) -> list[Question]:
    """The targets as they are asked of the cohort.

    Raises:
        ManifestError: some cannot be; one message says all of it.
    """
    findings = Findings()
    found: list[Question] = []
    bags = list(cohort.bags.values())
    for name, spec in targets.items():
        before = len(findings.troubles)
        if spec.kind in (*SURVIVAL, "regression"):
            check_values(Asked(name, spec.kind, (), _values(name, bags)), findings)
        if len(findings.troubles) == before:
            found += findings.attempt(_question, name, spec, bags)
    findings.settle()
    return found


def _question(name: str, spec: TargetSpec, bags: Sequence[Bag]) -> Question:
    values = list(_values(name, bags).values())
    if not values:
        raise ManifestError(f"Target {name!r}: no slide has a value. Look at the label table.")
    kind, classes = resolve(spec, values)
    return Question(name, spec, kind, classes, pick_horizons(spec, values) if kind in SURVIVAL else ())


def _values(name: str, bags: Iterable[Bag]) -> dict[str, str]:
    return {bag.bag_id: str(value) for bag in bags if (value := value_of(bag, name)) is not None}


def _strata(
    question: Question, bags: Mapping[str, Bag], groups: Mapping[str, str], spec: CrossvalSpec
) -> dict[str, str]:
    """What folds are stratified by; where it is no class, a stratum of too few patients joins the largest."""
    values = {name: value_of(bag, question.name) for name, bag in bags.items()}
    found = {name: "" if value is None else _stratum(question, value, values) for name, value in values.items()}
    patients = {stratum: len({groups[n] for n, s in found.items() if s == stratum}) for stratum in set(found.values())}
    largest = max(sorted(patients), key=lambda stratum: patients[stratum])
    few = {stratum for stratum, count in patients.items() if count < max(spec.folds, 3)}
    if question.kind in (*CLASSES, "ordinal"):
        few &= {""}
    merged = {name: largest if stratum in few else stratum for name, stratum in found.items()}
    if len(set(merged.values())) > 1:
        return merged
    # Folds want two strata at least: patients in turn, by name.
    order = {patient: place for place, patient in enumerate(sorted(set(groups.values())))}
    return {name: str(order[groups[name]] % 2) for name in merged}


def _stratum(question: Question, value: Value, values: Mapping[str, Value | None]) -> str:
    if question.kind in SURVIVAL:
        return str(read_survival(str(value))[1])
    if question.kind == "regression":
        numbers = [read_number(each) for each in values.values() if each is not None]
        return str(int(np.searchsorted(np.quantile(numbers, (0.25, 0.5, 0.75)), read_number(value))))
    if question.kind == "multilabel":
        counts = Counter(label for each in values.values() if each is not None for label in read_labels(str(each)))
        return min(read_labels(str(value)), key=lambda label: (counts[label], label), default="none")
    return str(value)


def _shuffled(bags: Mapping[str, Bag], *, seed: int) -> dict[str, Any]:
    """Targets permuted among patients; all slides of a patient get those of the other's first slide."""
    first: dict[str, Bag] = {}
    for _, bag in sorted(bags.items()):
        first.setdefault(bag.group, bag)
    patients = sorted(first)
    order = np.random.default_rng([seed, 0x5F]).permutation(len(patients))
    drawn = {patient: first[patients[i]].target for patient, i in zip(patients, order, strict=True)}
    return {name: drawn[bag.group] for name, bag in bags.items()}
