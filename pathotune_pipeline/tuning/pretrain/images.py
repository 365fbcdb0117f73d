"""Images in memory, and random windows of them by number."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pathotune_pipeline.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})


def list_images(sources: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and paths of the images that folders hold, with their folders, and that CSV files list under `path`.

    Names are relative to the folder or the table, in their order, and unique.

    Raises:
        UsageError: a source is neither, holds no image, or lists one that is not there.
    """
    found: list[tuple[str, Path]] = []
    for source in sources:
        place = Path(source).expanduser()
        if place.is_dir():
            paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            listed = [(path.relative_to(place).as_posix(), path) for path in paths]
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


def _from_table(table: Path) -> list[tuple[str, Path]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--images {table}: is no CSV table ({error}). Give one with a column path.") from None
    if rows and "path" not in rows[0]:
        raise UsageError(f"--images {table}: has the columns {', '.join(map(str, rows[0]))}; a column path is needed.")
    listed = [(row["path"], table.parent / row["path"]) for row in rows]
    absent = [name for name, path in listed if not path.is_file()]
    if absent:
        raise UsageError(f"--images {table}: {len(absent)} of {len(rows)} images are absent, first {absent[0]}.")
    return listed


def read_image(path: Path, least_px: int) -> np.ndarray:
    """uint8 [H, W, 3] RGB; enlarged where a side is below `least_px`.

    Raises:
        UsageError: it cannot be decoded.
    """
    data = np.fromfile(path, np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if decoded is None:
        raise UsageError(f"{path.name}: cannot be read as an image. Mend it, or take it out.")
    pixels = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))
    height, width = pixels.shape[:2]
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
        parts[lot < held_out].append((name, read_image(path, side)))
    if not parts[0]:
        raise UsageError(f"held_out {held_out}: all {len(parts[1])} images would be held out. Lower it.")
    learnt, watched = (
        Pictures([image for _, image in part], [name for name, _ in part], side=side, seed=seed) for part in parts
    )
    return learnt, watched
