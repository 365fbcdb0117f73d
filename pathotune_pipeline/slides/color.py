"""The ICC profile of a slide: its name in records, and pixels brought to sRGB by it."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np

from pathotune_pipeline.errors import UnreadableSlideError
from pathotune_pipeline.slides.slide import Slide, SlideInfo, read_into


def icc_name(profile: bytes | None) -> str | None:
    """What stands for a profile in records: 16 hex digits of its SHA-256, or None where there is none."""
    return None if profile is None else hashlib.sha256(profile).hexdigest()[:16]


def to_srgb(slide: Slide) -> Slide:
    """The slide with its pixels in sRGB; the slide itself where it has no ICC profile.

    Relative colorimetric with black point compensation, so white stays white.

    Raises:
        UnreadableSlideError: the profile is not one of RGB pixels. The slide is closed then.
    """
    source = getattr(slide, "icc_profile", None)
    profile = source() if source is not None else None
    if profile is None:
        return slide
    try:
        return _SrgbSlide(slide, profile)
    except UnreadableSlideError:
        slide.close()
        raise


class _SrgbSlide:
    """A slide whose pixels pass through its ICC profile."""

    def __init__(self, slide: Slide, profile: bytes) -> None:
        from PIL import ImageCms

        self._slide = slide
        try:
            self._transform: Any = ImageCms.buildTransform(
                ImageCms.getOpenProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB",
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )  # fmt: skip
        except (ImageCms.PyCMSError, OSError, ValueError):
            raise UnreadableSlideError("its ICC profile is not one of RGB pixels. Read it with --color raw.") from None

    @property
    def info(self) -> SlideInfo:
        return self._slide.info

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        out = np.empty((int(size[1]), int(size[0]), 3), np.uint8)
        self.read_into(location, level, out)
        return out

    def read_into(self, location: tuple[int, int], level: int, out: np.ndarray) -> None:
        from PIL import Image

        read_into(self._slide, location, level, out=out)
        image = Image.fromarray(np.ascontiguousarray(out))
        self._transform.apply_in_place(image)
        out[...] = np.asarray(image)

    def close(self) -> None:
        self._slide.close()
