from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.comparison import compare_paired, holm
from pathotune_pipeline.evaluation.metrics.classification import weighted_accuracy, weighted_auroc


def stacked(noise_a: float, noise_b: float, n: int = 120, seed: int = 0):
    """AUROC of two models on the same slides, two a patient."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) // 2 % 2
    scores = [targets + noise * rng.standard_normal(n) for noise in (noise_a, noise_b)]
    ranked = np.concatenate([each.argsort().argsort() / n for each in scores])
    probs = np.stack([1 - ranked, ranked], axis=1)
    return partial(weighted_auroc, np.tile(targets, 2), probs), [f"p{i // 2:03d}" for i in range(n)], targets


def test_a_better_model_is_found_and_the_sign_is_that_of_the_first():
    score, groups, targets = stacked(0.3, 3.0)
    found = compare_paired(score, groups=groups, strata=targets)
    assert found.difference == found.value_a - found.value_b > 0.2
    assert 0 < found.low < found.difference < found.high
    assert found.p_value < 0.005
    assert found.patients == 60
    assert found == compare_paired(score, groups=groups, strata=targets)


def test_a_model_does_not_differ_from_itself():
    score, groups, _ = stacked(1.0, 1.0)
    twice = partial(weighted_auroc, np.tile(score.args[0][:120], 2), np.tile(score.args[1][:120], (2, 1)))
    found = compare_paired(twice, groups=groups)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_equally_good_models_are_seldom_told_apart():
    p_values = []
    for seed in range(40):
        score, groups, targets = stacked(1.0, 1.0, n=40, seed=seed)
        p_values.append(compare_paired(score, groups=groups, strata=targets, draws=1000).p_value)
    assert np.mean(np.array(p_values) < 0.1) < 0.25
    assert 0.3 < np.mean(p_values) < 0.7


def test_the_permutations_are_those_that_can_be_counted():
    # One model is right on all of 4 patients, the other on none: of 16 exchanges 2 are as far apart.
    targets = np.zeros(8, int)
    probs = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    found = compare_paired(partial(weighted_accuracy, targets, probs), groups=list("abcd"), draws=20_000)
    assert found.p_value == pytest.approx(2 / 16, abs=0.01)
    # With all slides of one patient there is nothing to tell them apart by.
    alone = compare_paired(partial(weighted_accuracy, targets, probs), groups=["a"] * 4)
    assert alone.p_value == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(UsageError, match="no p-value"):
        holm([0.1, 1.5])


def test_what_cannot_be_compared():
    score, groups, _ = stacked(1.0, 1.0)
    with pytest.raises(UsageError, match="at least 1000"):
        compare_paired(score, groups=groups, draws=10)
    flat = partial(weighted_auroc, np.zeros(240, int), score.args[1])
    with pytest.raises(UsageError, match="not defined on these"):
        compare_paired(flat, groups=groups)
