from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error as sklearn_mae
from sklearn.metrics import r2_score

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics import mean_absolute_error, pearson, r2
from pathotune_pipeline.evaluation.metrics.regression import (
    weighted_mean_absolute_error,
    weighted_pearson,
    weighted_r2,
)


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.standard_normal(40) * 2 + 1e4
    return targets, targets + rng.standard_normal(40)


def test_scores_are_those_of_the_libraries(pairs):
    targets, predicted = pairs
    assert r2(targets, predicted).value == pytest.approx(r2_score(targets, predicted))
    assert mean_absolute_error(targets, predicted).value == pytest.approx(sklearn_mae(targets, predicted))
    assert pearson(targets, predicted).value == pytest.approx(np.corrcoef(targets, predicted)[0, 1])


def test_by_hand():
    assert r2(np.array([1.0, 2, 3]), np.array([2.0, 2, 2])).value == 0
    assert r2(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])).value == -3
    assert pearson(np.array([1.0, 2, 3]), np.array([-2.0, -4, -6])).value == pytest.approx(-1)


def test_weights_count_as_repeated_slides(pairs):
    targets, predicted = pairs
    counts = np.random.default_rng(1).integers(0, 4, (5, 40))
    rows = [np.repeat(np.arange(40), each) for each in counts]
    for weighted, once in ((weighted_r2, r2), (weighted_pearson, pearson)):
        expected = [once(targets[r], predicted[r]).value for r in rows]
        assert weighted(targets, predicted, counts.astype(float)) == pytest.approx(expected)
    expected = [mean_absolute_error(targets[r], predicted[r]).value for r in rows]
    assert weighted_mean_absolute_error(targets, predicted, counts.astype(float)) == pytest.approx(expected)


def test_what_is_not_defined_has_a_reason():
    flat, some = np.full(3, 0.1), np.array([1.0, 2, 3])
    assert "do not vary" in r2(flat, some).reason
    assert "do not vary" in pearson(some, flat).reason
    assert mean_absolute_error(np.zeros(0), np.zeros(0)).reason == "no slides"
    with pytest.raises(UsageError, match="targets 3, predicted 2"):
        r2(some, some[:2])
    with pytest.raises(UsageError, match="not finite"):
        r2(some, np.array([1, np.nan, 2]))
