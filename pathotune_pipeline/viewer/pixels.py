"""Pixels for the viewer: a few slides held open, a few regions read at once, the stored overview where files are absent."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from pathotune_pipeline.archive.identity import redact
from pathotune_pipeline.errors import CorruptDataError, PathotuneError, SlideError
from pathotune_pipeline.reports.overlay import decode_thumbnail
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.viewer.catalogue import Catalogue, ShownSlide
from pathotune_pipeline.viewer.deep_zoom import DeepZoom, ZoomTile, cut_tile, read_tile

OPEN_SLIDES = 8
"""Held open; the one that was looked at longest ago is closed."""
READS_AT_ONCE = 4
"""Regions read at once: with MOST_READ_PX it bounds what they take to some 200 MB."""
OVERVIEWS = 16
JPEG_QUALITY = 82


class Held:
    """An open slide, and how many are reading it."""

    def __init__(self, slide: Slide) -> None:
        self.slide, self.readers, self.dropped = slide, 0, False


class Pixels:
    """Tiles of slides as JPEGs. Any number of threads may ask."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._reads = threading.BoundedSemaphore(READS_AT_ONCE)
        self._open: OrderedDict[str, Held] = OrderedDict()
        self._overviews: OrderedDict[str, np.ndarray] = OrderedDict()

    def pyramid(self, slide: ShownSlide) -> DeepZoom | None:
        """The pyramid over a slide; None where neither file nor store tell its size.

        Raises:
            SlideError: its file cannot be opened.
        """
        if slide.size is not None:
            return DeepZoom(slide.size)
        if slide.item is None:
            return None
        with self._opened(slide) as opened:
            return DeepZoom(opened.info.size)

    def tile(self, slide: ShownSlide, level: int, column: int, row: int) -> bytes | None:
        """One tile as a JPEG; None where there is none.

        Raises:
            PathotuneError: the file or the stored overview cannot be read.
        """
        pyramid = self.pyramid(slide)
        tile = pyramid.tile(level, column, row) if pyramid else None
        if pyramid is None or tile is None:
            return None
        pixels = self._read(slide, pyramid, tile)
        encoded, jpeg = cv2.imencode(
            ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        if not encoded:
            raise CorruptDataError("OpenCV could not encode a tile. Check its installation with `pathotune doctor`.")
        return jpeg.tobytes()

    def trouble(self, slide: ShownSlide) -> str:
        """Why a slide's stored overview is shown instead of its file; empty where the file is shown."""
        if slide.item is None:
            return "Its file is not known here: this is the stored overview. Start with --slides to zoom in."
        try:
            with self._opened(slide) as opened:
                found = opened.info.size
        except SlideError as error:
            said = redact(str(error), slide.item.path, slide.slide_id)
            return f"Its file cannot be opened, this is the stored overview: {said}"
        if slide.size is not None and found != slide.size:
            return (
                f"Its file has {found.width} x {found.height} px and its features were made of one of "
                f"{slide.size.width} x {slide.size.height}: this is the stored overview. Extract it again."
            )
        return ""

    def close(self) -> None:
        """Close every slide that nobody reads."""
        with self._lock:
            for held in self._open.values():
                self._drop(held)
            self._open.clear()

    def _read(self, slide: ShownSlide, pyramid: DeepZoom, tile: ZoomTile) -> np.ndarray:
        if slide.item is not None and not self.trouble(slide):
            with self._reads, self._opened(slide) as opened:
                pixels = read_tile(opened, tile)
            if pixels is not None:
                return pixels
        return cut_tile(self._overview(slide), pyramid.size, tile)

    def _overview(self, slide: ShownSlide) -> np.ndarray:
        """uint8 [h, w, 3]: the stored thumbnail.

        Raises:
            PathotuneError: there is none.
        """
        with self._lock:
            kept = self._overviews.get(slide.slide_id)
        if kept is not None:
            return kept
        if slide.row.tissue is None:
            raise CorruptDataError("no overview of it is in the store. Give --slides, the folder of the files.")
        image = decode_thumbnail(self._catalogue.store.read(slide.row.tissue, "thumbnail_jpeg"))
        with self._lock:
            self._overviews[slide.slide_id] = image
            while len(self._overviews) > OVERVIEWS:
                self._overviews.popitem(last=False)
        return image

    @contextmanager
    def _opened(self, slide: ShownSlide) -> Iterator[Slide]:
        held = self._hold(slide)
        try:
            yield held.slide
        finally:
            with self._lock:
                held.readers -= 1
                if held.dropped and not held.readers:
                    held.slide.close()

    def _hold(self, slide: ShownSlide) -> Held:
        if slide.item is None:
            raise PathotuneError("its file is not known. Give --slides, the folder of the files.")
        with self._lock:  # opening is quick, and two of one slide would be one too many
            held = self._open.get(slide.slide_id)
            if held is None:
                opened = open_slide(slide.item.path, self._catalogue.slide_spec, mpp=slide.item.mpp)
                held = self._open[slide.slide_id] = Held(opened)
            self._open.move_to_end(slide.slide_id)
            held.readers += 1
            while len(self._open) > OPEN_SLIDES:
                self._drop(self._open.popitem(last=False)[1])
        return held

    @staticmethod
    def _drop(held: Held) -> None:
        held.dropped = True
        if not held.readers:
            held.slide.close()
