from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag, BagBatch, collate
from pathotune_pipeline.bags.targets import Classes
from pathotune_pipeline.errors import ManifestError, UsageError


def bag(n: int, name: str = "a", target: str | int | None = 1, dim: int = 4) -> Bag:
    rng = np.random.default_rng(n)
    return Bag(rng.standard_normal((n, dim)).astype(np.float16), np.full((n, 2), n, np.int64), name, name, target)


def test_bags_are_laid_end_to_end_and_taken_apart_again():
    bags = [bag(3), bag(1, "b", 0), bag(5, "c")]
    batch = collate(bags)
    assert batch.features.dtype == torch.float32
    assert batch.offsets.tolist() == [0, 3, 4, 9]
    assert batch.targets.tolist() == [1, 0, 1]
    assert batch.segments().tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert len(batch) == 3
    assert batch.coords[:, 0].tolist() == [3] * 3 + [1] + [5] * 5
    for whole, part in zip(bags, batch, strict=True):
        assert np.array_equal(part.numpy(), whole.features.astype(np.float32))
    assert len(batch.to("cpu")) == 3


def test_names_are_no_indices():
    assert collate([bag(2, target="tumour")]).targets is None
    assert collate([bag(2, target="tumour")], targets=[1]).targets.tolist() == [1]


def test_float64_tensors_stay_so():
    whole = Bag(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.int64), "a", "a")
    assert collate([whole]).features.dtype == torch.float64
    assert BagBatch.of(torch.zeros(2, 3), torch.ones(1, 3)).lengths.tolist() == [2, 1]


def test_read_only_features_are_taken():
    features = np.zeros((2, 3), np.float32)
    features.flags.writeable = False
    assert collate([Bag(features, np.zeros((2, 2)), "a", "a")]).features.shape == (2, 3)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(UsageError, match="bag a: features are"):
        Bag(np.zeros((3, 4)), np.zeros((2, 2)), "a", "a")
    with pytest.raises(UsageError, match="bag b has 5-d"):
        collate([bag(2), bag(2, "b", dim=5)])
    with pytest.raises(UsageError, match="bag a has no tiles"):
        collate([bag(0)])
    with pytest.raises(UsageError, match="at least one"):
        collate([])


def test_classes_are_sorted_and_two_at_least():
    assert Classes.of(["tumour", "normal", "tumour"]).names == ("normal", "tumour")
    assert Classes.of(["10", "9", "1"]).names == ("1", "9", "10")
    assert Classes.of("ba").encode(["b", "a"]).tolist() == [1, 0]
    assert Classes.of("ab").binary
    with pytest.raises(ManifestError, match="all 2 labels are 'a'"):
        Classes.of("aa")
    with pytest.raises(ManifestError, match="Did you mean 'tumour'"):
        Classes.of(["tumour", "x"]).index("tumor")
