"""PatchSet: parts that belong together, and images at another size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.tuning.patches import PatchSet
from pathotune_pipeline.tuning.patches.patch_set import fit_square

Make = Callable[..., PatchSet]


def test_a_subset_keeps_what_belongs_together(make_patches: Make) -> None:
    patches = make_patches([0, 1, 2, -1], ["s", "t", "", "s"], classes=3)
    part = patches.subset([3, 1])
    assert part.images[:, 0, 0, 0].tolist() == [3, 1]
    assert part.labels.tolist() == [-1, 1]
    assert part.groups == ("s", "t")
    assert part.names == ("patch-0003", "patch-0001")
    assert part.classes == patches.classes
    part.images[:] = 0
    assert patches.images.max() == 3
    assert len(patches.subset([])) == 0


def test_units_are_groups_or_the_patch_itself(make_patches: Make) -> None:
    units = make_patches([0, 1, 0, 1], ["s", "", "s", ""]).units
    assert units[0] == units[2]
    assert len(set(units)) == 3


def test_other_labels(make_patches: Make) -> None:
    patches = make_patches([0, 1, 1])
    other = patches.with_labels(np.array([2, -1, 0]), ["x", "y", "z"])
    assert other.counts() == {"x": 1, "y": 0, "z": 1}
    assert patches.counts() == {"a": 1, "b": 2}
    assert repr(other) == "PatchSet(3 patches of 4 px; x: 1, y: 0, z: 1)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ("s",)}, "give one for each patch"),
        ({"images": np.zeros((2, 4, 4, 3))}, "uint8"),
        ({"labels": np.array([0, 1], np.int32)}, "int64"),
        ({"labels": np.array([0, 2])}, "reach from 0 to 2, and there are 2 classes"),
        ({"labels": np.array([-2, 1])}, "reach from -2"),
        ({"names": ("a", "a")}, "'a' is there 2 times"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make_patches: Make, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(make_patches([0, 1]), **changes)


def test_an_oblong_image_gives_its_middle_square() -> None:
    image = np.zeros((4, 10, 3), np.uint8)
    image[:, 3:7] = 90
    assert (fit_square(image, 4) == 90).all()
    assert (fit_square(image, 2) == 90).all()
    assert (fit_square(image.transpose(1, 0, 2), 9) == 90).all()
    assert fit_square(image, 9).shape == (9, 9, 3)


def test_shrinking_takes_the_mean_of_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    means = image.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(fit_square(image, 4) - means).max() <= 0.5
