"""The slides of cases in a store: joined by name, read, and laid below each other without overlap."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.dataset import read_bag
from pathotune_pipeline.bags.labels import SlideIndex
from pathotune_pipeline.bags.split_files import some_names
from pathotune_pipeline.errors import CorruptDataError, ManifestError
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import CommitRecord, FeatureStore
from pathotune_pipeline.tuning.cases.table import CaseTable

GAP_PX = 1500
"""Least distance between two slides of a case, level-0 pixels, as ModalTune has it."""
_SHUFFLE = 0xB1A5


@dataclass(frozen=True, slots=True, eq=False)
class CaseTiles:
    """All tiles of a case's slides.

    Attributes:
        features: [N, D] float16 or float32, slide after slide.
        coords: int64 [N, 2], (x, y) in level-0 pixels of the first slide; slides stand below each other.
        slide: int64 [N], which of the case's slides.
        stride_px: from tile to tile.
    """

    features: np.ndarray
    coords: np.ndarray
    slide: np.ndarray
    stride_px: int

    def __len__(self) -> int:
        return len(self.features)

    def part(self, most: int, *, key: Sequence[int]) -> CaseTiles:
        """At most so many tiles, drawn at random, in their order.

        Args:
            most: at least 1.
            key: decides the draw.
        """
        if len(self) <= most:
            return self
        chosen = np.sort(np.random.default_rng([_SHUFFLE, *key]).permutation(len(self))[:most])
        return CaseTiles(self.features[chosen], self.coords[chosen], self.slide[chosen], self.stride_px)


def join_tiles(bags: Sequence[Bag], strides_px: Sequence[float]) -> CaseTiles:
    """Slides below each other: each begins a tile and GAP_PX or more below the last one's lowest corner.

    Offsets are whole strides, so that all tiles stay on one grid; a slide with other level-0 pixels (another objective) is
    brought to the first one's.

    Args:
        bags: one or more slides.
        strides_px: level-0 pixels from tile to tile, of each.
    """
    stride = strides_px[0]
    coords: list[np.ndarray] = []
    offset = 0
    for bag, own in zip(bags, strides_px, strict=True):
        places = np.rint(np.asarray(bag.coords, np.float64) * (stride / own)).astype(np.int64)
        places[:, 1] += offset
        coords.append(places)
        lowest = int(places[:, 1].max())
        offset = round(math.ceil((lowest + stride + GAP_PX) / stride) * stride)
    slide = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    features = np.concatenate([np.asarray(bag.features) for bag in bags])
    return CaseTiles(features, np.concatenate(coords), slide, round(stride))


class CaseSlides:
    """The slides of cases in one feature set; `slides[case_id]` reads a case.

    Attributes:
        store: where the features lie.
        features_set: which set.
        found: case id -> its slides' records, in the order of their ids; cases without a slide in the set are absent.
        notes: what a reader of results should know.
        dim: width of a tile's features.
    """

    def __init__(self, store: FeatureStore, features_set: SetName, cases: CaseTable, *, memory_gb: float = 2.0) -> None:
        """Join.

        Args:
            store: where the features lie.
            features_set: which set.
            cases: names their slides as ids, paths or file names; a case that names none has the slides of its id in the
                store.
            memory_gb: of tiles that are kept after they were read.

        Raises:
            ManifestError: no case has a slide there, or two cases have the same.
        """
        self.store, self.features_set = store, features_set
        self._room = int(memory_gb * 1e9)
        self._kept: OrderedDict[str, CaseTiles] = OrderedDict()
        self._bytes = 0
        records = {each.slide_id: each for each in store.records(features_set).values() if _has_tiles(each)}
        self.found, absent = _join(records, cases)
        if not self.found:
            raise ManifestError(_no_overlap(features_set, records, cases))
        self.dim = int(next(iter(self.found.values()))[0].facts["dim"])
        self.notes = []
        if absent:
            told = some_names(absent)
            self.notes.append(f"{len(absent)} slides of the case table are not in {features_set} ({told}).")
        bare = sum(case.case_id not in self.found for case in cases.cases)
        if bare:
            self.notes.append(f"{bare} of {len(cases)} cases have no slide in the store; they count as without slides.")

    def __contains__(self, case_id: object) -> bool:
        return case_id in self.found

    def __getitem__(self, case_id: str) -> CaseTiles:
        """All tiles of a case.

        Raises:
            CorruptDataError: what was committed cannot be read, or is not finite.
        """
        if case_id in self._kept:
            self._kept.move_to_end(case_id)
            return self._kept[case_id]
        records = self.found[case_id]
        bags = [read_bag(self.store, record, case_id=case_id) for record in records]
        tiles = join_tiles(bags, [stride_px(self.store, record) for record in records])
        if not np.isfinite(tiles.features).all():
            raise CorruptDataError(f"case {case_id}: its features are not finite. Extract its slides again.")
        self._keep(case_id, tiles)
        return tiles

    def _keep(self, case_id: str, tiles: CaseTiles) -> None:
        size = tiles.features.nbytes + tiles.coords.nbytes + tiles.slide.nbytes
        if size > self._room:
            return
        self._kept[case_id] = tiles
        self._bytes += size
        while self._bytes > self._room:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.features.nbytes + old.coords.nbytes + old.slide.nbytes

    def fingerprints(self) -> dict[str, list[str]]:
        """Case id -> fingerprints of its slides' features."""
        return {case: [record.fingerprint for record in records] for case, records in self.found.items()}


def stride_px(store: FeatureStore, record: CommitRecord) -> float:
    """Level-0 pixels from one tile of a slide to the next, along x.

    Raises:
        CorruptDataError: its grid does not say.
    """
    geometry: object = store.group(record.made_from("tiles")).attrs.get("geometry")
    step = geometry.get("stride_level0") or geometry.get("extent_level0") if isinstance(geometry, Mapping) else None
    if not isinstance(step, list | tuple) or not float(step[0]) > 0:
        raise CorruptDataError(f"{record.slide_id}: its tiles do not say how far they lie apart. Extract it again.")
    return float(step[0])


def _has_tiles(record: CommitRecord) -> bool:
    return int(record.facts["tiles"]) > int(record.facts["invalid_tiles"])


def _join(records: Mapping[str, CommitRecord], cases: CaseTable) -> tuple[dict[str, list[CommitRecord]], list[str]]:
    index = SlideIndex(sorted(records))
    of_case: dict[str, set[str]] = {}
    for record in records.values():
        of_case.setdefault(str(record.facts.get("case_id", "")), set()).add(record.slide_id)
    found: dict[str, list[CommitRecord]] = {}
    owner: dict[str, str] = {}
    absent: list[str] = []
    for case in cases.cases:
        slides = {name: index.find(name) for name in case.slides}
        absent += [name for name, slide in slides.items() if slide is None]
        own = (
            {slide for slide in slides.values() if slide is not None}
            if case.slides
            else of_case.get(case.case_id, set())
        )
        for slide in sorted(own):
            if slide in owner:
                raise ManifestError(
                    f"{cases.name}: slide {slide} is of case {owner[slide]!r} and of {case.case_id!r}. Mend the table."
                )
            owner[slide] = case.case_id
            found.setdefault(case.case_id, []).append(records[slide])
    return found, absent


def _no_overlap(features_set: SetName, records: Mapping[str, CommitRecord], cases: CaseTable) -> str:
    here = next(iter(sorted(records)), None)
    named = next((case.slides[0] for case in cases.cases if case.slides), None)
    called = f"a slide of {features_set} is called {here!r}" if here else f"{features_set} has no slide with tiles"
    told = f"the table says {named!r}" if named else f"the table names no slides, and its cases {cases.ids[0]!r}"
    return (
        f"{cases.name}: no case has a slide in the store: {called}, {told}. Write ids, paths or file names of slides."
    )
