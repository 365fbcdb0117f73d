"""Tiles at random places, straight from the slides, for training: nothing is cut out beforehand, nothing written.

The idea of online patching: Aben et al., "Towards Large-Scale Training of Pathology Foundation Models" (kaiko.ai, 2024).

The stream is one numbered sequence that seed, manifest and settings decide: patch k depends on k alone, not on what was
drawn before it. Worker i of n takes the numbers k with k mod n = i. So workers share the stream without duplicates and
without speaking to each other, all of them together draw the same patches however many they are, and a stream can go
on from any number.

Three draws make a patch. Its scale comes from a low-discrepancy sequence, so that shares hold after a few hundred
patches and not only in the mean. Its slide comes from a window of `max_open` slides that moves through a shuffled list,
so that slides stay open for many patches and each serves as often as any other. Its place is uniform over all places
with enough tissue.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from pathotune_pipeline.archive.identity import IdentityCache, key_of, redact
from pathotune_pipeline.archive.manifest import Manifest, SlideItem
from pathotune_pipeline.errors import NotCommittedError, ScaleError, SlideError, SpecError, StoreError, TileReadError
from pathotune_pipeline.features.persist import load_tissue
from pathotune_pipeline.features.plan import tissue_fingerprint, tissue_set
from pathotune_pipeline.features.region import PackedMask, Region
from pathotune_pipeline.slides.open import open_checked
from pathotune_pipeline.slides.pyramid import RegionPlan, plan_region, read_planned
from pathotune_pipeline.slides.slide import Slide, SlideSpec
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec
from pathotune_pipeline.tissue.segment import find_tissue

_GOLDEN = (5**0.5 - 1) / 2


class OnlineSpec(Spec):
    """Which tiles a stream draws."""

    mpps: tuple[float, ...] = setting(
        (2.0, 1.0, 0.5, 0.25), "um/px of the tiles; each is drawn as often as its weight says.", min_length=1
    )
    weights: tuple[float, ...] | None = setting(None, "Share of each of mpps, in any unit; empty draws all alike.")
    tile_px: int = setting(224, "Side of a tile in pixels.", gt=0)
    seed: int = setting(0, "Decides the whole stream.", ge=0)
    min_tissue: float = setting(0.25, "Least share of a tile that must be tissue, 0 to 1.", ge=0, le=1)
    max_open: int = setting(8, "Slides held open at a time, from which tiles are drawn by turns.", ge=1)
    patches_per_slide: int = setting(64, "Tiles drawn from a slide, on average, before the next slides come.", ge=1)
    tissue: TissueSpec = TissueSpec()
    slide: SlideSpec = SlideSpec()
    store: Path | None = setting(
        None, "Store whose tissue masks are used where it has them; nothing is written to it.", hashed=False
    )


@dataclass(frozen=True, slots=True)
class Patch:
    """One tile of the stream.

    Attributes:
        pixels: uint8 [P, P, 3].
        slide_id: whose.
        location: top-left corner (x, y) in level-0 pixels.
        mpp: um/px of the pixels, exact.
        number: its place in the whole stream.
    """

    pixels: np.ndarray
    slide_id: str
    location: tuple[int, int]
    mpp: float
    number: int


@dataclass(slots=True)
class StreamCounts:
    """What a stream has drawn and passed over.

    Attributes:
        drawn: patches by um/px.
        unreadable: places that could not be read, by slide; others were drawn instead.
        left_out: slides that cannot serve at all, with the reason.
        too_coarse: (slide, um/px) pairs that were left out because the slide is too coarse, or smaller than a tile.
    """

    drawn: Counter[float] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    too_coarse: set[tuple[str, float]] = field(default_factory=set)


def stream_tiles(
    manifest: Manifest,
    spec: OnlineSpec | None = None,
    *,
    substream: tuple[int, int] = (0, 1),
    start: int = 0,
    **settings: Any,
) -> TileDraws:
    """Draw tiles at random places of the slides, without end.

    Args:
        manifest: the slides.
        spec: what is drawn; by default an OnlineSpec of the settings.
        substream: (i, n): this is the i-th of n streams that share the numbers of one.
        start: number from which the stream goes on.
        settings: fields of OnlineSpec: `mpps`, `weights`, `tile_px`, `seed`, `min_tissue`, ...

    Returns:
        An iterator of Patch, with `counts`; close it, or use it in a `with` statement, to close the slides.

    Raises:
        SpecError: a setting is unknown or not allowed, or the manifest is empty.
    """
    spec = spec.with_values(**settings) if spec else OnlineSpec.parse(settings)
    return TileDraws(manifest, spec, substream=substream, start=start)


class TileDraws(Iterator[Patch]):
    """The iterator that `stream_tiles` gives. Not for several threads at once.

    Attributes:
        counts: what was drawn and passed over so far.
        number: that of the next patch.
    """

    def __init__(
        self, manifest: Manifest, spec: OnlineSpec, *, substream: tuple[int, int] = (0, 1), start: int = 0
    ) -> None:
        index, of = substream
        if not 0 <= index < of or start < 0:
            raise SpecError(
                f"substream {substream}, start {start}: give (i, n) with 0 <= i < n, and a start from 0 on."
            )
        if not len(manifest):
            raise SpecError("a stream of tiles needs at least one slide; the manifest has none.")
        self.counts = StreamCounts()
        self.number = start + (index - start) % of
        self._step, self._spec, self._items = of, spec, manifest.items
        self._bounds = _bounds(spec)
        self._first = float(np.random.default_rng([spec.seed, 1]).random())
        self._pool = SlidePool(spec, self.counts)
        self._window = min(spec.max_open, len(self._items))
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._turn: tuple[int, list[int]] = (-1, [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every slide."""
        self._pool.close()

    @property
    def open_slides(self) -> int:
        """How many slides are open now; never over `max_open`."""
        return len(self._pool)

    def __next__(self) -> Patch:
        """Draw the next patch.

        Raises:
            SlideError: no slide gives a tile at a scale that is asked for; the message says why.
        """
        number = self.number
        mpp = self._scale(number)
        rng = np.random.default_rng([self._spec.seed, 2, number])
        near = self._near(number)
        for place in self._candidates(near, rng):
            patch = self._draw(self._items[place], mpp, rng, number)
            if patch is not None:
                self.number += self._step
                self.counts.drawn[mpp] += 1
                return patch
        counts = self.counts
        coarse = sum(pair[1] == mpp for pair in counts.too_coarse)
        reasons = "".join(f"; {slide_id}: {why}" for slide_id, why in list(counts.left_out.items())[:3])
        raise SlideError(
            f"no slide gives a tile of {self._spec.tile_px} px at {mpp:g} um/px with {self._spec.min_tissue:.0%} tissue: of "
            f"{len(self._items)}, {coarse} are too coarse or too small for it, {len(counts.left_out)} cannot be used"
            f"{reasons}. Leave this mpp out, or ask for less tissue."
        )

    def _candidates(self, near: list[int], rng: np.random.Generator) -> Iterator[int]:
        """Slides to try: some of those that are open, then each slide of the manifest once."""
        for _ in range(2 * len(near)):
            yield near[int(rng.integers(len(near)))]
        yield from rng.permutation(len(self._items)).tolist()

    def _draw(self, item: SlideItem, mpp: float, rng: np.random.Generator, number: int) -> Patch | None:
        one = self._pool.get(item, mpp)
        if one is None:
            return None
        location = one.region.place(one.plans[mpp].extent_level0, self._spec.min_tissue, rng)
        if location is None:
            return None
        try:
            pixels = read_planned(one.slide, one.plans[mpp], location=location)
        except TileReadError:
            self.counts.unreadable[item.slide_id] += 1
            return None
        return Patch(pixels, item.slide_id, location, mpp, number)

    def _scale(self, number: int) -> float:
        position = (self._first + number * _GOLDEN) % 1.0
        place = int(np.searchsorted(self._bounds, position, side="right"))
        return self._spec.mpps[min(place, len(self._spec.mpps) - 1)]

    def _near(self, number: int) -> list[int]:
        """The slides from which the patch of this number is drawn first."""
        turn = number // (self._window * self._spec.patches_per_slide)
        if self._turn[0] != turn:
            first = turn * self._window
            self._turn = turn, [self._in_order(place) for place in range(first, first + self._window)]
        return self._turn[1]

    def _in_order(self, place: int) -> int:
        epoch, within = divmod(place, len(self._items))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self._spec.seed, 3, epoch]).permutation(len(self._items))
        return int(self._order[1][within])


@dataclass(slots=True)
class _Open:
    slide: Slide
    region: Region
    plans: dict[float, RegionPlan]


class SlidePool:
    """A bounded number of open slides, the longest unused closed first. Tissue is found once for each slide."""

    def __init__(self, spec: OnlineSpec, counts: StreamCounts) -> None:
        self._spec, self._counts = spec, counts
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._masks: dict[str, PackedMask] = {}
        self._store = FeatureStore(spec.store) if spec.store else None
        self._cache = IdentityCache(self._store.identity_file) if self._store else None

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].slide.close()

    def get(self, item: SlideItem, mpp: float) -> _Open | None:
        """The open slide, or None where it cannot serve this scale or cannot be used at all."""
        if item.slide_id in self._counts.left_out or (item.slide_id, mpp) in self._counts.too_coarse:
            return None
        one = self._open.get(item.slide_id)
        if one is None:
            try:
                one = self._enter(item)
            except (SlideError, OSError, MemoryError) as error:
                self._counts.left_out[item.slide_id] = redact(str(error), item.path, item.slide_id)
                return None
        self._open.move_to_end(item.slide_id)
        if mpp not in one.plans:
            self._counts.too_coarse.add((item.slide_id, mpp))
            return None
        return one

    def _enter(self, item: SlideItem) -> _Open:
        while len(self._open) >= self._spec.max_open:
            self._open.popitem(last=False)[1].slide.close()
        slide = open_checked(item.path, self._spec.slide, mpp=item.mpp)
        try:
            if item.slide_id not in self._masks:
                mask = self._stored(item) or find_tissue(slide, self._spec.tissue)
                self._masks[item.slide_id] = PackedMask(mask.mask)
            region = Region(self._masks[item.slide_id].unpack(slide.info))
            if not region.any and self._spec.min_tissue > 0:
                raise SlideError("no tissue was found")
        except BaseException:
            slide.close()
            raise
        self._open[item.slide_id] = _Open(slide, region, self._plans(slide))
        return self._open[item.slide_id]

    def _plans(self, slide: Slide) -> dict[float, RegionPlan]:
        plans, side = {}, self._spec.tile_px
        for mpp in self._spec.mpps:
            try:
                plan = plan_region(slide.info, mpp, (side, side))
            except ScaleError:
                continue
            if plan.extent_level0[0] <= slide.info.size.width and plan.extent_level0[1] <= slide.info.size.height:
                plans[mpp] = plan
        return plans

    def _stored(self, item: SlideItem) -> TissueMask | None:
        identity = self._cache.get(item.path) if self._cache else None
        if self._store is None or identity is None:
            return None
        mpp = item.mpp if item.mpp is not None else self._spec.slide.mpp_override
        color = self._spec.slide.color
        wanted = tissue_fingerprint(self._spec.tissue, identity, mpp, color=color)
        try:
            record = self._store.record(tissue_set(self._spec.tissue, color=color), key_of(item.slide_id), wanted)
            return load_tissue(self._store, record)
        except (NotCommittedError, StoreError):
            return None


def _bounds(spec: OnlineSpec) -> np.ndarray:
    """Upper end of each scale's part of [0, 1)."""
    weights = spec.weights if spec.weights is not None else (1.0,) * len(spec.mpps)
    if len(set(spec.mpps)) != len(spec.mpps) or min(spec.mpps) <= 0:
        raise SpecError(f"mpps {spec.mpps}: give scales above 0, each once.")
    if len(weights) != len(spec.mpps) or min(weights) < 0 or sum(weights) <= 0:
        raise SpecError(f"weights {weights}: give one number from 0 on for each of the {len(spec.mpps)} mpps.")
    return np.asarray(np.cumsum(weights) / sum(weights))
