"""With labels that mean nothing, every head scores as chance: no label leaks into what judges the test part."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.evaluation.crossval import CrossvalSpec, crossval

SHUFFLES = 20
PATIENTS = 32
SMALL = {
    "abmil": {"hidden": 16, "attention_dim": 8},
    "abmil-ungated": {"hidden": 16, "attention_dim": 8},
    "clam-sb": {"hidden": 16, "attention_dim": 8, "instances": 2},
    "clam-mb": {"hidden": 16, "attention_dim": 8, "instances": 2},
    "transmil": {"dim": 16, "heads": 2, "landmarks": 4},
    "dsmil": {"query_dim": 8},
    "dtfd": {"hidden": 16, "attention_dim": 8},
    "transformer": {"dim": 16, "heads": 2, "feedforward": 16},
}
QUICK = ["mean", "abmil"]
SLOW = ["max", "abmil-ungated", "clam-sb", "clam-mb", "transmil", "dsmil", "dtfd", "transformer"]


@pytest.fixture(scope="module")
def bags() -> list[Bag]:
    """Two slides a patient, alike: whoever lets a patient stand on two sides can tell the patient's label."""
    rng = np.random.default_rng(5)
    found = []
    for patient in range(PATIENTS):
        own = 3 * rng.standard_normal(12)
        for slide in range(2):
            x = (own + rng.standard_normal((7, 12))).astype(np.float32)
            places, label = np.zeros((7, 2), np.int64), "ab"[patient % 2]
            found.append(Bag(x, places, f"p{patient:02}-{slide}", f"p{patient:02}", label))
    return found


@pytest.mark.parametrize("head", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_shuffled_labels_score_as_chance(head, bags):
    """The mean AUROC over 20 shuffles among patients is .5, give or take 3.5 of its standard errors.

    A standard error is that of one AUROC of so many patients without any signal (Mann and Whitney 1947), or what the
    shuffles show where that is more, over the root of their number.
    """
    spec = CrossvalSpec(
        head=head,
        settings=SMALL.get(head, {}),
        train={"epochs": 5, "min_epochs": 0, "lr": 3e-3, "accumulate": 1, "patience": 4},
        batch_bags=8,
        folds=2,
        seeds=1,
        bootstrap=1000,
        shuffle_labels=True,
        device="cpu",
    )
    scores = [crossval(bags, spec.with_values(seed0=seed)).scores["auroc"]["value"] for seed in range(SHUFFLES)]
    half = PATIENTS / 2
    of_one = max(math.sqrt((PATIENTS + 1) / (12 * half * half)), float(np.std(scores, ddof=1)))
    assert abs(float(np.mean(scores)) - 0.5) <= 3.5 * of_one / math.sqrt(SHUFFLES), scores
    assert np.std(scores) > 0.02  # the shuffles differ


def test_a_patient_on_two_sides_would_be_seen(bags):
    """The same test fails where slides of a patient are split: it can find a leak."""
    alone = [Bag(bag.features, bag.coords, bag.bag_id, bag.bag_id, bag.target) for bag in bags]
    rng = np.random.default_rng(0)
    spec = CrossvalSpec(
        head="abmil", settings=SMALL["abmil"], train={"epochs": 15, "min_epochs": 0, "lr": 1e-2},
        batch_bags=8, folds=4, seeds=1, bootstrap=1000, device="cpu",
    )  # fmt: skip
    scores = []
    for _ in range(2):
        drawn = rng.permutation(np.repeat(["a", "b"], PATIENTS // 2))
        leaky = [Bag(b.features, b.coords, b.bag_id, b.group, str(drawn[i // 2])) for i, b in enumerate(alone)]
        scores.append(crossval(leaky, spec).scores["auroc"]["value"])
    assert np.mean(scores) > 0.65, scores
