"""Predictions: of a store's features, or end to end from slides."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.dataset import read_bag
from pathotune_pipeline.bags.patients import fuse_by_patient
from pathotune_pipeline.errors import CorruptDataError, StoreUnwritableError
from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
from pathotune_pipeline.features.extract import check_device, extract, may_use_gpus
from pathotune_pipeline.features.plan import ExtractSpec, make_recipe
from pathotune_pipeline.features.reviewed import REJECTED, rejected_among
from pathotune_pipeline.models.adapter import kept_adapter
from pathotune_pipeline.models.folder import Model
from pathotune_pipeline.models.inputs import InputSlide, inputs_of_run, inputs_of_store, quality_of
from pathotune_pipeline.models.kept import KeptAnswers
from pathotune_pipeline.models.quality import PredictSpec, objections
from pathotune_pipeline.models.recipe import recipe_of, recipe_of_spec
from pathotune_pipeline.models.table import PredictionLine, count_new, count_statuses
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.store import FeatureStore

OnLine = Callable[[PredictionLine], None]


def predict_store(
    model: Model, store: FeatureStore, features: str | None, spec: PredictSpec, *, on_line: OnLine | None = None
) -> list[PredictionLine]:
    """Predict every slide of a feature set, and tell of those that its last run could not make.

    Args:
        model: which.
        store: holds the features.
        features: name of the set, or its beginning; None takes the one that the model was trained on.
        spec: when to abstain.
        on_line: told of each slide.

    Raises:
        UsageError: there is no such set, or it is of another recipe than the model's.
    """
    features_set = model_set(model, store, features)
    return predict_inputs(model, store, inputs_of_store(store, features_set), spec, on_line=on_line)


def model_set(model: Model, store: FeatureStore, features: str | None) -> SetName:
    """The set that is meant, checked to be of the model's recipe.

    Raises:
        UsageError: there is none, or it is of another recipe.
    """
    features_set = store.find_set(features or model.card.features.name)
    model.check_features(recipe_of(store, features_set))
    return features_set


def predict_inputs(
    model: Model,
    store: FeatureStore,
    inputs: Iterable[InputSlide],
    spec: PredictSpec,
    *,
    on_line: OnLine | None = None,
) -> list[PredictionLine]:
    """One line for each slide, in the same order. A model of patients answers for all slides of one at once.

    Of slides that reviewers rejected the line says just that. What the model answered before, of the same features and under
    the same rules, is not worked out again (`models.kept`).
    """
    inputs = list(inputs)
    rejected = rejected_among(store, (each.slide_id for each in inputs))
    found = {
        each.slide_id: PredictionLine(each.slide_id, each.case_id, "abstained", REJECTED)
        for each in inputs
        if each.slide_id in rejected
    }
    kept = KeptAnswers(model, store, spec)
    try:
        for together in _together([each for each in inputs if each.slide_id not in rejected], fused=model.fused):
            for line in _answer(model, store, together, spec, kept=kept):
                found[line.slide_id] = line
                if on_line:
                    on_line(line)
    finally:
        kept.save()
    lines = [found[each.slide_id] for each in inputs]
    with contextlib.suppress(StoreUnwritableError):  # a store may be read where nobody may write
        enter(
            store,
            "predict",
            model=model.card.fingerprint,
            features=model.card.features.name,
            counts={**count_statuses(lines), "new": count_new(lines)},
        )
    return lines


def predict_slides(
    model: Model,
    manifest: Manifest,
    store: FeatureStore,
    spec: PredictSpec,
    *,
    extraction: ExtractSpec,
    execution: ExecutionSpec,
    **told: Any,
) -> list[PredictionLine]:
    """Predict slides end to end: their features are made by the model's recipe, into a store.

    Args:
        model: which.
        manifest: the slides.
        store: where features go, or are already; made if it is new.
        spec: when to abstain.
        extraction: of `model_extraction`.
        execution: where the work is done.
        told: `pseudonymiser`, `on_plan` and `on_outcome` as `extract` takes them; `on_line`.

    Raises:
        UsageError: the store cannot be written.
        WeightsError: the encoder's weights cannot be had.
        StoreUnwritableError: the store became full or read-only.
    """
    on_line: OnLine | None = told.pop("on_line", None)
    check_device(extraction, execution)
    with create_executor(execution, gpus=may_use_gpus(extraction)) as executor:
        result = extract(manifest, extraction, store, executor, **told)
    name = SetName.parse(f"features-{result.features}")
    return predict_inputs(model, store, inputs_of_run(manifest, result, store, name), spec, on_line=on_line)


def model_extraction(model: Model, changes: Mapping[str, Mapping[str, Any]]) -> ExtractSpec:
    """How the model's features are made of other slides.

    Args:
        model: which.
        changes: section -> setting -> value: where files lie, threads, device. What would make other features is refused.

    Raises:
        UsageError: the folder does not say how, or the changes make other features.
        CorruptDataError: an adapter's file is damaged.
        WeightsError: the encoder's weights cannot be had.
    """
    kept = kept_adapter(model.folder, model.card.features)
    if kept is not None:
        changes = {**changes, "encoder": {"adapter": (kept,), **changes.get("encoder", {})}}
    spec = model.card.features.extract_spec(changes)
    encoder = create_adapted_encoder(spec.encoder)
    model.check_features(recipe_of_spec(make_recipe(spec, encoder.card, encoder.recipe())))
    return spec


class TemporaryStore:
    """A store beside the table, for slides whose features nobody keeps. A context manager.

    It bears the table's name, so that the same command goes on after a kill, and it goes when all is done.
    """

    def __init__(self, table: Path) -> None:
        self.path = table.with_name(f".{table.name}.store")

    def __enter__(self) -> FeatureStore:
        return FeatureStore(self.path)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            shutil.rmtree(self.path, ignore_errors=True)


def _together(inputs: Sequence[InputSlide], *, fused: bool) -> Iterator[list[InputSlide]]:
    """Slides that are answered as one bag."""
    if not fused:
        yield from ([each] for each in inputs)
        return
    cases: dict[str, list[InputSlide]] = {}
    for each in inputs:
        cases.setdefault(each.case_id or each.slide_id, []).append(each)
    yield from cases.values()


def _answer(
    model: Model, store: FeatureStore, slides: Sequence[InputSlide], spec: PredictSpec, *, kept: KeptAnswers
) -> Iterator[PredictionLine]:
    """A line for each of the slides that are answered together, kept ones where nothing has changed."""
    asked = []
    for slide in slides:
        line = _without_features(slide)
        if line is None:
            asked.append(slide)
        else:
            yield line
    if not asked:
        return
    known = kept.take(asked)
    if known is not None:
        yield from known
        return
    made = {line.slide_id: line for line in _predict(model, store, asked, spec)}
    if all(line.status != "failed" for line in made.values()):  # what could not be read may be read the next time
        kept.keep(asked, [made[slide.slide_id] for slide in asked])
    yield from made.values()


def _predict(
    model: Model, store: FeatureStore, slides: Sequence[InputSlide], spec: PredictSpec
) -> Iterator[PredictionLine]:
    """A line for each of the slides that are answered together, all of which have tiles."""
    bags: dict[str, Bag] = {}
    for slide in slides:
        line = _too_poor(store, slide, spec)
        if line is None and slide.record is not None:
            try:
                bags[slide.slide_id] = read_bag(store, slide.record, case_id=slide.case_id or slide.slide_id)
                continue
            except CorruptDataError as error:
                line = PredictionLine(slide.slide_id, slide.case_id, "failed", str(error))
        if line is not None:
            yield line
    if not bags:
        return
    (whole,) = fuse_by_patient(bags)[0].values() if len(bags) > 1 else bags.values()
    answer = model.answer(whole)
    values = dict(answer.values)
    if spec.calibrated:
        values |= {name: scaled for name, scaled in answer.calibrated.items() if scaled is not None}
    values = {name: np.asarray(value, np.float64) for name, value in values.items()}
    cases = {slide.slide_id: slide.case_id for slide in slides}
    for slide_id, bag in bags.items():
        yield PredictionLine(slide_id, cases[slide_id], "predicted", values=values, tiles=len(bag))


def _without_features(slide: InputSlide) -> PredictionLine | None:
    """What becomes of a slide that has no features; None of one that has."""
    if slide.left:
        return PredictionLine(slide.slide_id, slide.case_id, "left", slide.reason)
    if slide.record is None or slide.failed:
        reason = slide.reason or "no features of it are in the store"
        return PredictionLine(slide.slide_id, slide.case_id, "failed", reason)
    if not int(slide.record.facts["tiles"]):
        return PredictionLine(slide.slide_id, slide.case_id, "abstained", slide.reason or "it has no tiles")
    return None


def _too_poor(store: FeatureStore, slide: InputSlide, spec: PredictSpec) -> PredictionLine | None:
    """What becomes of a slide that is too poor to be judged; None of one that is not."""
    if slide.record is None:
        return None
    facts = slide.record.facts
    tiles, invalid = int(facts["tiles"]), int(facts["invalid_tiles"])
    quality = quality_of(store, slide.record)
    found = objections(spec, tiles=tiles, invalid=invalid, quality=quality, flags=facts.get("flags") or ())
    if not found:
        return None
    return PredictionLine(slide.slide_id, slide.case_id, "abstained", "; ".join(found), tiles=tiles - invalid)
