"""Cross-validation of any target, or of several that one head learns side by side, some of them not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.coding import (
    TargetCoding,
    Value,
    fit_coding,
    output_columns,
    pick_horizons,
    resolve,
)
from pathotune_pipeline.bags.targets import SURVIVAL, TargetSpec, read_labels, read_number, read_survival
from pathotune_pipeline.engine.device import cpu_threads
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation.crossval import (
    CrossvalProgress,
    CrossvalSpec,
    add_attention,
    keep_run,
    mean_attention,
    model_seed,
    threads_for,
    usable_bags,
)
from pathotune_pipeline.evaluation.folds import plan_folds
from pathotune_pipeline.evaluation.metrics.calibration import fit_temperature
from pathotune_pipeline.evaluation.metrics.survival import censoring_curve, censoring_of
from pathotune_pipeline.evaluation.result import CrossvalResult, PredictionRow
from pathotune_pipeline.evaluation.scoring import CLASSES
from pathotune_pipeline.heads.task import Task, value_of
from pathotune_pipeline.heads.train import fit_head, predict
from pathotune_pipeline.provenance import package_versions


@dataclass(frozen=True, slots=True)
class _Question:
    """A target as it is asked of a whole cohort."""

    name: str
    spec: TargetSpec
    kind: str
    classes: tuple[str, ...]
    horizons: tuple[float, ...]

    def coding(self, train: Sequence[Bag], *, balanced: bool) -> TargetCoding:
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
    sites: Mapping[str, str] | None = None,
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
        sites: bag id -> site, where `spec.site` names a column.
        on_progress: told of each trained model.

    Returns:
        A result for each target. All hold the same models and attention.

    Raises:
        UsageError: two bags have one id, dimensions differ, features are not finite, or the settings do not fit.
        ManifestError: a value is not of its target's kind, or there are too few.
        PathotuneError: a loss is not finite.
    """
    spec.train_spec()
    if not targets:
        raise UsageError("A cross-validation needs a target; none was given.")
    usable, notes = usable_bags(bags)
    usable = {name: bag for name, bag in usable.items() if any(value_of(bag, each) is not None for each in targets)}
    groups = {name: bag.group for name, bag in usable.items()}
    if spec.shuffle_labels:
        usable = _shuffled(usable, seed=spec.seed0)
        notes.append("Labels were permuted among patients: this run shows what chance scores.")
    questions = [_question(name, each, list(usable.values())) for name, each in targets.items()]
    balanced = spec.class_weights == "balanced"
    if balanced and not any(question.kind in CLASSES for question in questions):
        raise UsageError(
            f"class_weights is balanced, and {questions[0].name!r} is {questions[0].kind}: no class to weigh."
        )
    strata = _strata(questions[0], usable, groups, spec)
    plan = plan_folds(spec, strata, groups, sites=sites, record=not spec.shuffle_labels)
    results = {
        question.name: CrossvalResult(
            settings=spec.model_dump(mode="json"),
            classes=output_columns(question.kind, question.classes, question.horizons),
            feature_set=feature_set,
            versions=package_versions(),
            notes=[*notes, *plan.notes],
            kind=question.kind,
            horizons=question.horizons,
        )
        for question in questions
    }
    attention: dict[str, Any] = {}
    with cpu_threads(threads_for(usable.values())):
        for done, (seed, fold) in enumerate(plan, 1):
            train, val, test = ([usable[each] for each in ids] for ids in fold.parts().values())
            task = Task(tuple(question.coding(train, balanced=balanced) for question in questions))
            trained = fit_head(
                train,
                val,
                task=task,
                spec=spec.fit_spec(model_seed(seed, fold.index)),
                feature_set=feature_set,
            )
            said, on_val = predict(trained, test), task.split(predict(trained, val).probs)
            by_target = task.split(said.probs)
            add_attention(attention, said.attention, test)
            for question in questions:
                result = results[question.name]
                _keep_predictions(result, question, test, by_target[question.name], at=(seed, fold.index))
                if question.kind in SURVIVAL:
                    _keep_censoring(result, question, train, test, seed=seed)
                heat = _temperature(question, val, on_val[question.name])
                keep_run(result, trained, seed=seed, fold=fold, temperature=heat)
            if on_progress:
                on_progress(CrossvalProgress(done, len(plan), seed, fold.index, len(trained.history)))
    for result in results.values():
        result.attention = mean_attention(attention, plan)
        result.summarise(draws=spec.bootstrap, seed=spec.seed0)
    return results


def _question(name: str, spec: TargetSpec, bags: Sequence[Bag]) -> _Question:
    values = _known(name, bags)
    if not values:
        raise ManifestError(f"Target {name!r}: no slide has a value. Look at the label table.")
    kind, classes = resolve(spec, values)
    return _Question(name, spec, kind, classes, pick_horizons(spec, values) if kind in SURVIVAL else ())


def _known(name: str, bags: Sequence[Bag]) -> list[Value]:
    return [value for bag in bags if (value := value_of(bag, name)) is not None]


def _strata(
    question: _Question, bags: Mapping[str, Bag], groups: Mapping[str, str], spec: CrossvalSpec
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


def _stratum(question: _Question, value: Value, values: Mapping[str, Value | None]) -> str:
    if question.kind in SURVIVAL:
        return str(read_survival(str(value))[1])
    if question.kind == "regression":
        numbers = [read_number(each) for each in values.values() if each is not None]
        return str(int(np.searchsorted(np.quantile(numbers, (0.25, 0.5, 0.75)), read_number(value))))
    if question.kind == "multilabel":
        counts = Counter(label for each in values.values() if each is not None for label in read_labels(str(each)))
        return min(read_labels(str(value)), key=lambda label: (counts[label], label), default="none")
    return str(value)


def _keep_predictions(
    result: CrossvalResult, question: _Question, test: Sequence[Bag], values: np.ndarray, *, at: tuple[int, int]
) -> None:
    for bag, row in zip(test, values, strict=True):
        label = value_of(bag, question.name)
        if label is not None:
            result.predictions.append(PredictionRow(bag.bag_id, bag.group, str(label), *at, tuple(row.tolist())))


def _keep_censoring(
    result: CrossvalResult, question: _Question, train: Sequence[Bag], test: Sequence[Bag], *, seed: int
) -> None:
    pairs = np.array([read_survival(str(value)) for value in _known(question.name, train)], np.float64)
    curve = censoring_curve(pairs[:, 0], pairs[:, 1] > 0)
    for bag in test:
        value = value_of(bag, question.name)
        if value is not None:
            left = censoring_of(curve, np.array([read_survival(str(value))[0]]), np.array(question.horizons))
            result.censoring[seed, bag.bag_id] = np.concatenate([left.own, left.at[0]])


def _temperature(question: _Question, val: Sequence[Bag], probs: np.ndarray) -> float | None:
    known = [place for place, bag in enumerate(val) if value_of(bag, question.name) is not None]
    if question.kind not in CLASSES or not known:
        return None
    truth = [question.classes.index(str(value_of(val[place], question.name))) for place in known]
    return fit_temperature(np.array(truth), probs[known])


def _shuffled(bags: Mapping[str, Bag], *, seed: int) -> dict[str, Bag]:
    """Targets permuted among patients; all slides of a patient get those of the other's first slide."""
    first: dict[str, Bag] = {}
    for _, bag in sorted(bags.items()):
        first.setdefault(bag.group, bag)
    patients = sorted(first)
    order = np.random.default_rng([seed, 0x5F]).permutation(len(patients))
    drawn = {patient: first[patients[i]].target for patient, i in zip(patients, order, strict=True)}
    return {name: replace(bag, target=drawn[bag.group]) for name, bag in bags.items()}
