"""Images in memory, and random windows of them by number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pathotune_pipeline.archive.identity import redact
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.errors import SlideError, UsageError
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.tuning.patches.folder import SUFFIXES


def list_images(sources: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and paths of the images that folders hold, with their folders, and that CSV files list under `path`.

    Names are relative to the folder or the table, in their order, and unique.

    Raises:
        UsageError: a source is neither, holds no image, lists one that is not there, or is no such table.
    """
    found: list[tuple[str, Path]] = []
    for source in sources:
        place = Path(source).expanduser()
        if place.is_dir():
            below = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            named = [(path.relative_to(place), path) for path in below]
            listed = [(name.as_posix(), path) for name, path in named if not any(p.startswith(".") for p in name.parts)]
        elif place.is_file():
            listed = _from_table(place)
        else:
            raise UsageError(f"--images {source}: is neither a folder nor a file. Check the path.")
        if not listed:
            raise UsageError(
                f"--images {source}: no image was found there. Give a folder of {', '.join(sorted(SUFFIXES))}."
            )
        found += [(f"{place.name}/{name}", path) for name, path in listed]
    names = {name for name, _ in found}
    if len(names) < len(found):
        raise UsageError(
            "--images: two sources have the same name and an image of the same name. Name each source once."
        )
    return found


def _from_table(place: Path) -> list[tuple[str, Path]]:
    table = read_table(place)
    column = table.column("path")
    listed = [(row[column], place.parent / row[column]) for row in table.rows]
    absent = [name for name, path in listed if not path.is_file()]
    if absent:
        raise UsageError(f"--images {place}: {len(absent)} of {len(listed)} images are absent, first {absent[0]!r}.")
    return listed


def read_image(name: str, path: Path, least_px: int) -> np.ndarray:
    """uint8 [H, W, 3] RGB; enlarged where a side is below `least_px`.

    Raises:
        UsageError: it cannot be decoded.
    """
    try:
        image = open_slide(path, SlideSpec(reader="image"))
        try:
            width, height = image.info.size.width, image.info.size.height
            pixels = image.read_region((0, 0), 0, (width, height))
        finally:
            image.close()
    except (SlideError, OSError) as error:
        reason = redact(str(error), path, name)
        raise UsageError(f"--images: {name} cannot be read ({reason}). Mend it, or take it out.") from None
    if min(height, width) < least_px:
        scale = least_px / min(height, width)
        size = max(least_px, round(width * scale)), max(least_px, round(height * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC))
    return pixels


class Pictures:
    """Images in memory. Window k depends on the seed and k alone.

    Attributes:
        names: of the images, in order.
    """

    def __init__(self, images: Sequence[np.ndarray], names: Sequence[str], *, side: int, seed: int) -> None:
        """Take images.

        Args:
            images: uint8 [H, W, 3] each, no side below `side`.
            names: one for each.
            side: of the windows.
            seed: decides their order and places.
        """
        self.names = tuple(names)
        self._images, self._side, self._seed = list(images), side, seed
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self._images)

    def window(self, number: int) -> np.ndarray:
        """uint8 [side, side, 3] of the image whose turn it is: each comes once before any comes again."""
        epoch, within = divmod(number, len(self._images))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._images))
        image, side = self._images[self._order[1][within]], self._side
        height, width = image.shape[:2]
        if height == side == width:
            return image
        rng = np.random.default_rng([self._seed, 2, number])
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return image[top : top + side, left : left + side]

    def digest(self) -> str:
        """SHA-256 of the names and sizes."""
        text = "\n".join(f"{name} {image.shape}" for name, image in zip(self.names, self._images, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()


def read_pictures(sources: Sequence[str], *, side: int, seed: int, held_out: float) -> tuple[Pictures, Pictures]:
    """All images of the sources: those to learn from, and those that are only watched.

    Which are held out hangs on their names alone, so it is the same for every run and seed.

    Raises:
        UsageError: see `list_images` and `read_image`; or nothing is left to learn from.
    """
    parts: tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]] = ([], [])
    for name, path in list_images(sources):
        lot = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
        parts[lot < held_out].append((name, read_image(name, path, side)))
    if not parts[0]:
        raise UsageError(f"held_out {held_out}: all {len(parts[1])} images would be held out. Lower it.")
    learnt, watched = (
        Pictures([image for _, image in part], [name for name, _ in part], side=side, seed=seed) for part in parts
    )
    return learnt, watched
