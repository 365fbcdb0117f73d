from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics import (
    brier,
    expected_calibration_error,
    fit_temperature,
    reliability,
    scale_by_temperature,
)
from pathotune_pipeline.evaluation.metrics.calibration import (
    COLDEST,
    HOTTEST,
    weighted_brier,
    weighted_calibration_error,
)


def drawn(n: int, classes: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn from probabilities, which are then sharpened."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.ones(classes), n)
    targets = np.array([rng.choice(classes, p=row) for row in true])
    return targets, scale_by_temperature(true, 1 / sharpness)


def test_brier_is_that_of_scikit_learn_and_of_the_hand():
    targets, probs = drawn(50, 2, 2.0)
    assert brier(targets, probs).value == pytest.approx(brier_score_loss(targets, probs[:, 1]))
    three = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    expected = (0.25 + 0.09 + 0.04 + 0.01 + 0.81 + 0.64) / 2
    assert brier(np.array([0, 1]), three).value == pytest.approx(expected)
    assert brier(np.zeros(0, int), np.zeros((0, 2))).value is None


def test_calibration_error_by_hand():
    sure = np.array([0.9, 0.92, 0.31, 0.33])
    probs = np.stack([1 - sure, sure], axis=1)
    targets = np.array([1, 0, 0, 0])
    # bins (13/15, 14/15] and (4/15, 5/15]: |1/2 - .91| and |0 - .32|, two slides of four each
    assert expected_calibration_error(targets, probs).value == pytest.approx((0.41 + 0.32) / 2)
    points = reliability(targets, probs)
    assert points["confidence"] == pytest.approx([0.32, 0.91])
    assert points["observed"] == [0.0, 0.5]
    assert points["slides"] == [2, 2]
    three = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])  # the most probable is judged
    assert expected_calibration_error(np.array([0, 1]), three).value == pytest.approx((0.5 + 0.8) / 2)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_is_found_and_is_the_best(classes):
    targets, probs = drawn(4000, classes, 3.0)
    temperature = fit_temperature(targets, probs)
    assert temperature == pytest.approx(3, rel=0.1)

    def loss(t: float) -> float:
        return log_loss(targets, scale_by_temperature(probs, t), labels=range(classes))

    assert loss(temperature) < min(loss(temperature * 1.01), loss(temperature / 1.01))
    better = expected_calibration_error(targets, scale_by_temperature(probs, temperature)).value
    assert better < 0.5 * expected_calibration_error(targets, probs).value
    assert scale_by_temperature(probs, 1.0) == pytest.approx(probs)


def test_a_temperature_has_bounds_where_the_likelihood_has_no_optimum():
    sure = np.array([[0.4, 0.6], [0.7, 0.3]])
    assert fit_temperature(np.array([1, 0]), sure) == COLDEST
    assert fit_temperature(np.array([0, 1]), sure) == HOTTEST
    assert fit_temperature(np.array([0, 0]), np.array([[1.0, 0.0], [0.0, 1.0]])) == HOTTEST
    with pytest.raises(UsageError, match="no slide"):
        fit_temperature(np.zeros(0, int), np.zeros((0, 2)))
    with pytest.raises(UsageError, match="not finite"):
        brier(np.array([0]), np.array([[np.nan, 1.0]]))


def test_weights_count_as_repeated_slides():
    targets, probs = drawn(40, 3, 2.0)
    counts = np.random.default_rng(1).integers(0, 4, (5, 40))
    rows = [np.repeat(np.arange(40), each) for each in counts]
    weights = counts.astype(float)
    assert weighted_brier(targets, probs, weights) == pytest.approx([brier(targets[r], probs[r]).value for r in rows])
    errors = [expected_calibration_error(targets[r], probs[r]).value for r in rows]
    assert weighted_calibration_error(targets, probs, weights) == pytest.approx(errors)
