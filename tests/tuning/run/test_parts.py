"""Which patches are for what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.parts import AdaptRunSpec, part_patches


def with_splits(patches: PatchSet, *splits: str) -> PatchSet:
    """Groups of four patches in these parts by turns."""
    return replace(patches, splits=tuple(splits[place // 4 % len(splits)] for place in range(len(patches))))


def groups_of(patches: PatchSet, index: np.ndarray) -> set[str]:
    return {patches.groups[place] for place in index.tolist()}


def test_the_sources_own_parts_go_first(pink_and_blue):
    parts = part_patches(with_splits(pink_and_blue, "train", "train", "val", "test", ""), AdaptRunSpec(test_share=0.5))
    assert {name: len(index) for name, index in parts.named().items()} == {"train": 64, "val": 32, "test": 32}
    assert parts.source == "the source's own"


def test_validation_that_the_source_does_not_name_is_drawn_from_training(pink_and_blue):
    patches = with_splits(pink_and_blue, "train", "train", "train", "test")
    parts = part_patches(patches, AdaptRunSpec(val_share=0.25))
    assert len(parts.test) == 40
    assert len(parts.train) + len(parts.val) == 120
    assert 20 <= len(parts.val) <= 40
    assert not groups_of(patches, parts.train) & groups_of(patches, parts.val)
    assert "validation drawn by group" in parts.source
    assert not len(part_patches(patches, AdaptRunSpec(val_share=0)).val)


def test_shares_are_drawn_by_group(pink_and_blue):
    parts = part_patches(pink_and_blue, AdaptRunSpec(test_share=0.25, val_share=0.2))
    held = [groups_of(pink_and_blue, index) for index in parts.named().values()]
    assert sum(map(len, held)) == len(set.union(*held)) == 40
    assert {name: len(index) for name, index in parts.named().items()} == {"train": 96, "val": 24, "test": 40}
    again, other = (part_patches(pink_and_blue, AdaptRunSpec(test_share=0.25, split_seed=seed)) for seed in (0, 1))
    assert np.array_equal(parts.test, again.test)
    assert not np.array_equal(parts.test, other.test)


def test_all_may_train(pink_and_blue):
    bare = pink_and_blue.labels.copy()
    bare[3] = -1
    parts = part_patches(pink_and_blue.with_labels(bare), AdaptRunSpec(test_share=0, val_share=0))
    assert (len(parts.train), len(parts.val), len(parts.test)) == (159, 0, 0)


def test_parts_without_training_are_refused(pink_and_blue):
    with pytest.raises(UsageError, match="none of them is train"):
        part_patches(with_splits(pink_and_blue, "val", "test"), AdaptRunSpec())
