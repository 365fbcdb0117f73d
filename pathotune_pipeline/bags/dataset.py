"""Bags from a store: one labelled slide each, only tiles that could be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.labels import LabelRow
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import CommitRecord, FeatureStore


@dataclass(slots=True)
class BagDataset:
    """The labelled slides of one feature set; `dataset[i]` reads a bag from disk.

    Attributes:
        store: where the features lie.
        features_set: which set.
        labels: slide id to case and label.
        records: of the slides that have a label and at least one tile, in the order of their ids.
        notes: what was left out, one sentence each.
    """

    store: FeatureStore
    features_set: SetName
    labels: Mapping[str, LabelRow]
    records: list[CommitRecord] = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """List what can be used.

        Raises:
            UsageError: no labelled slide has a tile.
        """
        known = self.store.records(self.features_set)
        labelled = [record for slide_id, record in known.items() if slide_id in self.labels]
        self.records = [record for record in labelled if record.facts["tiles"] > record.facts["invalid_tiles"]]
        empty = len(labelled) - len(self.records)
        if empty:
            self.notes.append(f"{empty} labelled slide(s) without a single tile were left out.")
        if not self.records:
            raise UsageError(
                f"{self.features_set}: none of its {len(known)} slides has both a label and tiles. "
                "Check the label table's slide ids and `pathotune status`."
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Bag:
        """Read one bag: features fp16 [N, D], coords int64 [N, 2], of readable tiles, in raster order.

        Raises:
            CorruptDataError: what was committed cannot be read.
        """
        record = self.records[index]
        row = self.labels[record.slide_id]
        return read_bag(self.store, record, case_id=row.case_id, target=row.label)

    def bag(self, index: int, features: np.ndarray, coords: np.ndarray) -> Bag:
        """These features [N, D] at these places [N, 2] as the slide's labelled bag."""
        slide_id = self.records[index].slide_id
        row = self.labels[slide_id]
        return Bag(features, coords, bag_id=slide_id, group=row.case_id, target=row.label)


def read_bag(store: FeatureStore, record: CommitRecord, *, case_id: str, target: str | None = None) -> Bag:
    """A committed slide as a bag: features [N, D] and coords int64 [N, 2] of readable tiles, in raster order.

    Raises:
        CorruptDataError: what was committed cannot be read.
    """
    valid = store.read(record, "valid").astype(bool)
    return Bag(
        features=store.read(record, "features")[valid],
        coords=store.read(record.made_from("tiles"), "coords")[valid],
        bag_id=record.slide_id,
        group=case_id,
        target=target,
    )
