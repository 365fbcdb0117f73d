"""ModelCard: all that a model folder says of its model, as `card.json`, and how it comes about."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.coding import output_columns
from pathotune_pipeline.bags.labels import LabelRow
from pathotune_pipeline.bags.target_table import join_targets
from pathotune_pipeline.bags.targets import TargetSpec, target_specs
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import CorruptDataError, StoreUnwritableError, UsageError
from pathotune_pipeline.evaluation.pooling import FoldRun
from pathotune_pipeline.evaluation.result import CrossvalResult, read_result, write_rows
from pathotune_pipeline.evaluation.study import Study
from pathotune_pipeline.heads.trained import load_head
from pathotune_pipeline.models.adapter import check_adapter, keep_adapter
from pathotune_pipeline.models.card_page import card_page
from pathotune_pipeline.models.recipe import FeatureRecipe, recipe_of
from pathotune_pipeline.provenance import fingerprint as fingerprint_of
from pathotune_pipeline.provenance import now, package_versions
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.store import CommitRecord, FeatureStore, open_store
from pathotune_pipeline.store.trained import TrainedModel

FORMAT = "pathotune-model"
REVISION = 1
CARD, PAGE, SLIDES = "card.json", "MODEL_CARD.md", "slides.csv"
INTENDED_USE = "research use only"
NOT_STATED = "not stated"
SLIDE_COLUMNS = ("slide_id", "case_id", "identity", "fingerprint")


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """One target as the model answers it.

    Attributes:
        name: column of the label table.
        kind: as `bags.targets`, never "auto".
        classes: of a class, a grade or labels.
        horizons: times at which survival is predicted.
        event: of survival, the column that said whether the event was seen.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    horizons: tuple[float, ...] = ()
    event: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is predicted."""
        return output_columns(self.kind, self.classes, self.horizons)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model folder says of its model.

    Attributes:
        fingerprint: 64 hexadecimal digits over the members' weights, the targets and the features' recipe.
        head: the head's name.
        members: folders of the trained heads below the model's; their answers are averaged.
        targets: in the order of the answers.
        features: which features it takes.
        data: hash of the label table, the store's name, hash of the features' commits, numbers of slides and cases of
            each part, notes.
        scores: of the targets, by name: scores with intervals; empty where nothing was held out.
        judged_on: what the scores are of.
        training: settings.
        temperatures: of the members, as fitted on validation; None where there is none.
        thresholds: of the members, likewise: from which probability on a slide is called positive.
        scores_external: as `scores`, of an external test set that was judged along; or empty.
        licences: of the encoder's weights, the data and the code.
        intended_use: what it is for.
        versions: of the libraries.
        made: when, UTC.
    """

    fingerprint: str
    head: str
    members: tuple[str, ...]
    targets: tuple[TargetFacts, ...]
    features: FeatureRecipe
    data: dict[str, Any]
    scores: dict[str, Any]
    judged_on: str
    training: dict[str, Any]
    temperatures: tuple[float | None, ...] = ()
    thresholds: tuple[float | None, ...] = ()
    scores_external: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    intended_use: str = INTENDED_USE
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with format and revision."""
        return {"format": FORMAT, "revision": REVISION, **asdict(self)}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `as_dict` gave, back from JSON.

        Raises:
            CorruptDataError: it is of another format, or something is missing.
        """
        plain = dict(values)
        if (plain.pop("format", None), plain.pop("revision", None)) != (FORMAT, REVISION):
            raise CorruptDataError(
                f"{CARD}: expected {FORMAT!r} revision {REVISION}, found {values.get('format')!r} "
                f"{values.get('revision')!r}. Use the version that wrote it."
            )
        try:
            targets = tuple(
                TargetFacts(each["name"], each["kind"], tuple(each["classes"]), tuple(each["horizons"]), each["event"])
                for each in plain.pop("targets")
            )
            features = FeatureRecipe.of_dict(plain.pop("features"))
            lists: dict[str, Any] = {name: tuple(plain.pop(name)) for name in ("members", "temperatures", "thresholds")}
            return cls(targets=targets, features=features, **lists, **plain)
        except (KeyError, TypeError) as error:
            raise CorruptDataError(
                f"{CARD}: it lacks something, or has too much ({error}). Copy the folder again, whole."
            ) from None


def card_writer(study: Study, *, licence: str = NOT_STATED, adapter: str | None = None) -> Callable[[Path], None]:
    """What adds a card to a result's folder, for `run_study(finish=...)`. The features' recipe is read now, before training.

    Args:
        study: from what the models are made.
        licence: of the data, as the user states it.
        adapter: FILE or FILE#N that the features were made with, to be kept in the folder.

    Raises:
        UsageError: there is no such store or set, or the adapter is not that of the set.
        CorruptDataError: the set's records do not say how it was made.
    """
    store = open_store(study.store)
    features_set = store.find_set(study.features)
    recipe = recipe_of(store, features_set)
    kept = None if adapter is None else check_adapter(adapter, recipe)

    def finish(folder: Path) -> None:
        if kept is not None:
            keep_adapter(kept, folder)
        result = read_result(folder)
        records = store.records(features_set)
        targets = target_specs(study.target, result.settings.get("targets") or {})
        used = {row.slide_id for row in result.splits}
        labels = _labels(study.labels, records, targets)
        if result.settings.get("unit") == "fuse":  # the parts name patients
            used = {slide_id for slide_id, row in labels.items() if row.case_id in used}
        slides = [(record, labels[name]) for name, record in records.items() if name in used and name in labels]
        card = write_card(
            folder,
            result,
            recipe,
            slides=slides,
            data={"store": store.name, "labels_sha256": hashlib.sha256(study.labels.read_bytes()).hexdigest()},
            licence=licence,
        )
        _enter(store, card, study.out.name, {record.slide_id: label.case_id for record, label in slides})

    return finish


def _enter(store: FeatureStore, card: ModelCard, name: str, cases: Mapping[str, str]) -> None:
    """Keep in the store which slides a model has seen, before the model is seen itself."""
    with contextlib.suppress(StoreUnwritableError):  # a store may be read where nobody may write
        TrainedModel(card.fingerprint, name, card.features.name, cases).save(store)
        facts = {"model": card.fingerprint, "head": card.head, "features": card.features.name, "slides": len(cases)}
        enter(store, "train", **facts)


def write_card(
    folder: Path,
    result: CrossvalResult,
    features: FeatureRecipe,
    *,
    slides: Sequence[tuple[CommitRecord, LabelRow]],
    data: Mapping[str, Any],
    licence: str,
) -> ModelCard:
    """Write `slides.csv`, `MODEL_CARD.md` and, last, `card.json` into a result's folder.

    Args:
        folder: as `write_result` wrote it.
        result: what is in it.
        features: which the models take.
        slides: commit and label of every slide that is in a part.
        data: further facts of the data.
        licence: of the data.
    """
    members = member_folders(folder)
    targets = targets_of(folder / members[0], result)
    target, runs = str(result.context.get("target", "")), runs_of(members, result)
    parts = {
        part: {row.slide_id for row in result.splits if row.part == part} for part in ("train", "val", "test")
    }  # of a cross-validation a slide is in each
    cases = {record.slide_id: label.case_id for record, label in slides}
    commits = "".join(f"{record.slide_id} {record.fingerprint}\n" for record, _ in slides)
    card = ModelCard(
        fingerprint=fingerprint_members(folder, members, targets, features),
        head=str(result.settings["head"]),
        members=tuple(members),
        targets=targets,
        features=features,
        data={
            **data,
            "commits_sha256": hashlib.sha256(commits.encode()).hexdigest(),
            "slides": {part: len(ids) for part, ids in parts.items()},
            "cases": {part: len({cases.get(each, each) for each in ids}) for part, ids in parts.items()},
            "notes": list(dict.fromkeys([*result.notes, *result.context.get("notes", [])])),
        },
        scores={target: result.scores} if result.scores else {},
        judged_on=_judged_on(result),
        training=result.settings,
        temperatures=tuple(run.temperature for run in runs),
        thresholds=tuple(run.threshold for run in runs),
        scores_external={target: result.external["scores"]} if result.external else {},
        licences={"encoder": features.licence, "data": licence, "code": "Apache-2.0"},
        versions=package_versions(),
        made=now(),
    )
    rows = (
        [record.slide_id, label.case_id, str(record.facts.get("identity") or ""), record.fingerprint]
        for record, label in slides
    )
    write_rows(folder / SLIDES, SLIDE_COLUMNS, rows)
    write_atomically(folder / PAGE, card_page(card.as_dict()).encode())
    text = json.dumps(card.as_dict(), indent=1, allow_nan=False) + "\n"
    write_atomically(folder / CARD, text.encode())
    return card


def member_folders(folder: Path) -> list[str]:
    """The trained heads of a folder, below it, in the order of seed and fold.

    Raises:
        UsageError: there is none.
    """
    found = sorted((path.parent for path in folder.glob("models/*/head.json")), key=lambda path: _numbers(path.name))
    if not found:
        raise UsageError(
            f"{folder}: no trained head is in it (models/*/head.json). Give a folder of train or crossval."
        )
    return [path.relative_to(folder).as_posix() for path in found]


def runs_of(members: Iterable[str], result: CrossvalResult) -> list[FoldRun]:
    """How each member was trained, in the members' order."""
    runs = {f"models/seed{run.seed}-fold{run.fold}": run for run in result.runs}
    return [runs[name] for name in members]


def targets_of(member: Path, result: CrossvalResult) -> tuple[TargetFacts, ...]:
    """The targets that a head answers, in the order of its answers."""
    trained = load_head(member)
    if trained.task is None:
        return (TargetFacts(str(result.context.get("target", "target")), result.kind, trained.classes),)
    asked = result.settings.get("targets") or {}
    return tuple(
        TargetFacts(each.name, each.kind, each.classes, each.horizons, (asked.get(each.name) or {}).get("event", ""))
        for each in trained.task.codings
    )


def fingerprint_members(
    folder: Path, members: Iterable[str], targets: Sequence[TargetFacts], features: FeatureRecipe
) -> str:
    """The model's fingerprint: its members' weights, what they answer, and what they take."""
    weights = [hashlib.sha256((folder / each / "head.safetensors").read_bytes()).hexdigest() for each in members]
    tasks = [asdict(each) for each in targets]
    return fingerprint_of("model", REVISION, {"weights": weights, "targets": tasks, "features": features.fingerprint})


def _labels(table: Path, slide_ids: Iterable[str], targets: Mapping[str, TargetSpec]) -> dict[str, LabelRow]:
    return join_targets(slide_ids, read_table(table).rows, targets).labels


def _judged_on(result: CrossvalResult) -> str:
    if not result.predictions:
        return "nothing: no slide was held out"
    slides = {row.slide_id for row in result.predictions}
    cases = {row.case_id for row in result.predictions}
    whose = "the held-out test part" if len({run.fold for run in result.runs}) == 1 else "all slides, out of fold"
    return f"{whose}: {len(slides)} slides of {len(cases)} patients"


def _numbers(name: str) -> tuple[int, ...]:
    digits = "".join(mark if mark.isdigit() else " " for mark in name).split()
    return tuple(int(each) for each in digits)
