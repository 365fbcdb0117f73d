"""Pictures of a slide: its thumbnail with tissue and tiles drawn on it, or with a heat map of one value a tile.

Locations come in level-0 pixels and are placed on the picture by the ratio of their sizes, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.geometry import Size

TISSUE_RGB = (0, 121, 84)
TILE_RGB = (29, 78, 216)
TILE_TINT = 0.12
"""Share of the tiles' colour within a tile."""
DENSE_PX = 12
"""Tiles narrower than this on the picture are drawn as one area with one outline."""
HEAT_MAP = cv2.COLORMAP_VIRIDIS
HEAT_ALPHA = 0.62
MIN_QUALITY, MAX_QUALITY = 45, 84


@dataclass(frozen=True, slots=True)
class Frame:
    """How level 0 of a slide lies on a picture of the whole slide.

    Attributes:
        level0: size of level 0 in pixels.
        image: size of the picture in pixels.
    """

    level0: Size
    image: Size

    def rectangles(self, coords: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
        """Where tiles lie on the picture.

        Args:
            coords: int64 [N, 2], corners (x, y) in level-0 pixels.
            extent: (width, height) of a tile in level-0 pixels.

        Returns:
            int64 [N, 4], (left, top, right, bottom) in pixels of the picture, right and bottom excluded; each at
            least one pixel wide and inside the picture.
        """
        scale = np.array([self.image.width / self.level0.width, self.image.height / self.level0.height])
        corners = np.asarray(coords, np.float64).reshape(-1, 2)
        first = np.rint(corners * scale).astype(np.int64)
        last = np.rint((corners + np.asarray(extent, np.float64)) * scale).astype(np.int64)
        limit = np.array([self.image.width, self.image.height])
        first = np.clip(first, 0, limit - 1)
        last = np.clip(np.maximum(last, first + 1), 1, limit)
        return np.concatenate([first, last], axis=1)


def decode_thumbnail(data: np.ndarray) -> np.ndarray:
    """A stored thumbnail.

    Args:
        data: uint8 [n], the bytes of a JPEG.

    Returns:
        uint8 [h, w, 3], RGB.

    Raises:
        CorruptDataError: it is no JPEG.
    """
    image = cv2.imdecode(np.asarray(data, np.uint8), cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise CorruptDataError("its thumbnail is no JPEG. Delete its record and extract again.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def fit(image: np.ndarray, long_side: int) -> np.ndarray:
    """The picture shrunk so that its long side has at most so many pixels."""
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    if factor >= 1:
        return image.copy()
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw_tissue(image: np.ndarray, mask: np.ndarray) -> None:
    """Draw the outline of a tissue mask [h, w], which covers the whole slide, on a picture [H, W, 3] in place."""
    height, width = image.shape[:2]
    fitted = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(fitted, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, TISSUE_RGB, 2 if max(height, width) >= 600 else 1, cv2.LINE_AA)


def draw_tiles(image: np.ndarray, rectangles: np.ndarray) -> None:
    """Draw tiles in place: thin rectangles with a light tint, or one tinted area where they are too small to part."""
    if not len(rectangles):
        return
    covered = _covered(image.shape[:2], rectangles)
    _blend(image, covered.astype(bool), TILE_RGB, TILE_TINT)
    if float(np.median(rectangles[:, 2] - rectangles[:, 0])) < DENSE_PX:
        outlines, _ = cv2.findContours(covered, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, outlines, -1, TILE_RGB, 1)
        return
    lines = np.zeros(image.shape[:2], np.uint8)
    for left, top, right, bottom in rectangles.tolist():
        cv2.rectangle(lines, (left, top), (right - 1, bottom - 1), 1, 1)
    _blend(image, lines.astype(bool), TILE_RGB, 0.5)


def _covered(shape: tuple[int, ...], rectangles: np.ndarray) -> np.ndarray:
    """Where rectangles [N, 4] lie, uint8 [H, W]: steps at their corners, summed along both axes."""
    steps = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
    left, top, right, bottom = rectangles.T
    for rows, columns, step in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(steps, (rows, columns), step)
    return np.asarray(steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0).astype(np.uint8)


def _blend(image: np.ndarray, where: np.ndarray, rgb: tuple[int, int, int], share: float) -> None:
    mixed = image[where] * (1 - share) + np.asarray(rgb, np.float64) * share
    image[where] = np.rint(mixed).astype(np.uint8)


def overview(thumbnail: np.ndarray, mask: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """A copy of the thumbnail with tiles, and the tissue's outline above them."""
    image = thumbnail.copy()
    draw_tiles(image, rectangles)
    draw_tissue(image, mask)
    return image


def percentiles(values: np.ndarray) -> np.ndarray:
    """Each value's rank among all, 0 for the lowest and 1 for the highest; equal ones share the mean of their ranks.

    What is not a number counts as lowest. One value alone, or all equal, give 0.5.
    """
    clean = np.nan_to_num(np.asarray(values, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if clean.size < 2:
        return np.full(clean.shape, 0.5)
    _, inverse, counts = np.unique(clean, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - counts + last - 1) / 2
    return np.asarray(ranks[inverse] / (clean.size - 1))


def heat_map(thumbnail: np.ndarray, rectangles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The thumbnail in grey, under a colour for each tile.

    Args:
        thumbnail: uint8 [h, w, 3] RGB.
        rectangles: int64 [N, 4] on the thumbnail, as `Frame.rectangles` gives them.
        levels: float [N], 0 to 1; where tiles overlap, their mean is shown.
    """
    height, width = thumbnail.shape[:2]
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (left, top, right, bottom), level in zip(rectangles.tolist(), np.asarray(levels).tolist(), strict=True):
        total[top:bottom, left:right] += level
        count[top:bottom, left:right] += 1
    covered = count > 0
    mean = np.divide(total, count, out=np.zeros_like(total), where=covered)
    colours = cv2.cvtColor(cv2.applyColorMap(np.rint(mean * 255).astype(np.uint8), HEAT_MAP), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image = grey.astype(np.float64)
    image[covered] = image[covered] * (1 - HEAT_ALPHA) + colours[covered] * HEAT_ALPHA
    return np.rint(image).astype(np.uint8)


def heat_colours(steps: int = 9) -> list[str]:
    """The heat map's colours from lowest to highest, as #rrggbb."""
    ramp = np.rint(np.linspace(0, 255, steps)).astype(np.uint8).reshape(1, -1)
    bgr = cv2.applyColorMap(ramp, HEAT_MAP)[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in bgr.tolist()]


def to_jpeg(image: np.ndarray, max_bytes: int) -> bytes:
    """The picture as a JPEG, at the best quality that fits; at the lowest where none does."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = b""
    for quality in range(MAX_QUALITY, MIN_QUALITY - 1, -13):
        encoded, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])
        if not encoded:
            raise CorruptDataError("OpenCV could not encode a picture. Check its installation with `pathotune doctor`.")
        data = jpeg.tobytes()
        if len(data) <= max_bytes:
            break
    return data
