"""What tissue is looked for (TissueSpec) and where it was found (TissueMask)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tissue.quality import Quality


class TissueSpec(Spec):
    """How tissue is told from glass. Lengths and areas are physical, so they hold at any resolution."""

    segmenter: str = setting(
        "classic",
        "What tells tissue: classic, network:PATH.pt (TorchScript with a card PATH.json), or a plug-in's name; its card "
        "and weights are hashed, the path is not.",
        hashed=False,
    )
    segmenter_device: str = setting(
        "auto", "Where a network that tells tissue runs: auto, cpu, cuda, cuda:1, mps.", hashed=False
    )
    mpp: float = setting(8.0, "um/px at which the whole slide is looked at.", flag="tissue-mpp", gt=0)
    min_chroma: float = setting(
        14.0, "Largest minus smallest colour channel, 0-255 after white balance, from which a pixel is tissue.", gt=0
    )
    min_optical_density: float = setting(
        0.10,
        "Mean optical density of the colour channels from which a pixel is tissue, pale or grey as it may be.",
        gt=0,
    )
    min_texture: float = setting(
        4.0, "Local standard deviation of brightness, 0-255, from which a pixel is tissue: finds fat.", gt=0
    )
    min_faint_chroma: float = setting(
        8.0,
        "How far red or blue rises above green in local means, 0-255 after white balance, where stain is faint tissue.",
        gt=0,
    )
    drop_pen: bool = setting(True, "Leave out blue, green, black and red pen, with what lies under it.")
    pen_margin_um: float = setting(40.0, "Width in um of the rim of each pen stroke that is left out with it.", ge=0)
    drop_artefacts: bool = setting(
        True, "Leave out shadows of the slide's edge, lines of coverslip and scanner, and grey dust."
    )
    black_level: int = setting(
        20, "Pixels whose brightest channel is at most this, 0-255, are no tissue.", ge=0, le=255
    )
    texture_um: float = setting(40.0, "Width in um of the window for the local standard deviation.", gt=0)
    close_um: float = setting(40.0, "Gaps up to twice this many um wide are closed; 0 closes none.", ge=0)
    open_um: float = setting(16.0, "Specks and threads under twice this many um wide are dropped; 0 drops none.", ge=0)
    max_hole_um2: float = setting(40_000.0, "Holes up to this many um2 are filled.", ge=0)
    min_area_um2: float = setting(16_000.0, "Pieces under this many um2 are dropped.", ge=0)


@dataclass(frozen=True)
class TissueMask:
    """Where a slide has tissue.

    Attributes:
        mask: bool [h, w].
        mpp_x: um per mask pixel along x, exact: the mask covers the whole slide.
        mpp_y: um per mask pixel along y.
        level0_mpp: um/px of the slide's level 0.
        level0_size: size of level 0 in pixels.
        thumbnail: uint8 [h2, w2, 3] RGB of the whole slide, its long side at most 1024 px.
        quality: what was measured of the slide; None for a mask that came from elsewhere.
        pen: bool [h, w], where there is pen; None where it was not looked for or not kept.
    """

    mask: np.ndarray
    mpp_x: float
    mpp_y: float
    level0_mpp: Mpp
    level0_size: Size
    thumbnail: np.ndarray
    quality: Quality | None = None
    pen: np.ndarray | None = None

    @property
    def area_um2(self) -> float:
        """Area of the tissue in um2."""
        return float(np.count_nonzero(self.mask)) * self.mpp_x * self.mpp_y

    @property
    def share(self) -> float:
        """Share of the slide that is tissue, 0 to 1."""
        return float(np.count_nonzero(self.mask)) / max(1, self.mask.size)

    @property
    def level0_px_per_mask_px(self) -> tuple[float, float]:
        """Level-0 pixels per mask pixel along x and y."""
        return self.level0_size.width / self.mask.shape[1], self.level0_size.height / self.mask.shape[0]

    @cached_property
    def _integral(self) -> np.ndarray:
        return cv2.integral(self.mask.astype(np.uint8), sdepth=cv2.CV_32S)  # [h + 1, w + 1]

    def fraction(self, boxes: np.ndarray) -> np.ndarray:
        """Share of each box that is tissue, exact to parts of mask pixels. Outside the slide there is none.

        Args:
            boxes: float64 [N, 4], (x, y, width, height) in level-0 pixels.

        Returns:
            float32 [N], 0 to 1.
        """
        across, down = self.level0_px_per_mask_px
        x, y, width, height = (np.asarray(boxes, np.float64).reshape(-1, 4) / (across, down, across, down)).T
        sums = self._sum_to(x + width, y + height) - self._sum_to(x, y + height)
        sums -= self._sum_to(x + width, y) - self._sum_to(x, y)
        areas = width * height
        shares = np.divide(sums, areas, out=np.zeros_like(sums), where=areas > 0)
        return np.clip(shares, 0.0, 1.0).astype(np.float32)

    def _sum_to(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # Within a mask pixel the integral image is bilinear, so interpolating it is exact.
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        left, top = np.minimum(x.astype(np.int64), width - 1), np.minimum(y.astype(np.int64), height - 1)
        fx, fy = x - left, y - top
        table = self._integral
        upper = table[top, left] * (1 - fx) + table[top, left + 1] * fx
        lower = table[top + 1, left] * (1 - fx) + table[top + 1, left + 1] * fx
        return np.asarray(upper * (1 - fy) + lower * fy)

    def polygons(self) -> list[list[np.ndarray]]:
        """Outlines of the pieces of tissue, along the edges of mask pixels.

        Returns:
            For each piece a list of rings, the outer one first and its holes after it; each float64 [K, 2], (x, y)
            in level-0 pixels, not closed. Pixels that touch by a corner only are of different pieces.
        """
        from pathotune_pipeline.tissue.outline import trace

        return trace(self.mask, self.level0_px_per_mask_px)
