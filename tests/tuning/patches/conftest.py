"""Small sets of patches with a known answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from pathotune_pipeline.tuning.patches import PatchSet

MPP = 0.5
SLIDE_PX = (600, 400)
"""Width and height of `write_slide`'s slides."""


@pytest.fixture
def make_patches() -> Callable[..., PatchSet]:
    """A set of patches of the given labels and groups; patch i is filled with i."""

    def make(
        labels: Sequence[int], groups: Sequence[str] | None = None, *, classes: int = 2, side_px: int = 4
    ) -> PatchSet:
        count = len(labels)
        values = np.arange(count, dtype=np.uint8)[:, None, None, None]
        return PatchSet(
            images=np.broadcast_to(values, (count, side_px, side_px, 3)).copy(),
            labels=np.array(labels, np.int64),
            classes=tuple("abcdefghi"[:classes]),
            groups=tuple(groups) if groups is not None else ("",) * count,
            domains=("",) * count,
            splits=("",) * count,
            names=tuple(f"patch-{place:04d}" for place in range(count)),
        )

    return make


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Write a PNG of one colour: red is its number."""

    def write(path: Path, number: int, size: tuple[int, int] = (8, 8)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb = np.full((size[1], size[0], 3), (number, 100, 200), np.uint8)
        assert cv2.imwrite(str(path), rgb[..., ::-1])
        return path

    return write


def place_coded() -> np.ndarray:
    """A slide's pixels that say where they lie: red and green hold x and y mod 256, blue what is above."""
    y, x = np.mgrid[: SLIDE_PX[1], : SLIDE_PX[0]]
    return np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=2).astype(np.uint8)


@pytest.fixture
def write_slide() -> Callable[[Path], Path]:
    """Write a slide of 600 x 400 px at 0.5 um/px, uncompressed, of `place_coded` pixels."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, place_coded(), photometric="rgb", resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit=3)
        return path

    return write


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A CSV with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table() -> Callable[..., Path]:
    return write_csv
