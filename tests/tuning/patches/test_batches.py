"""Batches of patches: each epoch is decided by seed and number, and balance deals evenly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.tuning.patches import PatchBatches, PatchSet, ordered_batches

Make = Callable[..., PatchSet]


def noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, pixels.shape, dtype=torch.uint8, generator=generator)


def test_each_patch_once_an_epoch_with_its_own_label(make_patches: Make) -> None:
    patches = make_patches([0, 1, -1] * 10)
    index = patches.where(labelled=True)
    batches = PatchBatches(patches, index, batch_size=6)
    seen: list[int] = []
    for pixels, labels, places in batches(0):
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1:] == (4, 4, 3)
        assert (pixels[:, 0, 0, 0] == places).all()
        assert (labels == torch.from_numpy(patches.labels)[places]).all()
        seen += places.tolist()
    assert sorted(seen) == index.tolist()
    assert seen != index.tolist()


def test_batches_differ_by_one_patch_at_most(make_patches: Make) -> None:
    batches = PatchBatches(make_patches([0, 1] * 65), np.arange(130), batch_size=64)
    assert [len(labels) for _, labels, _ in batches(0)] == [44, 43, 43]
    assert len(batches) == 3


def test_an_epoch_is_decided_by_seed_and_number_alone(make_patches: Make) -> None:
    patches = make_patches([0, 1] * 20)
    one, other = (PatchBatches(patches, np.arange(40), batch_size=8, augment=noise, seed=3) for _ in range(2))
    whole = [list(one(epoch)) for epoch in range(3)]
    torch.manual_seed(99)
    next(iter(other(0)))  # an epoch that was begun and left changes nothing
    for mine, theirs in zip(whole[2], other(2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    first = [torch.cat([batch[2] for batch in epoch]).tolist() for epoch in whole]
    assert first[0] != first[1] != first[2]
    assert not torch.equal(whole[0][0][0], whole[0][1][0])
    another = PatchBatches(patches, np.arange(40), batch_size=8, seed=4)
    assert another.order(0).tolist() != first[0]
    state = torch.get_rng_state()
    list(one(0))
    assert torch.equal(state, torch.get_rng_state())


def test_classes_are_dealt_evenly_without_replacement(make_patches: Make) -> None:
    patches = make_patches([0] * 50 + [1] * 7)
    order = PatchBatches(patches, np.arange(57), balance="class").order(0)
    counts = patches.counts(order)
    assert abs(counts["a"] - counts["b"]) == 1
    times = Counter(order.tolist())
    assert max(times[place] for place in range(50)) == 1
    rare = [times[place] for place in range(50, 57)]
    assert max(rare) - min(rare) <= 1
    assert sum(PatchBatches(patches, np.arange(57), balance="class", draws=1000).order(1) < 50) == 500


def test_groups_are_dealt_evenly(make_patches: Make) -> None:
    groups = ["large"] * 40 + ["small"] * 4 + [""] * 2
    patches = make_patches([0, 1] * 23, groups)
    order = PatchBatches(patches, np.arange(46), balance="group", draws=40).order(0)
    assert Counter(patches.units[order]) == Counter(dict.fromkeys(set(patches.units), 10))
    order = PatchBatches(patches, np.arange(46), balance="class-group", draws=60).order(0)
    found = Counter(zip(patches.labels[order].tolist(), patches.units[order], strict=True))
    # Each class is in three groups: large, small, and one patch alone.
    assert set(found.values()) == {10}
    assert len(found) == 6


def test_patches_in_order_for_prediction(make_patches: Make) -> None:
    patches = make_patches([0, 1, -1] * 3)
    index = np.array([5, 2, 8, 0, 1])
    batches = list(ordered_batches(patches, index, batch_size=2))
    assert [len(labels) for _, labels, _ in batches] == [2, 2, 1]
    assert torch.cat([places for _, _, places in batches]).tolist() == index.tolist()


def test_a_map_from_the_cache_is_not_written_to(make_patches: Make) -> None:
    patches = make_patches([0, 1] * 5)
    patches.images.flags.writeable = False
    for pixels, _, _ in PatchBatches(patches, np.arange(10))(0):
        pixels.zero_()
    assert patches.images.max() == 9


def test_what_cannot_be_drawn_is_refused(make_patches: Make) -> None:
    patches = make_patches([0, 1, -1])
    with pytest.raises(UsageError, match="1 of 3 patches"):
        PatchBatches(patches, np.arange(3))
    with pytest.raises(UsageError, match="0 patches"):
        PatchBatches(patches, np.zeros(0, np.int64))
    with pytest.raises(UsageError, match="draws=0"):
        PatchBatches(patches, np.arange(2), draws=0)
