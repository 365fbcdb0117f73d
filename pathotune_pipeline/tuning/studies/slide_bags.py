"""Labelled slides of a store as a study's items, with one bag each for every feature set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.split_files import read_splits
from pathotune_pipeline.bags.split_matching import match_splits
from pathotune_pipeline.bags.splits import patient_holdout, split_off_validation
from pathotune_pipeline.bags.target_table import join_targets
from pathotune_pipeline.bags.targets import TargetSpec
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation.material import without_rejected
from pathotune_pipeline.provenance import short
from pathotune_pipeline.store.store import open_store
from pathotune_pipeline.tuning.studies.cell import Items, items_fingerprint
from pathotune_pipeline.tuning.studies.file import SlideSource
from pathotune_pipeline.tuning.studies.protocol import Division, fewer_tiles, slide_division
from pathotune_pipeline.tuning.studies.spec import ProtocolSpec


@dataclass(frozen=True, slots=True, eq=False)
class SlideBags:
    """Slides that every feature set has.

    Attributes:
        items: in the order of their ids.
        bags: feature set's name in the study -> bags, in the same order.
        recipes: the same -> what decides its features.
        division: which of them train, validate and are judged.
        notes: what was left out.
    """

    items: Items
    bags: Mapping[str, Sequence[Bag]]
    recipes: Mapping[str, str]
    division: Division
    notes: tuple[str, ...]


def read_slide_bags(source: SlideSource, spec: ProtocolSpec) -> SlideBags:
    """Read the slides that all feature sets and the label table have.

    Args:
        source: store, sets, table.
        spec: shares of parts that are not named, and the most tiles.

    Raises:
        UsageError: a set or column does not exist, or labels, splits and sets do not fit.
    """
    if not source.features:
        raise UsageError("slides.features: name at least one feature set.")
    store, rows = open_store(source.store), read_table(source.labels).rows
    target = {source.target: TargetSpec()}
    datasets, notes = {}, list[str]()
    for name, prefix in source.features.items():
        found = store.find_set(prefix)
        join = join_targets(store.records(found), rows, target)
        labelled, rejected = without_rejected(store, join.labels)
        datasets[name] = BagDataset(store, found, labelled)
        notes += [*join.notes, *rejected, *datasets[name].notes]
    shared = set.intersection(*({record.slide_id for record in each.records} for each in datasets.values()))
    for name, dataset in datasets.items():
        if len(dataset.records) > len(shared):
            notes.append(f"{len(dataset.records) - len(shared)} slides of {name} are not in every set, and stay out.")
    first = next(iter(datasets.values()))
    ids = sorted(shared)
    labels = {slide: str(first.labels[slide].label) for slide in ids}
    groups = {slide: first.labels[slide].case_id for slide in ids}
    classes = tuple(sorted(set(labels.values())))
    if len(classes) < 2:
        raise ManifestError(f"slides.target {source.target!r}: two classes are needed; found {list(classes)}.")
    prints = {
        name: [
            record.fingerprint for record in sorted(each.records, key=lambda r: r.slide_id) if record.slide_id in shared
        ]
        for name, each in datasets.items()
    }
    targets = np.array([classes.index(labels[slide]) for slide in ids], np.int64)
    columns = {"names": ids, "labels": targets.tolist(), "classes": classes, "groups": [groups[each] for each in ids]}
    empty = ("",) * len(ids)
    items = Items(
        tuple(ids), targets, classes, tuple(groups[each] for each in ids), empty, empty, items_fingerprint(columns)
    )
    parts, told = _parts(source, labels, groups, spec)
    return SlideBags(
        items,
        {name: _bags(each, ids, spec) for name, each in datasets.items()},
        {
            name: f"{datasets[name].features_set} {short(items_fingerprint({'records': own}))}"
            for name, own in prints.items()
        },
        slide_division(parts, ids, told),
        tuple(dict.fromkeys(notes)),
    )


def _bags(dataset: BagDataset, ids: Sequence[str], spec: ProtocolSpec) -> list[Bag]:
    place = {record.slide_id: at for at, record in enumerate(dataset.records)}
    return [fewer_tiles(dataset[place[each]], spec.max_tiles, seed=spec.split_seed) for each in ids]


def _parts(
    source: SlideSource, labels: Mapping[str, str], groups: Mapping[str, str], spec: ProtocolSpec
) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
    """Slides of each part, and how they came about."""
    if source.splits is None:
        fold = patient_holdout(
            labels, groups, test_share=spec.test_share, val_share=spec.val_share, seed=spec.split_seed
        )
        return fold.parts(), ["No splits are named: the parts are cut by patient."]
    told = read_splits(source.splits)
    folds, notes = match_splits(told, groups)
    if len(folds) > 1:
        notes.append(f"{told.source} has {len(folds)} folds; the first is taken.")
    parts = {name: tuple(each for each in own if each in labels) for name, own in folds[0].parts.items()}
    if not any(fold.parts["test"] for fold in told.folds):  # what is called val chooses and is judged, as in eva
        parts |= {"val": parts["test"], "test": ()}
        notes = [note for note in notes if "has no test part" not in note]
    elif not parts["val"]:
        train, val = split_off_validation(
            parts["train"], labels, groups, key=(spec.split_seed, 0), share=spec.val_share
        )
        parts |= {"train": train, "val": val}
        notes.append(f"{told.source} has no validation part: it is cut from the training part by patient.")
    return parts, notes
