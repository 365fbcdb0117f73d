"""Tiles of labelled slides in memory: a pool of each slide's, drawn once from the grid that its features were made on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import join_labels
from pathotune_pipeline.errors import ManifestError, SlideError, UsageError
from pathotune_pipeline.evaluation.material import without_rejected
from pathotune_pipeline.features.persist import load_grid
from pathotune_pipeline.features.recorded import open_recorded
from pathotune_pipeline.store.store import CommitRecord, FeatureStore, open_store
from pathotune_pipeline.tiles.read import read_tile

_POOL = 0x9001


@dataclass(frozen=True, slots=True, eq=False)
class SlidePool:
    """One slide's tiles.

    Attributes:
        slide_id: whose.
        group: the patient.
        label: class name.
        tiles: uint8 [N, P, P, 3], drawn without replacement from those that its features were made of.
        coords: int64 [N, 2], their places, (x, y) in level-0 pixels.
    """

    slide_id: str
    group: str
    label: str
    tiles: np.ndarray
    coords: np.ndarray


@dataclass(frozen=True, slots=True)
class SlideSource:
    """Where labelled slides are.

    Attributes:
        slides: the archive's folder.
        store: with features of these slides; of them the places of the tiles are taken.
        features: name of the feature set, or the beginning of one.
        labels: table of slides, patients and classes.
        target: its column with the class.
        manifest: table of the slides, as they were extracted with one.
    """

    slides: Path
    store: Path | str
    features: str
    labels: Path
    target: str
    manifest: Path | None = None


def read_pools(source: SlideSource, *, tiles: int, seed: int) -> tuple[list[SlidePool], list[str]]:
    """Draw and read tiles of every labelled slide of a feature set.

    Which tiles are drawn hangs on the seed and the slide's id alone.

    Args:
        source: where they are.
        tiles: of each slide at most.
        seed: of the draw.

    Returns:
        The slides with a label and tiles, in the order of their ids; and what a reader should know of others.

    Raises:
        UsageError: the store, the set or the table do not allow it.
        ManifestError: a slide of the set is not below the folder.
        SlideError: a tile cannot be read; the message names the slide.
    """
    store = open_store(source.store)
    features_set = store.find_set(source.features)
    join = join_labels(store.records(features_set), read_table(source.labels).rows, target=source.target)
    labels, rejected = without_rejected(store, join.labels)
    dataset = BagDataset(store, features_set, labels)
    items = {item.slide_id: item for item in read_manifest(source.slides, source.manifest).items}
    absent = sorted(record.slide_id for record in dataset.records if record.slide_id not in items)
    if absent:
        raise ManifestError(
            f"--slides {source.slides}: {len(absent)} labelled slides of {source.features} are not there, such as "
            f"{absent[0]}. Give the folder, and the manifest, that they were extracted from; slides of a pseudonymised store "
            "cannot be found by their names."
        )
    pools = []
    for record in dataset.records:
        item, row = items[record.slide_id], labels[record.slide_id]
        try:
            pixels, coords = _read(store, record, item, tiles=tiles, seed=seed)
        except SlideError as error:
            raise type(error)(f"{record.slide_id}: {error}") from error
        pools.append(SlidePool(record.slide_id, row.case_id, row.label, pixels, coords))
    return pools, [*join.notes, *rejected, *dataset.notes]


def check_pools(pools: Sequence[SlidePool]) -> int:
    """The side of the tiles in pixels, which all pools share.

    Raises:
        UsageError: there are no pools, or their tiles differ in size.
    """
    sides = {int(pool.tiles.shape[1]) for pool in pools}
    if len(sides) != 1:
        raise UsageError(f"The slides' tiles have sides of {sorted(sides)} px; one size is needed.")
    return sides.pop()


def _read(
    store: FeatureStore, record: CommitRecord, item: SlideItem, *, tiles: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    slide = open_recorded(store, record, item)
    try:
        grid = load_grid(store, record.made_from("tiles"))
        usable = np.flatnonzero(store.read(record, "valid").astype(bool))
        own = int.from_bytes(hashlib.sha256(record.slide_id.encode()).digest()[:8], "big")
        drawn = np.sort(np.random.default_rng([seed, _POOL, own]).permutation(usable)[:tiles])
        pixels = np.empty((len(drawn), grid.tile_px, grid.tile_px, 3), np.uint8)
        for place, index in enumerate(drawn.tolist()):
            read_tile(slide, grid, index, pixels[place])
    finally:
        slide.close()
    return pixels, grid.coords[drawn]
