"""What a slide is: facts about it (SlideInfo), how to read it (Slide), and how it may be overridden (SlideSpec)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from pathotune_pipeline.errors import ScaleError
from pathotune_pipeline.geometry import LevelChoice, Mpp, Size, choose_level
from pathotune_pipeline.spec import Spec, setting

PLAUSIBLE_MPP = (0.1, 10.0)
"""um/px outside of which a slide's own claim is refused unless overridden."""
MAX_ANISOTROPY = 0.05
"""Largest share by which x and y mpp may differ unless overridden."""


class SlideSpec(Spec):
    """How slides are opened and what is believed of them."""

    reader: str | None = setting(
        None, "Reader to use: jpeg, openslide, tiffslide or image; empty tries them in that order.", hashed=False
    )
    color: Literal["raw", "srgb"] = setting(
        "raw", "Pixels as stored (raw), or brought to sRGB by the slide's ICC profile where it has one (srgb)."
    )
    mpp_override: float | None = setting(
        None, "um/px to use for every slide instead of its own claim; a manifest's mpp column goes first.", gt=0
    )
    allow_odd_mpp: bool = setting(
        False, "Accept an mpp outside 0.1-10 um/px, or one that differs by over 5 % between x and y."
    )
    allow_fluorescence: bool = setting(
        False, "Tile fluorescence slides too; without it they are flagged and add no tiles."
    )


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid.

    Attributes:
        size: in pixels of this level.
        downsample: level-0 pixels per pixel of this level.
    """

    size: Size
    downsample: float


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Facts about one slide. Holds no path, label, barcode or raw vendor tag.

    Attributes:
        vendor: the format's maker as the reader names it, e.g. "aperio", "generic-tiff", "png".
        reader: which reader opened it.
        levels: finest first.
        mpp: um/px of level 0, or None where it is not known.
        mpp_source: where the mpp came from: "openslide", "tiff-resolution", "manifest", "override", ...
        objective_power: nominal magnification as recorded, or None.
        icc: first 16 hex digits of the SHA-256 of the ICC profile, or None where there is none.
    """

    vendor: str
    reader: str
    levels: tuple[Level, ...]
    mpp: Mpp | None
    mpp_source: str | None
    objective_power: float | None
    icc: str | None = None

    @property
    def size(self) -> Size:
        """Size of level 0 in pixels."""
        return self.levels[0].size

    def level_mpps(self) -> list[float]:
        """um/px of each level, level 0 first.

        Raises:
            ScaleError: the slide has no mpp.
        """
        if self.mpp is None:
            raise ScaleError(
                "no mpp in its metadata. Give one in the manifest's mpp column, or --mpp-override 0.25 for all slides."
            )
        return [self.mpp.mean * level.downsample for level in self.levels]

    def choose_level(self, target_mpp: float) -> LevelChoice:
        """The level to read for a target scale, by the scale rule.

        Raises:
            ScaleError: no mpp, or the slide's finest level is too coarse for the target.
        """
        mpps = self.level_mpps()
        choice = choose_level(mpps, target_mpp)
        if choice is None:
            raise ScaleError(
                f"asked for {target_mpp:g} um/px, but its finest level has {mpps[0]:.4g} um/px: reading it would "
                f"invent detail. Ask for --mpp {mpps[0]:.3g} or coarser."
            )
        return choice

    def as_dict(self) -> dict[str, Any]:
        """Plain values for records and `--json`."""
        plain = asdict(self)
        plain["levels"] = [
            {"width": level.size.width, "height": level.size.height, "downsample": level.downsample}
            for level in self.levels
        ]
        return plain


@runtime_checkable
class Slide(Protocol):
    """An open slide. Several threads may read at once.

    A reader plugs in by a class with these members, registered as `name = "module:function"` under the entry point
    group `pathotune_pipeline.readers`, where function(path) returns such an object or raises UnreadableSlideError.
    It may have two more: `read_into(location, level, out)`, which fills uint8 [height, width, 3] as `read_region`
    would, and `icc_profile()`, the bytes of its ICC profile or None.
    """

    @property
    def info(self) -> SlideInfo: ...

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Pixels of one level.

        Args:
            location: top-left corner (x, y) in level-0 pixels.
            level: pyramid level.
            size: (width, height) in pixels of that level.

        Returns:
            uint8 [height, width, 3], RGB. Where the slide has no pixels (outside its bounds, alpha 0): white.

        Raises:
            TileReadError: the file's data cannot be decoded there. The slide stays usable for other regions.
        """
        ...

    def close(self) -> None: ...


def read_into(slide: Slide, location: tuple[int, int], level: int, *, out: np.ndarray) -> None:
    """Read a region into memory that is already there, without a copy where the reader can.

    Args:
        slide: an open slide.
        location: top-left corner (x, y) in level-0 pixels.
        level: pyramid level.
        out: uint8 [height, width, 3] to fill; its size is the region's.

    Raises:
        TileReadError: see `Slide.read_region`. What `out` holds then means nothing.
    """
    direct = getattr(slide, "read_into", None)
    if direct is None:
        out[...] = slide.read_region(location, level, (out.shape[1], out.shape[0]))
    else:
        direct(location, level, out)
