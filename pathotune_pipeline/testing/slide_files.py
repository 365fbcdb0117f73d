"""Writes pixels as pyramidal TIFF files that OpenSlide reads: its generic kind, and one that looks like Aperio's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pathotune_pipeline.errors import MissingExtraError

TILE_PX = 256
QUALITY = 85


def write_tiff(
    path: Path, rgb: np.ndarray, *, mpp: float | None, levels: int, description: str, label: np.ndarray | None
) -> None:
    """Write a generic pyramidal TIFF: tiled JPEG levels, each half the one before, resolution in pixels per cm.

    Args:
        path: where to; an existing file is replaced.
        rgb: uint8 [H, W, 3].
        mpp: um/px of level 0, or None to leave the resolution out.
        levels: number of levels, level 0 included.
        description: ImageDescription of level 0, ASCII; empty for none.
        label: uint8 [h, w, 3], a striped page after the pyramid; None for none.
    """
    with _writer(path) as tif:
        for index, level in enumerate(_pyramid(rgb, levels)):
            tif.write(
                level,
                subfiletype=1 if index else 0,
                description=description if description and not index else None,
                **_pyramid_options(mpp * 2**index if mpp else None),
            )
        if label is not None:
            tif.write(label, subfiletype=1, **_strip_options())


def write_aperio(
    path: Path, rgb: np.ndarray, *, mpp: float | None, levels: int, description: str, label: np.ndarray | None
) -> None:
    """Write a file that OpenSlide takes for Aperio's: pyramid, thumbnail, label and macro, and vendor properties.

    Args:
        path: where to, usually `.svs`; an existing file is replaced.
        rgb: uint8 [H, W, 3].
        mpp: um/px of level 0, or None to leave AppMag and MPP out.
        levels: number of levels, level 0 included.
        description: `key = value` pairs joined by `|`, put behind the usual ones.
        label: uint8 [h, w, 3], the slide's label; None for a blank one.
    """
    height, width = rgb.shape[:2]
    kind = "Aperio Image Library v12.0.15 \r\n"
    scale = f"|AppMag = {10 / mpp:g}|MPP = {mpp:g}" if mpp else ""
    extra = f"|{description}" if description else ""
    text = f"{kind}{width}x{height} [0,0 {width}x{height}] ({TILE_PX}x{TILE_PX}) JPEG/RGB Q={QUALITY}{scale}{extra}"
    label = label if label is not None else draw_label("")
    thumbnail = _fit(rgb, 512)
    macro = np.full((240, 640, 3), 235, np.uint8)
    small = _fit(rgb, 200)
    macro[20 : 20 + small.shape[0], 300 : 300 + small.shape[1]] = small
    macro[:, :200] = cv2.resize(label, (200, 240), interpolation=cv2.INTER_AREA)
    with _writer(path) as tif:
        for index, level in enumerate(_pyramid(rgb, levels)):
            size = f"{width}x{height} -> {level.shape[1]}x{level.shape[0]}"
            own = text if not index else f"{kind}{size} - |{text.removeprefix(kind)}"
            tif.write(level, description=own, **_pyramid_options(None))
            if not index:  # Aperio puts the thumbnail second
                place = f"{kind}{width}x{height} -> {thumbnail.shape[1]}x{thumbnail.shape[0]} - "
                tif.write(thumbnail, description=place, **_strip_options())
        for name, image, flag in (("label", label, 1), ("macro", macro, 9)):
            page = f"{kind}{name} {image.shape[1]}x{image.shape[0]}"
            tif.write(image, description=page, subfiletype=flag, **_strip_options())


def draw_label(text: str) -> np.ndarray:
    """A paper label with one line of ASCII text and a mock barcode: uint8 [240, 320, 3]."""
    label = np.full((240, 320, 3), 250, np.uint8)
    bars = np.random.default_rng(len(text)).integers(0, 2, 60).repeat(4)
    label[150:220, 40:280][:, bars > 0] = 20
    cv2.putText(label, text, (12, 80), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (10, 10, 60), 2, cv2.LINE_AA)
    return label


def _writer(path: Path):  # type: ignore[no-untyped-def]  # tifffile has no stable type for it
    try:
        import imagecodecs  # noqa: F401  (tifffile's JPEG encoder)
        import tifffile
    except ImportError as error:  # pragma: no cover
        raise MissingExtraError("tifffile with imagecodecs", "dev", "Writing synthetic slides") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    return tifffile.TiffWriter(path)


def _pyramid(rgb: np.ndarray, levels: int) -> Iterator[np.ndarray]:
    for _ in range(levels):
        yield rgb
        rgb = cv2.resize(rgb, (max(1, rgb.shape[1] // 2), max(1, rgb.shape[0] // 2)), interpolation=cv2.INTER_AREA)


def _fit(rgb: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(rgb.shape[:2])
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _pyramid_options(mpp: float | None) -> dict[str, object]:
    options: dict[str, object] = {
        "tile": (TILE_PX, TILE_PX),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": QUALITY},
        "subsampling": (2, 2),
        "metadata": None,
        "software": False,
        "maxworkers": 1,
    }
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    return options


def _strip_options() -> dict[str, object]:
    return {
        "photometric": "rgb",
        "compression": "lzw",
        "rowsperstrip": 32,
        "metadata": None,
        "software": False,
        "maxworkers": 1,
    }
