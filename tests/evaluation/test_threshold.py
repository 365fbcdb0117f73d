from __future__ import annotations

import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.scoring import Sample, scorers
from pathotune_pipeline.evaluation.threshold import youden_threshold


def youden(positive: np.ndarray, probs: np.ndarray, cut: float) -> float:
    called = probs >= cut
    return called[positive].mean() + (~called[~positive]).mean() - 1


@pytest.mark.parametrize("seed", range(6))
def test_no_other_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    positive = rng.random(40) < 0.3
    probs = np.round(rng.random(40) + 0.3 * positive, 1)  # with ties
    cut = youden_threshold(positive, probs)
    every = np.unique([0.0, *probs, *(probs + 1e-9), 2.0])
    assert youden(positive, probs, cut) == pytest.approx(max(youden(positive, probs, each) for each in every))


def test_of_equal_thresholds_the_nearest_to_one_half_is_taken():
    assert youden_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])) == pytest.approx(0.4)
    assert youden_threshold(np.array([0, 1, 0, 1]), np.array([0.1, 0.3, 0.7, 0.9])) == pytest.approx(0.2)


def test_one_side_alone_has_no_threshold_and_nonsense_is_refused():
    assert youden_threshold(np.ones(3, bool), np.array([0.1, 0.2, 0.3])) is None
    with pytest.raises(UsageError, match="finite"):
        youden_threshold(np.array([0, 1]), np.array([0.1, np.nan]))


def test_scores_at_thresholds_use_each_slides_own():
    probs = np.array([0.2, 0.5, 0.5, 0.9, 0.4])
    sample = Sample(
        kind="binary",
        classes=("no", "yes"),
        labels=["no", "no", "yes", "yes", "yes"],
        values=np.stack([1 - probs, probs], axis=1),
        thresholds=np.array([0.5, 0.6, 0.5, 0.5, 0.5]),
    )
    found = {name: scorer.once(5).value for name, scorer in scorers(sample).items()}
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["specificity"] == 1
    assert found["balanced_accuracy_at_threshold"] == pytest.approx(5 / 6)
    weights = np.array([[1, 1, 0, 2, 1.0]])
    assert scorers(sample)["sensitivity"].weighted(weights) == pytest.approx([2 / 3])
