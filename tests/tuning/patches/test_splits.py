"""Splits of patches: no group is torn, classes are shared out, fractions are nested, and it is all decided by the seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from pathotune_pipeline.errors import ManifestError, PathotuneError, UsageError
from pathotune_pipeline.tuning.patches import PatchSet, check_parts, grouped_folds, grouped_split, nested_fractions
from pathotune_pipeline.tuning.patches.splits import LeakageWarning

Make = Callable[..., PatchSet]


@pytest.fixture
def draw_slides(make_patches: Make) -> Make:
    """60 slides of 1 to 20 patches of three classes, the third one rare and in a third of the slides only."""

    def draw(seed: int) -> PatchSet:
        rng = np.random.default_rng(seed)
        labels: list[int] = []
        groups: list[str] = []
        for slide in range(60):
            count = int(rng.integers(1, 21))
            shares = [0.6, 0.3, 0.1] if slide % 3 == 0 else [0.7, 0.3, 0.0]
            labels += rng.choice(3, count, p=shares).tolist()
            groups += [f"slide-{slide}"] * count
        return make_patches(labels, groups, classes=3)

    return draw


@pytest.fixture
def slides(draw_slides: Make) -> PatchSet:
    return draw_slides(7)


def nearly(patches: PatchSet, index: np.ndarray, share: float) -> bool:
    """Whether a part has its share of every class, but for two patches or one in fifty."""
    held, total = (np.array(list(each.values())) for each in (patches.counts(index), patches.counts()))
    return bool((np.abs(held - share * total) <= np.maximum(2, total / 50)).all())


def test_parts_hold_their_share_of_every_class_and_tear_no_group(slides: PatchSet) -> None:
    parts = grouped_split(slides, {"train": 0.6, "val": 0.15, "test": 0.25}, seed=3)
    check_parts(slides, parts)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(slides)))
    for name, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        assert nearly(slides, parts[name], share)


def test_the_order_of_the_patches_and_the_process_decide_nothing(slides: PatchSet) -> None:
    shuffled = np.random.default_rng(1).permutation(len(slides))
    other = slides.subset(shuffled)
    np.random.seed(5)  # noqa: NPY002
    mine, theirs = (grouped_folds(each, 4, seed=2) for each in (slides, other))
    for a, b in zip(mine, theirs, strict=True):
        for part in ("train", "val", "test"):
            left = {slides.names[i] for i in getattr(a, part)}
            assert left == {other.names[i] for i in getattr(b, part)}
    again = grouped_folds(slides, 4, seed=3)
    assert any(set(a.test) != set(b.test) for a, b in zip(mine, again, strict=True))


def test_each_patch_is_tested_once_and_no_group_is_torn(slides: PatchSet) -> None:
    folds = grouped_folds(slides, 5, seed=0, val_share=0.2)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(len(slides)))
    for fold in folds:
        check_parts(slides, {"train": fold.train, "val": fold.val, "test": fold.test})
        assert len(fold.train) + len(fold.val) + len(fold.test) == len(slides)
        assert min(slides.counts(fold.train).values()) > 0
        assert min(slides.counts(fold.val).values()) > 0
        assert nearly(slides, fold.test, 0.2)
    assert not len(grouped_folds(slides, 5, val_share=0)[0].val)


def test_folds_are_cut_no_worse_than_by_scikit_learn(draw_slides: Make) -> None:
    def unevenness(patches: PatchSet, tests: list[np.ndarray]) -> float:
        wanted = np.array(list(patches.counts().values())) / len(tests)
        held = np.array([list(patches.counts(test).values()) for test in tests])
        return float(((held - wanted) ** 2 / wanted).sum())

    ours, theirs = [], []
    for seed in range(6):
        patches = draw_slides(seed)
        ours.append(unevenness(patches, [fold.test for fold in grouped_folds(patches, 5, val_share=0)]))
        cutter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        cuts = cutter.split(np.zeros(len(patches)), patches.labels, np.array(patches.groups))
        theirs.append(unevenness(patches, [test for _, test in cuts]))
    assert np.mean(ours) <= np.mean(theirs)


def test_without_groups_classes_are_cut_exactly(make_patches: Make) -> None:
    patches = make_patches([0] * 40 + [1] * 20)
    for fold in grouped_folds(patches, 5, val_share=0.25):
        assert patches.counts(fold.test) == {"a": 8, "b": 4}
        assert patches.counts(fold.val) == {"a": 8, "b": 4}


def test_unlabelled_patches_and_others_are_left_out(make_patches: Make) -> None:
    patches = make_patches([0, 1, -1] * 10)
    index = np.arange(15)
    parts = grouped_split(patches, {"one": 0.5, "other": 0.5}, index=index)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == [i for i in range(15) if i % 3 != 2]


def test_a_paper_split_warns_and_tears_groups(slides: PatchSet) -> None:
    with pytest.warns(LeakageWarning, match="too good") as told:
        folds = grouped_folds(slides, 3, paper_split=True)
    assert len(told) == 1
    with pytest.raises(PathotuneError, match="Leakage"):
        check_parts(slides, {"train": folds[0].train, "test": folds[0].test})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grouped_folds(slides, 3)


def test_too_few_groups_are_told(make_patches: Make) -> None:
    patches = make_patches([0] * 9 + [1] * 9, [f"s{i}" for i in range(9)] + ["t0", "t1"] * 4 + ["t0"])
    with pytest.raises(ManifestError, match=r"'b' is in 2 groups \(a: 9, b: 2\)"):
        grouped_folds(patches, 3)
    with pytest.raises(ManifestError, match="two classes; found a"):
        grouped_split(patches, {"x": 0.5, "y": 0.5}, index=np.arange(9))
    # Both classes are in two groups, and one group holds nearly all: still each part gets both.
    two = make_patches([0, 1] * 10 + [0, 1], ["big"] * 20 + ["small"] * 2)
    parts = grouped_split(two, {"x": 0.5, "y": 0.5})
    assert sorted(len(part) for part in parts.values()) == [2, 20]


def test_a_split_that_leaves_a_part_without_a_class_is_refused(make_patches: Make) -> None:
    # Each of three classes is in two of three slides: of two parts, the one with a single slide lacks a class.
    patches = make_patches([0, 1, 1, 2, 2, 0], ["s", "s", "t", "t", "u", "u"], classes=3)
    with pytest.raises(ManifestError, match="without class"):
        grouped_split(patches, {"x": 0.5, "y": 0.5})


@pytest.mark.parametrize("fractions", [{"x": 1.0}, {"x": 0.5, "y": 0.4}, {"x": 1.0, "y": 0.0}])
def test_shares_that_make_no_sense(make_patches: Make, fractions: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        grouped_split(make_patches([0, 1] * 5), fractions)
    with pytest.raises(UsageError, match="2 folds or more"):
        grouped_folds(make_patches([0, 1] * 5), 1)


def test_fractions_are_nested_groups_of_the_training_part(slides: PatchSet) -> None:
    train = grouped_folds(slides, 3)[0].train
    groups = set(slides.units[train])
    parts = nested_fractions(slides, train, [0.1, 0.3, 0.5, 1.0], seed=4, min_per_class=1)
    for small, large in pairwise(parts):
        assert set(small.index) < set(large.index)
    for part in parts:
        inside = set(slides.units[part.index])
        assert part.groups == len(inside) == max(1, round(part.fraction * len(groups)))
        # Whole groups: what is not inside has none of them.
        assert not inside & set(slides.units[np.setdiff1d(train, part.index)])
        assert part.counts == slides.counts(part.index)
    assert set(parts[-1].index) == set(train)
    # Other fractions cut the same order, another seed another one.
    assert set(nested_fractions(slides, train, [0.3], seed=4)[0].index) == set(parts[1].index)
    assert set(nested_fractions(slides, train, [0.3], seed=5)[0].index) != set(parts[1].index)


def test_fractions_hold_classes_in_proportion(make_patches: Make) -> None:
    patches = make_patches([0] * 90 + [1] * 10)
    for seed in range(10):
        tenth, half = nested_fractions(patches, np.arange(100), [0.1, 0.5], seed=seed)
        assert 8 <= tenth.counts["a"] <= 10
        assert 4 <= half.counts["b"] <= 6


def test_a_fraction_with_too_few_is_reported(make_patches: Make) -> None:
    patches = make_patches([0] * 90 + [1] * 10)
    few, all_ = nested_fractions(patches, np.arange(100), [0.03, 1.0], min_per_class=3)
    assert "3 groups hold" in few.problem
    assert "3 of each class" in few.problem
    assert not all_.problem
    with pytest.raises(UsageError, match="rising"):
        nested_fractions(patches, np.arange(100), [0.3, 0.1])
    with pytest.raises(UsageError, match="no labelled"):
        nested_fractions(replace(patches, labels=np.full(100, -1)), np.arange(100), [0.3])
