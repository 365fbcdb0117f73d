from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from pathotune_pipeline.evaluation.metrics.agreement import (
    cohen_kappa,
    support_weighted_f1,
    weighted_cohen_kappa,
    weighted_support_f1,
)


@pytest.mark.parametrize("classes", [2, 4])
def test_kappa_and_f1_are_those_of_scikit_learn(drawn, classes):
    targets, probs = drawn(80, classes)
    called = probs.argmax(axis=1)
    assert cohen_kappa(targets, probs).value == pytest.approx(cohen_kappa_score(targets, called))
    expected = f1_score(targets, called, average="weighted")
    assert support_weighted_f1(targets, probs).value == pytest.approx(expected)


def test_a_class_that_is_never_called_counts_as_missed():
    targets, probs = np.array([0, 0, 1, 2]), np.eye(3)[[0, 0, 0, 2]]
    expected = f1_score(targets, probs.argmax(axis=1), average="weighted", zero_division=0)
    assert support_weighted_f1(targets, probs).value == pytest.approx(expected)


def test_kappa_that_is_not_defined_says_why():
    assert "one class" in cohen_kappa(np.zeros(3, int), np.eye(2)[[0, 0, 0]]).reason
    assert cohen_kappa(np.zeros(0, int), np.zeros((0, 2))).value is None


def test_weights_count_as_repeated_images(drawn):
    targets, probs = drawn(40, 3)
    counts = np.random.default_rng(1).integers(0, 4, (5, 40)).astype(float)
    for score, alone in ((weighted_cohen_kappa, cohen_kappa), (weighted_support_f1, support_weighted_f1)):
        for row, value in zip(counts.astype(int), score(targets, probs, counts), strict=True):
            repeated = np.repeat(np.arange(40), row)
            assert value == pytest.approx(alone(targets[repeated], probs[repeated]).value)
