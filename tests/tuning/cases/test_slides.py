"""A case's slides stand below each other without overlap, and are found in a store by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.store.store import open_store
from pathotune_pipeline.testing.cohort import FEATURES, CohortFiles, DrawnCohort
from pathotune_pipeline.tuning.cases.slides import GAP_PX, CaseSlides, join_tiles
from pathotune_pipeline.tuning.cases.table import Case, CaseTable, read_cases
from tests.tuning.cases.conftest import write


def slide(rng: np.random.Generator, count: int, stride: int) -> Bag:
    coords = rng.permutation(400)[:count]
    places = np.stack([coords % 20, coords // 20], axis=1) * stride
    return Bag(rng.normal(size=(count, 3)).astype(np.float16), places, bag_id="s", group="c")


@pytest.mark.parametrize("stride", [256, 1024, 4096])
def test_slides_do_not_overlap_and_stay_on_one_grid(stride: int) -> None:
    rng = np.random.default_rng(stride)
    bags = [slide(rng, count, stride) for count in (30, 1, 50)]
    tiles = join_tiles(bags, [stride] * 3)
    assert tiles.stride_px == stride
    assert (tiles.coords % stride == 0).all()
    for one in (0, 1):
        low, high = tiles.coords[tiles.slide == one, 1].max(), tiles.coords[tiles.slide == one + 1, 1].min()
        assert high - low >= stride + GAP_PX
    assert len(np.unique(tiles.coords, axis=0)) == 81
    for place, bag in enumerate(bags):
        own = tiles.slide == place
        np.testing.assert_array_equal(tiles.features[own], bag.features)
        moved = tiles.coords[own] - np.asarray(bag.coords)
        assert (moved == moved[0]).all()
        assert moved[0, 0] == 0


def test_a_slide_of_another_objective_is_brought_to_the_first_ones_pixels() -> None:
    rng = np.random.default_rng(1)
    bags = [slide(rng, 9, 256), slide(rng, 9, 512)]
    tiles = join_tiles(bags, [256, 512])
    second = tiles.coords[tiles.slide == 1] - tiles.coords[tiles.slide == 1].min(axis=0)
    own = np.asarray(bags[1].coords)
    np.testing.assert_array_equal(second, (own - own.min(axis=0)) // 2)


def test_a_part_is_drawn_by_its_key_and_keeps_the_order() -> None:
    tiles = join_tiles([slide(np.random.default_rng(0), 40, 256)], [256])
    assert tiles.part(40, key=[0]) is tiles
    part = tiles.part(10, key=[3, 1])
    assert len(part) == 10
    np.testing.assert_array_equal(part.coords, tiles.part(10, key=[3, 1]).coords)
    assert not np.array_equal(part.coords, tiles.part(10, key=[3, 2]).coords)
    places = [tiles.coords.tolist().index(each) for each in part.coords.tolist()]
    assert places == sorted(set(places))


def test_cases_find_their_slides_in_a_store(cohort: CohortFiles, drawn: DrawnCohort) -> None:
    assert cohort.store is not None
    store = open_store(cohort.store)
    slides = CaseSlides(store, store.find_set(FEATURES), read_cases(cohort.cases), memory_gb=1e-5)
    assert set(slides.found) == {case.case_id for case in drawn.cases if case.slides}
    assert slides.dim == 8
    for case in drawn.cases:
        assert (case.case_id in slides) == bool(case.slides)
        if case.slides:
            tiles = slides[case.case_id]
            np.testing.assert_array_equal(tiles.features, np.concatenate([each for each, _ in case.slides.values()]))
            np.testing.assert_array_equal(tiles.coords[tiles.slide == 0], next(iter(case.slides.values()))[1])
    assert max(len(case.slides) for case in drawn.cases) == 2


def test_without_slides_in_the_table_the_stores_own_cases_count(cohort: CohortFiles, drawn: DrawnCohort) -> None:
    assert cohort.store is not None
    store = open_store(cohort.store)
    table = CaseTable(tuple(Case(case.case_id, "all") for case in drawn.cases), {}, "t")
    slides = CaseSlides(store, store.find_set(FEATURES), table)
    assert {case: len(found) for case, found in slides.found.items()} == {
        case.case_id: len(case.slides) for case in drawn.cases if case.slides
    }


def test_no_overlap_and_a_slide_of_two_cases_are_told(cohort: CohortFiles, tmp_path: Path, drawn: DrawnCohort) -> None:
    assert cohort.store is not None
    store = open_store(cohort.store)
    features = store.find_set(FEATURES)
    stranger = read_cases(write(tmp_path / "a.csv", "case_id,slide_id", "q,nowhere.svs"))
    with pytest.raises(ManifestError, match=r"no case has a slide in the store.*'nowhere.svs'"):
        CaseSlides(store, features, stranger)
    one = next(slide for case in drawn.cases for slide in case.slides)
    shared = read_cases(write(tmp_path / "b.csv", "case_id,slide_id", f"q,{one}", f"r,{one}"))
    with pytest.raises(ManifestError, match=f"slide {one} is of case 'q' and of 'r'"):
        CaseSlides(store, features, shared)
