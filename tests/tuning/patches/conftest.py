"""Small sets of patches with a known answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pathotune_pipeline.tuning.patches import PatchSet

MakePatches = Callable[..., PatchSet]


@pytest.fixture
def make_patches() -> MakePatches:
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
