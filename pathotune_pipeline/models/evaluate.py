"""A trained model on other labelled slides: the external test. The result is written as a cross-validation's is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.coding import TargetCoding
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelJoin, LabelRow
from pathotune_pipeline.bags.patients import fuse_by_patient
from pathotune_pipeline.bags.target_table import join_targets, targets_of_label
from pathotune_pipeline.bags.targets import SURVIVAL, TargetSpec, target_specs
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation.material import without_rejected
from pathotune_pipeline.evaluation.pooling import FoldRun, PredictionRow
from pathotune_pipeline.evaluation.result import CrossvalResult, SplitRow, write_results
from pathotune_pipeline.evaluation.study import Study
from pathotune_pipeline.models.card import TargetFacts
from pathotune_pipeline.models.folder import Answer, Model
from pathotune_pipeline.models.predict import model_set
from pathotune_pipeline.models.quality import PredictSpec
from pathotune_pipeline.provenance import package_versions
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.store.store import CommitRecord, open_store

SHOWN = 5
"""Names in a message."""


class EvaluateSpec(Spec):
    """How a model, or a table of predictions, is judged."""

    bootstrap: int = setting(2000, "Draws of the patient bootstrap.", ge=1000)
    seed: int = setting(0, "Of the bootstrap.", ge=0)
    device: str = setting("auto", "Where the heads run: auto, cpu, cuda, cuda:1, mps.", hashed=False)


def evaluate_model(
    model: Model, study: Study, spec: EvaluateSpec, *, targets: Mapping[str, TargetSpec] | None = None
) -> dict[str, CrossvalResult]:
    """Judge a model on labelled slides that it has not seen, and write `study.out`.

    Every labelled slide with a tile is judged, poor ones too. The intervals resample patients. Each member stands as a
    seed, and the headline is of their mean. The censoring distribution of survival is that of these slides.

    Args:
        model: which.
        study: store, features ("" for the model's own set), label table, target columns and the folder to write.
        spec: of the bootstrap.
        targets: column -> its Spec; where None, those of `study.target`, or the model's own where that is empty.

    Returns:
        The result of each of the model's targets.

    Raises:
        UsageError: a slide or patient is one that the model was trained on; or features of another recipe, or nothing to
            judge.
        ManifestError: the table has no such column, or a label that the model does not know.
    """
    if study.out.exists() and any(study.out.iterdir()) and not study.overwrite:
        raise UsageError(f"--out {study.out}: the folder is not empty. Give a new one, or --overwrite.")
    store = open_store(study.store)
    features_set = model_set(model, store, study.features or None)
    columns = _columns(model, target_specs(study.target, {}) if targets is None else targets)
    records = store.records(features_set)
    join = join_targets(records, read_table(study.labels).rows, {name: each for name, (each, _) in columns.items()})
    labels, rejected = without_rejected(store, join.labels)
    _refuse_seen(model, labels, records)
    dataset = BagDataset(store, features_set, labels)
    results = {
        facts.name: _empty_result(model, facts, context={"target": column, "model": model.card.fingerprint})
        for column, (_, facts) in columns.items()
    }
    facts_of = {column: facts for column, (_, facts) in columns.items()}
    for slide_id, row in labels.items():  # before features are read
        for column, label in _said(facts_of, row.label).items():
            _check_label(facts_of[column], label, slide_id)
    for bag in _bags(dataset, fused=model.fused):
        answer = model.answer(bag)
        for column, label in _said(facts_of, str(bag.target)).items():
            facts = facts_of[column]
            _keep(results[facts.name], facts, answer, row=(bag.bag_id, bag.group, label))
    notes = [*join.notes, *rejected, *dataset.notes, *_unlabelled(join), *_poor(dataset)]
    for result in results.values():
        result.notes += notes
        result.context["slides"] = len({row.slide_id for row in result.predictions})
        result.context["features"] = str(features_set).removeprefix("features-")
        result.summarise(draws=spec.bootstrap, seed=spec.seed)
    folders = results if len(results) > 1 else {"": next(iter(results.values()))}
    write_results(folders, study.out, overwrite=study.overwrite)
    return results


def _bags(dataset: BagDataset, *, fused: bool) -> Iterator[Bag]:
    """One after the other; of a model of patients, all slides of one as a bag."""
    if not fused:
        yield from (dataset[index] for index in range(len(dataset)))
        return
    slides: dict[str, list[int]] = {}
    for index, record in enumerate(dataset.records):
        slides.setdefault(dataset.labels[record.slide_id].case_id, []).append(index)
    for own in slides.values():
        bags, _ = fuse_by_patient({bag.bag_id: bag for bag in (dataset[index] for index in own)})
        yield from bags.values()


def _said(columns: Mapping[str, TargetFacts], label: str) -> dict[str, str]:
    """What a label says of each column."""
    return targets_of_label(label) if len(columns) > 1 else {next(iter(columns)): label}


def _columns(model: Model, given: Mapping[str, TargetSpec]) -> dict[str, tuple[TargetSpec, TargetFacts]]:
    """Column of the label table -> its Spec, and the model's target that it answers."""
    own = {facts.name: facts for facts in model.card.targets}
    if not given:
        return {facts.name: (_spec_of(facts), facts) for facts in own.values()}
    if len(given) == 1 and len(own) == 1:
        (column, spec), facts = next(iter(given.items())), next(iter(own.values()))
        _check_kind(facts, spec)
        return {column: (_spec_of(facts, spec.event), facts)}
    found = {}
    for column, spec in given.items():
        if column not in own:
            raise UsageError(
                f"--target {column!r}: the model answers {', '.join(own)}.{nearest(column, own)} Call the columns so."
            )
        _check_kind(own[column], spec)
        found[column] = (_spec_of(own[column], spec.event), own[column])
    return found


def _spec_of(facts: TargetFacts, event: str = "") -> TargetSpec:
    event = event or facts.event
    if facts.kind in SURVIVAL and not event:
        raise UsageError(
            f"--target {facts.name}:{facts.kind}:EVENT: name the column that says whether the event was seen."
        )
    return TargetSpec.parse({"kind": facts.kind, "event": event if facts.kind in SURVIVAL else ""})


def _check_kind(facts: TargetFacts, spec: TargetSpec) -> None:
    alike = spec.kind in ("auto", facts.kind) or {spec.kind, facts.kind} <= set(SURVIVAL)
    if not alike:
        raise UsageError(f"--target: {spec.kind} was asked for, and the model answers {facts.name} as {facts.kind}.")


def _refuse_seen(model: Model, labels: Mapping[str, LabelRow], records: Mapping[str, CommitRecord]) -> None:
    """Refuse slides, patients and contents that the model has learnt from."""
    seen = model.seen
    slides = [slide for slide in labels if slide in seen.slides]
    copies = [
        slide
        for slide in labels
        if slide not in seen.slides and records[slide].facts.get("identity") in seen.identities
    ]
    cases = sorted(
        {row.case_id for slide, row in labels.items() if row.case_id in seen.cases and slide not in seen.slides}
    )
    found = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for names, what in ((slides, "slides"), (copies, "slides under other names"), (cases, "patients"))
        if names
    ]
    if found:
        raise UsageError(
            f"The model was trained, or its epoch chosen, on {' and '.join(found)} of this table: scores on them would be too "
            "high. Leave them out of the table; a cross-validation's own scores stand in its crossval.json."
        )


def _check_label(facts: TargetFacts, label: str, slide_id: str) -> None:
    if facts.kind in SURVIVAL:
        return
    try:
        TargetCoding(facts.name, facts.kind, facts.classes).encode(label)
    except ManifestError as error:
        raise ManifestError(f"Slide {slide_id}: {error} The model knows no other.") from None


def _empty_result(model: Model, facts: TargetFacts, *, context: dict[str, Any]) -> CrossvalResult:
    card = model.card
    settled = zip(model.members, card.temperatures, card.thresholds, strict=True)
    return CrossvalResult(
        settings={**model.card.training, "head": model.card.head},
        classes=facts.columns,
        feature_set=model.card.features.name,
        versions=package_versions(),
        context=context,
        kind=facts.kind,
        horizons=facts.horizons,
        runs=[
            FoldRun(member, 0, head.best_epoch, len(head.history), temperature, threshold)
            for member, (head, temperature, threshold) in enumerate(settled)
        ],
    )


def _keep(result: CrossvalResult, facts: TargetFacts, answer: Answer, *, row: tuple[str, str, str]) -> None:
    slide_id, case_id, label = row
    for member, values in enumerate(answer.by_member[facts.name]):
        result.predictions.append(PredictionRow(slide_id, case_id, label, member, 0, tuple(values.tolist())))
        result.splits.append(SplitRow(member, 0, "test", slide_id))
    if answer.attention is not None:
        result.attention[slide_id] = answer.attention.astype("float32")


def _unlabelled(join: LabelJoin) -> list[str]:
    if not join.slides_without_row:
        return []
    return [f"{len(join.slides_without_row)} slides of the set have no row in the label table and are not judged."]


def _poor(dataset: BagDataset) -> list[str]:
    few = PredictSpec().min_tiles
    poor = [r for r in dataset.records if r.facts["tiles"] - r.facts["invalid_tiles"] < few]
    return [f"{len(poor)} judged slides have fewer than {few} tiles: `predict` would abstain on them."] if poor else []
