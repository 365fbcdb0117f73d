from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.studies.cell import Contender
from pathotune_pipeline.tuning.studies.grid import domains_grid, scaling_grid
from pathotune_pipeline.tuning.studies.spec import DomainsSpec, ScalingSpec
from tests.tuning.studies.conftest import CONTENDERS, DOMAINS, make_patches


def groups_of(patches: PatchSet, index: np.ndarray) -> set[str]:
    return {patches.groups[place] for place in index}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other)


@pytest.mark.parametrize("folds", [1, 3])
def test_fractions_are_nested_and_share_one_test_set(patches: PatchSet, folds: int) -> None:
    spec = ScalingSpec(fractions=(1.0, 0.2, 0.5), seeds=3, folds=folds, min_per_class=1)
    cells = scaling_grid(patches, CONTENDERS, spec).cells
    assert len(cells) == len(CONTENDERS) * 3 * folds * 3
    for fold in range(folds):
        of_fold = [cell for cell in cells if cell.fold == fold]
        for cell in of_fold:
            assert set(cell.parts.tests) == set(DOMAINS)
            for test in DOMAINS:
                assert same(cell.parts.tests[test], of_fold[0].parts.tests[test])
            tested = {group for index in cell.parts.tests.values() for group in groups_of(patches, index)}
            learnt, chosen = groups_of(patches, cell.parts.train), groups_of(patches, cell.parts.val)
            assert not tested & learnt
            assert not tested & chosen
            assert not learnt & chosen
        for seed in range(3):
            own = [cell for cell in of_fold if cell.seed == seed and cell.contender.method == "linear"]
            assert [cell.fraction for cell in own] == [0.2, 0.5, 1.0]
            for small, large in pairwise(own):
                assert set(small.parts.train) < set(large.parts.train)
                assert set(small.parts.val) <= set(large.parts.val)
    linear, lora = ([cell for cell in cells if cell.contender is each] for each in CONTENDERS)
    assert all(
        same(a.parts.train, b.parts.train) and same(a.parts.val, b.parts.val) for a, b in zip(linear, lora, strict=True)
    )
    assert not same(linear[0].parts.train, linear[1].parts.train), "seeds draw other groups"


def test_folds_hold_out_every_item_once(patches: PatchSet) -> None:
    cells = scaling_grid(patches, CONTENDERS[:1], ScalingSpec(fractions=(1.0,), seeds=1, folds=4)).cells
    tested = np.concatenate([index for cell in cells for index in cell.parts.tests.values()])
    assert sorted(tested) == list(range(len(patches)))


def test_other_domains_are_tested_whole_and_trained_on_never(patches: PatchSet) -> None:
    spec = ScalingSpec(fractions=(1.0,), seeds=1, train_domains=("lab-b",))
    (cell,) = scaling_grid(patches, CONTENDERS[:1], spec).cells
    assert {patches.domains[place] for place in (*cell.parts.train, *cell.parts.val)} == {"lab-b"}
    assert {name: len(index) for name, index in cell.parts.tests.items() if name != "lab-b"} == {
        "lab-a": 60,
        "lab-c": 60,
    }
    assert 0 < len(cell.parts.tests["lab-b"]) < 60


def test_each_domain_is_trained_on_alone(patches: PatchSet) -> None:
    cells = domains_grid(patches, CONTENDERS, DomainsSpec(seeds=2)).cells
    assert len(cells) == len(CONTENDERS) * len(DOMAINS) * 2
    for cell in cells:
        assert {patches.domains[place] for place in cell.parts.train} == {cell.domain}
        assert set(cell.parts.tests) == set(DOMAINS)


def test_a_slide_in_two_domains_is_not_tested_where_it_was_trained_on() -> None:
    """Two scanners' images of one slide are one group."""
    base = make_patches()
    groups = tuple(group.replace("lab-b-3", "lab-a-3") for group in base.groups)
    patches = replace(base, groups=groups)
    grid = domains_grid(patches, CONTENDERS[:1], DomainsSpec(seeds=1, folds=3, train_domains=("lab-a",)))
    on_b = [len(cell.parts.tests["lab-b"]) for cell in grid.cells]
    assert sorted(on_b) == [55, 55, 60]
    for cell in grid.cells:
        assert not groups_of(patches, cell.parts.train) & groups_of(patches, cell.parts.tests["lab-b"])
    assert any("5 images of lab-b" in note for note in grid.notes)


def test_images_without_slides_are_split_by_themselves_and_that_is_said() -> None:
    grid = domains_grid(make_patches(ungrouped=("lab-c",)), CONTENDERS[:1], DomainsSpec(seeds=1))
    assert [note for note in grid.notes if "60 training images of lab-c" in note]
    assert not [note for note in grid.notes if "lab-a" in note]


def test_too_few_of_a_class_is_not_run_and_says_why(patches: PatchSet) -> None:
    spec = ScalingSpec(fractions=(0.01, 1.0), seeds=1, train_domains=("lab-a",), min_per_class=6)
    small, whole = scaling_grid(patches, CONTENDERS[:1], spec).cells
    assert "6 of each class are needed" in small.not_run
    assert not whole.not_run


def test_a_domain_that_cannot_be_cut_is_not_run_and_the_others_are() -> None:
    base = make_patches()
    labels = np.where(np.array([domain == "lab-b" for domain in base.domains]), 0, base.labels)
    patches = replace(base, labels=labels)
    cells = domains_grid(patches, CONTENDERS[:1], DomainsSpec(seeds=1)).cells
    assert ["two classes" in cell.not_run for cell in cells] == [False, True, False]


def test_a_cells_fingerprint_knows_what_decides_its_result_and_nothing_else(patches: PatchSet) -> None:
    spec = ScalingSpec(fractions=(0.5,), seeds=1)

    def print_of(contender: Contender, own: ScalingSpec = spec, of: PatchSet = patches) -> str:
        return scaling_grid(of, [contender], own).cells[0].fingerprint

    first = print_of(CONTENDERS[0])
    assert print_of(Contender("other", "name", {"skill": 1.0})) == first
    assert print_of(CONTENDERS[0], spec.with_values(bootstrap=2000)) == first
    assert print_of(CONTENDERS[1]) != first
    assert print_of(CONTENDERS[0], spec.with_values(split_seed=1)) != first
    assert print_of(CONTENDERS[0], spec.with_values(val_share=0.4)) != first
    changed = replace(patches, images=patches.images + np.uint8(1))
    assert print_of(CONTENDERS[0], of=changed) != first


def test_wrong_asks_are_refused(patches: PatchSet) -> None:
    with pytest.raises(SpecError, match="lab-z"):
        scaling_grid(patches, CONTENDERS, ScalingSpec(train_domains=("lab-z",)))
    alone = replace(patches, domains=("",) * len(patches))
    with pytest.raises(SpecError, match="two domains"):
        domains_grid(alone, CONTENDERS, DomainsSpec())
    assert set(scaling_grid(alone, CONTENDERS, ScalingSpec(seeds=1)).cells[0].parts.tests) == {"test"}
    with pytest.raises(SpecError, match="fractions"):
        ScalingSpec.parse({"fractions": [0.0, 1.0]})
