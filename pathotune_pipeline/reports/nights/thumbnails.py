"""Small pictures of slides, each within so many bytes, made from a reduced decoding of the stored thumbnail."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.reports import overlay
from pathotune_pipeline.reports.collect import SlideRow
from pathotune_pipeline.reports.nights.night import NightSlide
from pathotune_pipeline.reports.pictures import UNREADABLE, tile_rectangles
from pathotune_pipeline.store.store import FeatureStore

LONG_SIDE_PX = 128
MAX_BYTES = 4_000
ALL_BYTES = 24_000_000
"""Of all pictures of a page together: 32 MB as text."""
_THREADS = 4


def thumbnails(store: FeatureStore, slides: Iterable[NightSlide]) -> dict[str, str]:
    """Pictures of what happened, as base64 of JPEGs by slide id.

    New and failed slides show their tissue and tiles; changed, quarantined and left ones the slide alone; unchanged
    ones are not read. What a slide has no picture of is left out.
    """
    shown = [slide for slide in slides if slide.kind != "unchanged" and slide.row.tissue is not None]
    room = min(MAX_BYTES, ALL_BYTES // max(1, len(shown)))

    def make(slide: NightSlide) -> str | None:
        return _picture(store, slide.row, drawn=slide.kind in ("new", "failed"), room=room)

    return {slide.row.slide_id: text for slide, text in zip(shown, _mapped(make, shown), strict=True) if text}


def _mapped(make: Callable[[NightSlide], str | None], slides: list[NightSlide]) -> list[str | None]:
    """In threads: waiting for a mount, decoding and encoding do not hold Python's lock."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(make, slides))


def _picture(store: FeatureStore, row: SlideRow, *, drawn: bool, room: int) -> str | None:
    if row.tissue is None:
        return None
    try:
        image = reduced(store.read(row.tissue, "thumbnail_jpeg"), LONG_SIDE_PX)
        if drawn and row.size_px is not None:
            image = overlay.overview(image, store.read(row.tissue, "mask"), tile_rectangles(store, row, image))
    except UNREADABLE as error:
        row.problem = row.problem or f"its picture cannot be made ({type(error).__name__})"
        return None
    return base64.b64encode(small_jpeg(image, room)).decode("ascii")


def reduced(jpeg: np.ndarray, long_side: int) -> np.ndarray:
    """A thumbnail at a small size, decoded at an eighth to a half of its own where that is enough.

    Args:
        jpeg: uint8 [n], the bytes of a JPEG.
        long_side: of the result, in pixels.

    Returns:
        uint8 [h, w, 3], RGB.

    Raises:
        CorruptDataError: it is no JPEG.
    """
    data, image = np.asarray(jpeg, np.uint8), None
    for flag in (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_2):
        image = cv2.imdecode(data, flag) if data.size else None
        if image is None:
            raise CorruptDataError("its thumbnail is no JPEG. Delete its record and extract again.")
        if max(image.shape[:2]) >= long_side:
            return overlay.fit(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), long_side)
    return overlay.fit(overlay.decode_thumbnail(data), long_side)


def small_webp(image: np.ndarray, room: int) -> bytes:
    """The picture as a WebP within so many bytes: of lower quality, then of three quarters of the size, as often as it takes.

    Raises:
        CorruptDataError: OpenCV cannot write WebP.
    """
    while True:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for quality in range(80, 29, -10):
            encoded, webp = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
            if not encoded:
                raise CorruptDataError("OpenCV could not write WebP. Check its installation with `pathotune doctor`.")
            if len(webp) <= room or max(image.shape[:2]) <= 8:
                return bytes(webp.tobytes())
        image = overlay.fit(image, max(8, max(image.shape[:2]) * 3 // 4))


def small_jpeg(image: np.ndarray, room: int) -> bytes:
    """The picture as a JPEG within so many bytes: of lower quality, then of half the size, as often as it takes."""
    while True:
        data = overlay.to_jpeg(image, room)
        if len(data) <= room or max(image.shape[:2]) <= 8:
            return data
        image = overlay.fit(image, max(image.shape[:2]) // 2)
