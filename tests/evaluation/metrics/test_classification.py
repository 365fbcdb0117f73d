from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score

from pathotune_pipeline.evaluation.metrics import (
    average_precision,
    multilabel_auroc,
    multilabel_average_precision,
    quadratic_kappa,
)
from pathotune_pipeline.evaluation.metrics.classification import (
    weighted_average_precision,
    weighted_multilabel_auroc,
    weighted_quadratic_kappa,
)


def test_average_precision_is_that_of_scikit_learn_ties_included(drawn):
    targets, probs = drawn(60, 2)
    assert average_precision(targets, probs).value == pytest.approx(average_precision_score(targets, probs[:, 1]))
    targets, probs = drawn(90, 3)
    each = [average_precision_score(targets == c, probs[:, c]) for c in range(3)]
    assert average_precision(targets, probs).value == pytest.approx(np.mean(each))


def test_average_precision_by_hand():
    probs = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    # right, wrong, right, wrong from the top: 1/2 x 1 + 1/2 x 2/3
    assert average_precision(np.array([1, 0, 1, 0]), probs).value == pytest.approx(5 / 6)
    assert "class 1" in average_precision(np.zeros(4, int), probs).reason


def test_quadratic_kappa_is_that_of_scikit_learn(drawn):
    targets, probs = drawn(80, 4)
    expected = cohen_kappa_score(targets, probs.argmax(axis=1), weights="quadratic")
    assert quadratic_kappa(targets, probs).value == pytest.approx(expected)
    one = quadratic_kappa(np.zeros(3, int), np.eye(4)[[0, 0, 0]])
    assert one.value is None
    assert "one grade" in one.reason
    assert quadratic_kappa(np.zeros(0, int), np.zeros((0, 4))).reason == "no slides"


def test_labels_that_are_not_known_are_passed_over():
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, (50, 3)).astype(float)
    targets[:, 2] = 1  # never absent: not judged
    targets[rng.random((50, 3)) < 0.3] = np.nan
    probs = rng.random((50, 3)).round(1)
    known = [~np.isnan(targets[:, label]) for label in range(2)]
    areas = [roc_auc_score(targets[k, i], probs[k, i]) for i, k in enumerate(known)]
    precisions = [average_precision_score(targets[k, i], probs[k, i]) for i, k in enumerate(known)]
    assert multilabel_auroc(targets, probs).value == pytest.approx(np.mean(areas))
    assert multilabel_average_precision(targets, probs).value == pytest.approx(np.mean(precisions))
    assert multilabel_auroc(targets[:, 2:], probs[:, 2:]).reason == "no label has both sides"


def test_weights_count_as_repeated_slides(drawn):
    targets, probs = drawn(40, 3)
    counts = np.random.default_rng(1).integers(0, 4, (5, 40))
    rows = [np.repeat(np.arange(40), each) for each in counts]
    weights = counts.astype(float)
    kappas = [cohen_kappa_score(targets[r], probs[r].argmax(axis=1), weights="quadratic") for r in rows]
    assert weighted_quadratic_kappa(targets, probs, weights) == pytest.approx(kappas)
    precisions = [average_precision(targets[r], probs[r]).value for r in rows]
    assert weighted_average_precision(targets, probs, weights) == pytest.approx(precisions)
    labels = np.eye(3)[targets]
    areas = [multilabel_auroc(labels[r], probs[r]).value for r in rows]
    assert weighted_multilabel_auroc(labels, probs, weights) == pytest.approx(areas)
