"""An attention map as a PNG: the slide beside it, a colour bar, a scale bar, and what the colours mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.models.field import AttentionField, colours
from pathotune_pipeline.reports.overlay import HEAT_ALPHA

_MARGIN, _BAR_PX, _GAP, _FONT_PX = 24, 18, 20, 17
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_LENGTHS_UM = tuple(base * 10**power for power in range(1, 6) for base in (1, 2, 5))


@dataclass(frozen=True, slots=True)
class Caption:
    """What stands above and below a picture.

    Attributes:
        title: one line.
        below: one line.
    """

    title: str
    below: str


def write_heat_picture(
    path: Path,
    thumbnail: np.ndarray,
    field: AttentionField,
    *,
    level0: Size,
    mpp: Mpp,
    long_side: int,
    caption: Caption,
) -> None:
    """Write the PNG.

    Args:
        path: where to.
        thumbnail: uint8 [h, w, 3] of the whole slide.
        field: levels from 0 to 1.
        level0: size of the slide in level-0 pixels.
        mpp: um/px of level 0.
        long_side: of each of the two panels, in pixels.
        caption: its words.
    """
    plain = _resized(thumbnail, long_side)
    height, width = plain.shape[:2]
    x = (np.arange(width) + 0.5) * level0.width / width
    y = (np.arange(height) + 0.5) * level0.height / height
    levels, covered = field.sample(x, y)
    grey = cv2.cvtColor(cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float64)
    behind = float(grey[covered].mean()) if covered.any() else 255.0
    grey[covered] = grey[covered] * (1 - HEAT_ALPHA) + colours(levels)[covered] * HEAT_ALPHA
    heat = np.rint(grey).astype(np.uint8)
    beside = width <= 1.2 * height
    places = [(_MARGIN, _top()), (_MARGIN + width + _GAP, _top()) if beside else (_MARGIN, _top() + height + _GAP)]
    right = max(place[0] for place in places) + width
    bottom = max(place[1] for place in places) + height
    font = ImageFont.load_default(_FONT_PX)
    words = max(font.getlength(text) for text in (caption.title, caption.below))
    canvas = Image.new("RGB", (max(right + 110, int(words) + 2 * _MARGIN), bottom + 3 * _FONT_PX + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for image, place in zip((plain, heat), places, strict=True):
        canvas.paste(Image.fromarray(image), place)
        draw.rectangle((place[0] - 1, place[1] - 1, place[0] + width, place[1] + height), outline=(150, 150, 150))
    draw.text((_MARGIN, _MARGIN // 2), caption.title, fill=_INK, font=font)
    draw.text((_MARGIN, bottom + 2 * _FONT_PX), caption.below, fill=_INK, font=font)
    _draw_colour_bar(draw, (right + _GAP, places[-1][1]), height=height, behind=behind)
    _draw_scale_bar(draw, (_MARGIN, bottom + 8), width=width, um_per_px=level0.width * mpp.x / width)
    canvas.save(path, format="PNG", compress_level=4)


def _top() -> int:
    return _MARGIN + _FONT_PX + 4


def _resized(image: np.ndarray, long_side: int) -> np.ndarray:
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC))


def _draw_colour_bar(draw: ImageDraw.ImageDraw, place: tuple[int, int], *, height: int, behind: float) -> None:
    """Colours as they show on tissue: over its mean grey."""
    left, top = place
    font = ImageFont.load_default(_FONT_PX - 3)
    for row in range(height):
        colour = colours(np.array(1 - row / max(1, height - 1))) * HEAT_ALPHA + behind * (1 - HEAT_ALPHA)
        draw.line((left, top + row, left + _BAR_PX, top + row), fill=tuple(np.rint(colour).astype(int).tolist()))
    for percent in (0, 25, 50, 75, 100):
        y = top + round((height - 1) * (1 - percent / 100))
        draw.line((left + _BAR_PX, y, left + _BAR_PX + 4, y), fill=_INK)
        draw.text((left + _BAR_PX + 8, y), f"{percent} %", fill=_INK, font=font, anchor="lm")


def _draw_scale_bar(draw: ImageDraw.ImageDraw, place: tuple[int, int], *, width: int, um_per_px: float) -> None:
    fitting = [length for length in _LENGTHS_UM if length <= 0.3 * width * um_per_px]
    if not fitting:
        return
    length = fitting[-1]
    left, top = place
    right = left + round(length / um_per_px)
    draw.line((left, top + 8, right, top + 8), fill=_INK, width=4)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length} um"
    draw.text((right + 8, top + 8), text, fill=_INK, font=ImageFont.load_default(_FONT_PX - 2), anchor="lm")
