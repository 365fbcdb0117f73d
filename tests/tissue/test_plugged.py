"""A segmenter from outside: found by name, seen at its own scale, cleaned, and refused where it gives no mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.errors import UnknownNameError, UnreadableSlideError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo
from pathotune_pipeline.tissue import TissueSpec, find_tissue
from pathotune_pipeline.tissue.segmenter import CLASSIC, SEGMENTERS, segmenter_recipe


class Flat:
    """A slide of 1024 px at 0.5 um/px, dark in its left half."""

    info = SlideInfo("array", "array", (Level(Size(1024, 1024), 1.0),), Mpp.square(0.5), "manifest", None)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        columns = np.arange(location[0], location[0] + size[0])
        row = np.where(columns < 512, 40, 240).astype(np.uint8)
        return np.broadcast_to(row[None, :, None], (size[1], size[0], 3)).copy()

    def close(self) -> None: ...


class Dark:
    """Calls what is darker than its argument tissue."""

    seen: list[tuple[tuple[int, ...], float]] = []  # noqa: RUF012

    def __init__(self, argument: str, device: str) -> None:
        self.limit = float(argument or 128)

    @property
    def mpp(self) -> float | None:
        return 4.0

    def recipe(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def __call__(self, rgb: np.ndarray, mpp: float) -> np.ndarray:
        Dark.seen.append((rgb.shape, mpp))
        if self.limit < 0:
            return np.zeros((3, 3))
        return 1.0 - (rgb.mean(axis=2) >= self.limit)


@pytest.fixture(autouse=True)
def dark() -> Any:
    SEGMENTERS.add("dark", Dark)
    yield
    del SEGMENTERS._loaded["dark"]


def test_it_sees_its_own_scale_and_its_mask_is_taken() -> None:
    mask = find_tissue(Flat(), TissueSpec(segmenter="dark:100"))
    assert Dark.seen[-1] == ((128, 128, 3), 4.0)
    assert mask.mask[:, :64].all()
    assert not mask.mask[:, 64:].any()
    assert mask.mpp_x == 4.0
    assert mask.thumbnail.shape == (128, 128, 3)


def test_small_pieces_go() -> None:
    assert not find_tissue(Flat(), TissueSpec(segmenter="dark:100", min_area_um2=1e6)).mask.any()


def test_its_recipe_counts_and_not_its_path() -> None:
    assert segmenter_recipe(TissueSpec()) is None
    assert segmenter_recipe(TissueSpec(segmenter=CLASSIC)) is None
    assert segmenter_recipe(TissueSpec(segmenter="dark:7")) == {"name": "dark", "limit": 7.0}


def test_wrong_ones_are_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'network'"):
        find_tissue(Flat(), TissueSpec(segmenter="netwrk:x"))
    with pytest.raises(UnreadableSlideError, match="same rows and columns"):
        find_tissue(Flat(), TissueSpec(segmenter="dark:-1"))
