"""Pictures of committed slides as JPEGs: what `overlay` draws, from what a store holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.errors import CorruptDataError, PathotuneError
from pathotune_pipeline.geometry import Size
from pathotune_pipeline.reports import overlay
from pathotune_pipeline.reports.collect import SlideRow
from pathotune_pipeline.store.store import FeatureStore

HEAT_PX = 640
HEAT_BYTES = 70_000
UNREADABLE = (PathotuneError, OSError, LookupError, ValueError)
"""What reading damaged data of a store may raise."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG with its size in pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class HeatPicture:
    """A heat map, and the tile that has the most attention.

    Attributes:
        picture: the map.
        tiles: how many there are.
        top: (x, y) of the centre of the strongest tile in level-0 pixels.
        top_share: its share of all attention.
        top_decile: share of all attention on the tenth of the tiles that has the most.
        mark: (x, y) of that centre on the picture, each 0 to 1.
    """

    picture: Picture
    tiles: int
    top: tuple[int, int]
    top_share: float
    top_decile: float
    mark: tuple[float, float]

    @property
    def ring(self) -> float:
        """Radius of the ring round the strongest tile, in pixels of the picture."""
        return max(self.picture.width, self.picture.height) / 36


def overview_picture(store: FeatureStore, row: SlideRow, *, long_side: int, max_bytes: int) -> Picture | None:
    """A slide's thumbnail with its tissue and tiles. None where it has none; `row.problem` says what is damaged."""
    if row.tissue is None or row.size_px is None:
        return None
    try:
        thumbnail = overlay.fit(overlay.decode_thumbnail(store.read(row.tissue, "thumbnail_jpeg")), long_side)
        drawn = overlay.overview(thumbnail, store.read(row.tissue, "mask"), tile_rectangles(store, row, thumbnail))
    except UNREADABLE as error:
        row.problem = row.problem or f"its picture cannot be made ({type(error).__name__})"
        return None
    return _picture(drawn, max_bytes)


def heat_picture(store: FeatureStore, row: SlideRow, attention: np.ndarray) -> HeatPicture:
    """A slide's heat map.

    Args:
        store: where the slide lies.
        row: a slide with features.
        attention: float [N] over its readable tiles.

    Raises:
        CorruptDataError: the attention is of another number of tiles, or the slide's data cannot be read.
    """
    if row.features is None or row.tissue is None or row.grid is None or row.extent_level0 is None:
        raise CorruptDataError(f"{row.slide_id}: no features of it are in the store.")
    try:
        thumbnail = overlay.fit(overlay.decode_thumbnail(store.read(row.tissue, "thumbnail_jpeg")), HEAT_PX)
        valid = store.read(row.features, "valid").astype(bool)
        coords = store.read(row.grid, "coords")[valid]
    except UNREADABLE as error:
        raise CorruptDataError(f"{row.slide_id}: {error}") from None
    if len(coords) != len(attention) or not len(coords):
        raise CorruptDataError(
            f"{row.slide_id}: {len(attention)} attention values, but {len(coords)} readable tiles. Run crossval again."
        )
    frame = _frame(row, thumbnail)
    drawn = overlay.heat_map(thumbnail, frame.rectangles(coords, row.extent_level0), overlay.percentiles(attention))
    weights = np.clip(np.nan_to_num(attention), 0, None)
    total = float(weights.sum()) or 1.0
    strongest = int(weights.argmax())
    x, y = (coords[strongest] + np.array(row.extent_level0) / 2).tolist()
    decile = max(1, round(len(weights) / 10))
    return HeatPicture(
        picture=_picture(drawn, HEAT_BYTES),
        tiles=len(coords),
        top=(round(x), round(y)),
        top_share=float(weights[strongest]) / total,
        top_decile=float(np.sort(weights)[-decile:].sum()) / total,
        mark=(min(1.0, x / frame.level0.width), min(1.0, y / frame.level0.height)),
    )


def _frame(row: SlideRow, image: np.ndarray) -> overlay.Frame:
    if row.size_px is None:
        raise CorruptDataError(f"{row.slide_id}: the size of level 0 is not recorded.")
    return overlay.Frame(Size(*row.size_px), Size(image.shape[1], image.shape[0]))


def tile_rectangles(store: FeatureStore, row: SlideRow, image: np.ndarray) -> np.ndarray:
    """Where a slide's tiles lie on a picture of it, int64 [N, 4]; none where it has no grid."""
    if row.grid is None or row.extent_level0 is None:
        return np.zeros((0, 4), np.int64)
    return _frame(row, image).rectangles(store.read(row.grid, "coords"), row.extent_level0)


def _picture(image: np.ndarray, max_bytes: int) -> Picture:
    return Picture(overlay.to_jpeg(image, max_bytes), image.shape[1], image.shape[0])
