"""Where bags lie: whatever the tier, walks hand out the same bags in the order asked for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.placement import AHEAD, PlacedBags, _will_need
from pathotune_pipeline.errors import UsageError

CPU = torch.device("cpu")


def in_memory(count: int = 7, dtype=np.float16) -> list[Bag]:
    rng = np.random.default_rng(0)
    return [
        Bag(rng.standard_normal((3 + i, 4)).astype(dtype), rng.integers(0, 99, (3 + i, 2)), f"b{i}", f"p{i}", "a")
        for i in range(count)
    ]


def on_disk(folder, bags: list[Bag]) -> list[Bag]:
    mapped = []
    for i, bag in enumerate(bags):
        bag.features.tofile(folder / f"{i}.bin")
        features = np.memmap(folder / f"{i}.bin", bag.features.dtype, mode="c", shape=bag.features.shape)
        mapped.append(Bag(features, bag.coords, bag.bag_id, bag.group, bag.target))
    return mapped


@pytest.mark.parametrize(("mapped", "tier"), [(False, "memory"), (True, "disk")])
def test_bags_come_as_they_are_stored_in_the_order_asked_for(mapped, tier, tmp_path):
    bags = in_memory()
    placed = PlacedBags(on_disk(tmp_path, bags) if mapped else bags, CPU)
    assert (placed.tier, len(placed)) == (tier, 7)
    for order in ([3, 0, 6], [], [1], list(range(7))):
        came = list(placed.walk(order))
        assert [place for place, _ in came] == order
        for place, one in came:
            assert one.features.dtype == torch.float16
            assert np.array_equal(one.features.numpy(), bags[place].features)
            assert np.array_equal(one.coords.numpy(), bags[place].coords)
            assert (one.sizes, one.bag_ids) == ([3 + place], (f"b{place}",))


def test_features_in_memory_are_not_copied():
    bags = in_memory()
    for place, one in PlacedBags(bags, CPU).walk([2, 5]):
        assert np.shares_memory(one.features.numpy(), bags[place].features)


def test_a_map_is_asked_for_a_few_bags_ahead(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pathotune_pipeline.bags.placement._will_need", lambda features: asked.append(len(features) - 3)
    )
    placed = PlacedBags(on_disk(tmp_path, in_memory()), CPU)
    seen = []
    for place, _ in placed.walk([6, 1, 4, 0, 2]):
        seen.append((place, list(asked)))
    assert seen == [(6, [6, 1, 4]), (1, [6, 1, 4, 0]), (4, [6, 1, 4, 0, 2]), (0, asked), (2, asked)]
    assert len(asked) == 5
    list(placed.walk([5, 6, 1, 4]))
    assert asked[5:] == [5]  # the others were read, and memory holds them
    monkeypatch.setattr("pathotune_pipeline.bags.placement.SHARE_OF_MEMORY", 0)
    crowded = PlacedBags(on_disk(tmp_path, in_memory()), CPU)
    asked.clear()
    for _ in range(2):
        list(crowded.walk([3, 2, 0]))
    assert asked == [3, 2, 0] * 2


def test_parts_of_a_map_can_be_asked_for(tmp_path):
    whole = np.memmap(tmp_path / "x", np.float16, mode="w+", shape=(9000, 3))
    whole[:] = 1
    for part in (whole, whole[:1], whole[4000:7000], whole[8999:]):
        _will_need(part)
    _will_need(np.ones((3, 2)))
    assert (whole == 1).all()


ELSEWHERE = torch.device("meta")
"""A device that is not the CPU and that every machine has; it keeps no numbers."""


def test_a_walk_fetches_a_few_bags_ahead_and_no_more(tmp_path, monkeypatch):
    placed = PlacedBags(on_disk(tmp_path, in_memory()), ELSEWHERE)
    fetched, real = [], PlacedBags._fetch
    monkeypatch.setattr(PlacedBags, "_fetch", lambda self, place: fetched.append(place) or real(self, place))
    walk = placed.walk(range(7))
    for asked, (place, one) in enumerate(walk):
        assert (place, one.features.device) == (asked, ELSEWHERE)
        assert len(fetched) <= asked + 1 + AHEAD
        if asked == 3:
            break
    walk.close()
    assert len(fetched) <= 4 + AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bags")]


def test_what_goes_wrong_in_the_thread_is_raised_in_the_walk(monkeypatch):
    placed = PlacedBags(in_memory(), ELSEWHERE)

    def broken(self, place):
        raise OSError("the disk is gone")

    monkeypatch.setattr(PlacedBags, "_fetch", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(placed.walk([0, 1]))


def test_an_empty_bag_is_said():
    with pytest.raises(UsageError, match="bag x has no tiles"):
        PlacedBags([Bag(np.zeros((0, 3), np.float16), np.zeros((0, 2)), "x", "x")], CPU)


@pytest.mark.gpu
@pytest.mark.parametrize(("limit_gb", "tier"), [(None, "device"), (1e-9, "memory")])
def test_a_gpu_holds_what_fits(limit_gb, tier):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    bags = in_memory()
    placed = PlacedBags(bags, torch.device("cuda"), limit_gb=limit_gb)
    assert placed.tier == tier
    for place, one in placed.walk([4, 1, 0, 6]):
        assert one.features.is_cuda
        assert np.array_equal(one.features.cpu().numpy(), bags[place].features)
