"""What a study is made of, in stores and tables: bags, sites and an external test set, with their features or without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.cache import make_cache
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelJoin, LabelRow, join_labels
from pathotune_pipeline.bags.sites import TCGA
from pathotune_pipeline.bags.target_table import join_targets, targets_of_label
from pathotune_pipeline.bags.targets import TargetSpec
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.crossval import CrossvalSpec, Sources
from pathotune_pipeline.features.reviewed import REJECTED, rejected_among
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore, open_store

Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Material:
    """What a study is made of.

    Attributes:
        features: name of the feature set.
        own: slides to train on and to test by fold.
        external: slides that are judged alone, or None.
        several: whether there are several targets, so that a label is a mapping.
        sites: slide id -> site, or None.
        notes: what was left out, one sentence each.
    """

    features: str
    own: BagDataset
    external: BagDataset | None
    several: bool
    sites: Mapping[str, str] | None
    notes: list[str]

    def labelled(self) -> tuple[list[Bag], Sources]:
        """Bags that bear their labels and a single tile of zeros, for what can be checked before features are read."""
        return self._gathered(_bare, record=False)

    def read(self, cache: Path | None = None) -> tuple[list[Bag], Sources]:
        """Bags with their features.

        Args:
            cache: folder of a training cache, from which they are mapped; None reads them into memory.

        Raises:
            CorruptDataError: what was committed cannot be read.
            StoreUnwritableError: the cache has no room.
        """

        def read_all(dataset: BagDataset) -> Iterator[Bag]:
            source = dataset if cache is None else make_cache(dataset, cache)
            return (source[i] for i in range(len(source)))

        return self._gathered(read_all, record=True)

    def _gathered(self, reader: Callable[[BagDataset], Iterable[Bag]], *, record: bool) -> tuple[list[Bag], Sources]:
        own, external = (self._bags(each, reader) for each in (self.own, self.external))
        return own, Sources(sites=self.sites, external=external, record=record)

    def _bags(self, dataset: BagDataset | None, reader: Callable[[BagDataset], Iterable[Bag]]) -> list[Bag]:
        if dataset is None:
            return []
        bags = list(reader(dataset))
        if self.several:
            bags = [replace(bag, target=targets_of_label(str(bag.target))) for bag in bags]
        return bags


def open_material(
    store: Path | str, features: str, labels: Path, *, spec: CrossvalSpec, targets: Mapping[str, TargetSpec]
) -> Material:
    """Find what a study is made of; no features are read yet.

    Args:
        store: the store's folder.
        features: name of a feature set, or the beginning of one.
        labels: the label table.
        spec: names the site's column and the external test set.
        targets: column -> its Spec.

    Raises:
        UsageError: the store, the set or a table do not allow it, or the external test set is named twice or is empty.
    """
    _check_external(spec)
    opened = open_store(store)
    features_set = opened.find_set(features)
    records = opened.records(features_set)
    rows = read_table(labels).rows
    join = join_targets(records, rows, targets)
    notes = [*join.notes, *_left_out(join)]
    own, told = without_rejected(opened, join.labels)
    notes += told
    external: BagDataset | None = None
    if spec.test_where:
        away = _held_out(spec.test_where, own, records, rows)
        own = {slide: row for slide, row in own.items() if slide not in away}
        external = BagDataset(opened, features_set, away)
    elif spec.external_labels:
        external, told = _other(spec, opened, features_set, targets)
        notes += told
    dataset = BagDataset(opened, features_set, own)
    notes += [*dataset.notes, *(f"External test set: {note}" for note in (external.notes if external else ()))]
    return Material(
        features=str(features_set).removeprefix("features-"),
        own=dataset,
        external=external,
        several=len(targets) > 1,
        sites=_sites(records, rows, spec.site),
        notes=notes,
    )


def without_rejected(store: FeatureStore, labels: Mapping[str, LabelRow]) -> tuple[dict[str, LabelRow], list[str]]:
    """The labelled slides but for those that reviewers rejected, and a sentence on these."""
    rejected = rejected_among(store, labels)
    kept = {slide_id: row for slide_id, row in labels.items() if slide_id not in rejected}
    return kept, _note(f"slides are {REJECTED} and left out", sorted(rejected))


def _check_external(spec: CrossvalSpec) -> None:
    if spec.test_where and (spec.external_labels or spec.external_store):
        raise UsageError("--test-where and --external-labels both name the external test set. Keep one.")
    if spec.external_store and not spec.external_labels:
        raise UsageError("--external-store needs the label table of its slides: give --external-labels.")


def _held_out(text: str, labels: Mapping[str, LabelRow], slides: Iterable[str], rows: Rows) -> dict[str, LabelRow]:
    """The labelled slides of which the table says COLUMN=VALUE."""
    column, mark, wanted = text.partition("=")
    values = {value.strip() for value in wanted.split(",")} - {""}
    if not mark or not values:
        raise UsageError(f"--test-where {text!r}: give COLUMN=VALUE, or several values by commas.")
    said = {slide: row.label for slide, row in join_labels(slides, rows, target=column).labels.items()}
    absent = sorted(values - set(said.values()))
    if absent:
        raise UsageError(
            f"--test-where {text!r}: no slide has {absent[0]!r} in column {column!r}; found "
            f"{', '.join(sorted(set(said.values())))}."
        )
    return {slide: row for slide, row in labels.items() if said.get(slide) in values}


def _other(
    spec: CrossvalSpec, store: FeatureStore, features_set: SetName, targets: Mapping[str, TargetSpec]
) -> tuple[BagDataset, list[str]]:
    """The external test set of a table of its own, in the same store or another."""
    other = open_store(spec.external_store) if spec.external_store else store
    if features_set not in other.sets():
        raise UsageError(
            f"--external-store {spec.external_store}: it has no set {features_set}, which the models learn from. Extract "
            "its slides with the same settings."
        )
    join = join_targets(other.records(features_set), read_table(Path(str(spec.external_labels))).rows, targets)
    kept, told = without_rejected(other, join.labels)
    notes = [f"External test set: {note}" for note in (*join.notes, *_left_out(join), *told)]
    return BagDataset(other, features_set, kept), notes


def _sites(slides: Iterable[str], rows: Rows, column: str | None) -> dict[str, str] | None:
    """Each slide's site from the table; None where no column is named, or the barcode tells."""
    if column is None or (column == TCGA and TCGA not in rows[0]):
        return None
    return {slide: row.label for slide, row in join_labels(slides, rows, target=column).labels.items()}


def _bare(dataset: BagDataset) -> Iterable[Bag]:
    for record in dataset.records:
        row = dataset.labels[record.slide_id]
        tile = np.zeros((1, 1), np.float16), np.zeros((1, 2), np.int64)
        yield Bag(*tile, bag_id=record.slide_id, group=row.case_id, target=row.label)


def _left_out(join: LabelJoin, most: int = 3) -> list[str]:
    found = {
        "slides have no row in the label table": join.slides_without_row,
        "rows of the label table have no slide in the set": join.rows_without_slide,
        "patients of the label table have no slide in the set": join.patients_without_slide,
    }
    return [note for what, names in found.items() for note in _note(what, names, most)]


def _note(what: str, names: Sequence[str], most: int = 3) -> list[str]:
    return [f"{len(names)} {what} ({', '.join(names[:most])})."] if names else []
