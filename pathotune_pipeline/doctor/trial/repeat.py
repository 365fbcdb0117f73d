"""Whether the same slide gives the same features again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.engine.device import cpu_threads
from pathotune_pipeline.features.persist import load_grid
from pathotune_pipeline.features.resident import Resident
from pathotune_pipeline.slides.open import open_checked
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.tiles.read import read_tiles


@dataclass(frozen=True, slots=True)
class SlideFeatures:
    """What the store holds of one slide.

    Attributes:
        coords: int64 [N, 2], level-0 px.
        rows: float16 [N, D].
        valid: bool [N].
    """

    coords: np.ndarray
    rows: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, slots=True)
class Agreement:
    """One set of features held against another.

    Attributes:
        slides: that both should have.
        equal: slides whose tiles and features are the same bits.
        largest: largest difference of a feature, as a share of the largest feature; 0 where all are equal.
        faults: what cannot be compared: a slide that one lacks, other tiles, other tiles that could not be read.
    """

    slides: int
    equal: int
    largest: float = 0.0
    faults: tuple[str, ...] = field(default=())

    @property
    def same_bits(self) -> bool:
        return self.equal == self.slides and not self.faults

    def within(self, tolerance: float) -> bool:
        """Whether no feature differs by more than a share of the largest one."""
        return not self.faults and self.largest <= tolerance


def read_features(store: FeatureStore, features: SetName) -> dict[str, SlideFeatures]:
    """All that a set holds, by slide id; data that do not have their record's checksums are an error.

    Raises:
        CorruptDataError: they have not, or cannot be read.
    """
    found = {}
    for slide_id, record in store.records(features).items():
        store.verify(record)
        found[slide_id] = SlideFeatures(
            store.read(record.made_from("tiles"), "coords"), store.read(record, "features"), store.read(record, "valid")
        )
    return found


def compare(first: Mapping[str, SlideFeatures], again: Mapping[str, SlideFeatures]) -> Agreement:
    """Hold features against those of another run.

    Args:
        first: of the run that is taken as the truth.
        again: of the other.
    """
    equal, largest, faults = 0, 0.0, []
    for slide_id, one in first.items():
        other = again.get(slide_id)
        if other is None:
            faults.append(f"{slide_id}: has no features")
        elif not np.array_equal(one.coords, other.coords):
            faults.append(f"{slide_id}: has other tiles")
        elif not np.array_equal(one.valid, other.valid):
            faults.append(f"{slide_id}: other tiles could not be read")
        elif one.rows.tobytes() == other.rows.tobytes():
            equal += 1
        else:
            largest = max(largest, _difference(one.rows, other.rows))
    faults += [f"{slide_id}: was not there before" for slide_id in again.keys() - first.keys()]
    return Agreement(len(first), equal, largest, tuple(faults))


def shuffled_batch(
    store: FeatureStore, features: SetName, item: SlideItem, resident: Resident, *, seed: int = 0
) -> Agreement:
    """Encode a batch of a slide's tiles twice, the second time in another order: each tile has other neighbours.

    Args:
        store: that has the slide's features.
        features: their set.
        item: the slide.
        resident: the encoder.
        seed: of the order.

    Raises:
        SlideError: the slide cannot be opened again.
    """
    record = store.records(features)[item.slide_id]
    grid = load_grid(store, record.made_from("tiles"))
    count = min(len(grid), resident.batch_size)
    pixels = np.zeros((resident.batch_size, grid.tile_px, grid.tile_px, 3), np.uint8)
    facts: Any = dict(store.group(record).attrs)["settings"]["slide"]
    slide = open_checked(item.path, SlideSpec.parse(facts), mpp=item.mpp)
    try:
        read_tiles(slide, grid, 0, count, pixels[:count])
    finally:
        slide.close()
    order = np.random.default_rng(seed).permutation(resident.batch_size)
    with cpu_threads(1):
        one, other = (
            resident.encode(torch.from_numpy(batch).to(resident.device)).cpu().numpy()
            for batch in (pixels, pixels[order])
        )
    back = np.empty_like(other)
    back[order] = other
    one, back = one[:count], back[:count]
    same = one.tobytes() == back.tobytes()
    return Agreement(1, int(same), 0.0 if same else _difference(one, back))


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference as a share of the largest value; infinite where one is no number and the other is."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    scale = float(np.abs(a[finite]).max(initial=0.0)) or 1.0
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / scale
