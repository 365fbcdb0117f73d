"""Regions: tissue inside what is asked for and outside what is excluded, and each class's share of each tile."""

from __future__ import annotations

import numpy as np
import pytest

from pathotune_pipeline.errors import AnnotationError, SpecError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.tissue import TissueMask
from pathotune_pipeline.tissue.annotations import Annotations
from pathotune_pipeline.tissue.regions import RegionSpec, find_regions


def box(left: float, top: float, right: float, bottom: float) -> list[np.ndarray]:
    return [np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)]


TISSUE = TissueMask(np.ones((40, 40), bool), 5.0, 5.0, Mpp.square(0.5), Size(400, 400), np.zeros((4, 4, 3), np.uint8))
ANNOTATIONS = Annotations(
    {"Fold": [box(0, 0, 50, 400)], "Stroma": [box(200, 0, 400, 400)], "Tumor": [box(0, 0, 200, 400)]}
)


def area(**settings: object) -> int:
    return int(find_regions(TISSUE, ANNOTATIONS, RegionSpec.parse(settings)).allowed.mask.sum()) * 100


def test_roi_and_exclude() -> None:
    assert area() == 400 * 400
    assert area(roi=["Tumor"]) == 200 * 400
    assert area(roi=["Tumor", "Stroma"]) == 400 * 400
    assert area(exclude=["Fold"]) == 350 * 400
    assert area(roi=["Tumor"], exclude=["Fold"]) == 150 * 400
    assert area(exclude=["Absent"]) == 400 * 400
    with pytest.raises(AnnotationError, match="Fold, Stroma, Tumor"):
        area(roi=["Absent"])


def test_shares_of_all_classes() -> None:
    regions = find_regions(TISSUE, ANNOTATIONS, RegionSpec(roi=("Tumor",)))
    assert regions.classes == ("Fold", "Stroma", "Tumor")
    shares = regions.class_fraction(np.array([[0, 0, 100, 100], [150, 0, 100, 100], [300, 300, 200, 100]], float))
    np.testing.assert_allclose(shares, [[0.5, 0, 1], [0, 0.5, 0.5], [0, 0.5, 0]], atol=1e-6)
    assert shares.dtype == np.float32


def test_a_slide_without_annotations() -> None:
    whole = find_regions(TISSUE, None, RegionSpec(missing="whole", roi=("Tumor",)))
    assert whole.allowed.mask.all()
    assert whole.class_fraction(np.zeros((3, 4))).shape == (3, 0)
    assert not find_regions(TISSUE, None, RegionSpec(missing="empty")).allowed.mask.any()


def test_the_spec_knows_its_words() -> None:
    with pytest.raises(SpecError, match="missing"):
        RegionSpec.parse({"missing": "ignore"})
