from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.intervals import bootstrap, bootstrap_scores, patient_draws
from pathotune_pipeline.evaluation.metrics import accuracy, auroc, balanced_accuracy, roc_points, weighted_auroc


def test_scores_are_those_of_scikit_learn_ties_included(drawn):
    targets, probs = drawn(60, 2)
    assert auroc(targets, probs).value == pytest.approx(roc_auc_score(targets, probs[:, 1]))
    targets, probs = drawn(90, 3)
    each = [roc_auc_score(targets == c, probs[:, c]) for c in range(3)]
    assert auroc(targets, probs).value == pytest.approx(np.mean(each))
    said = probs.argmax(axis=1)
    assert balanced_accuracy(targets, probs).value == pytest.approx(balanced_accuracy_score(targets, said))
    assert accuracy(targets, probs).value == pytest.approx((targets == said).mean())


def test_weights_count_as_repeated_slides(drawn):
    targets, probs = drawn(40, 2)
    counts = np.random.default_rng(1).integers(0, 4, (5, 40))
    again = [roc_auc_score(np.repeat(targets, row), np.repeat(probs[:, 1], row)) for row in counts]
    assert weighted_auroc(targets, probs, counts.astype(float)) == pytest.approx(again)


def test_what_is_not_defined_has_a_reason():
    score = auroc(np.zeros(3, int), np.full((3, 2), 0.5))
    assert score.value is None
    assert "class 1" in score.reason
    assert balanced_accuracy(np.zeros(3, int), np.full((3, 2), 0.5)).value is None
    assert accuracy(np.zeros(0, int), np.zeros((0, 2))).value is None


def test_roc_points_go_from_corner_to_corner(drawn):
    targets, probs = drawn(30, 3)
    curves = roc_points(targets, probs, "abc")
    assert list(curves) == ["a", "b", "c"]
    assert (curves["a"]["fpr"][0], curves["a"]["tpr"][-1]) == (0.0, 1.0)
    assert list(roc_points(*drawn(30, 2), "ab")) == ["b"]


def test_the_interval_covers_and_repeats_and_is_fast(drawn):
    targets, probs = drawn(400, 2)
    groups = [f"p{i // 2}" for i in range(400)]
    start = time.perf_counter()
    found = bootstrap(targets, probs, groups=groups, draws=2000, seed=1)
    assert time.perf_counter() - start < 10  # 0.2 s on an idle machine
    assert found["auroc"].low < auroc(targets, probs).value < found["auroc"].high
    assert found == bootstrap(targets, probs, groups=groups, draws=2000, seed=1)
    assert found != bootstrap(targets, probs, groups=groups, draws=2000, seed=2)


def test_copies_of_a_patients_slide_do_not_narrow_the_interval(drawn):
    targets, probs = drawn(40, 2)
    single = bootstrap(targets, probs, groups=[f"{i:02d}" for i in range(40)])
    copied = bootstrap(np.repeat(targets, 5), np.repeat(probs, 5, axis=0), groups=[f"{i // 5:02d}" for i in range(200)])
    assert copied["auroc"].low == pytest.approx(single["auroc"].low)
    assert copied["auroc"].high == pytest.approx(single["auroc"].high)


def test_a_rare_class_is_in_every_draw():
    targets = np.array([1] + [0] * 30)
    probs = np.stack([np.linspace(0, 1, 31), np.linspace(1, 0, 31)], axis=1)
    assert bootstrap(targets, probs, groups=list(map(str, range(31))))["auroc"].low == 1


def test_too_few_draws_and_an_absent_class_are_refused(drawn):
    targets, probs = drawn(10, 2)
    with pytest.raises(UsageError, match="at least 1000"):
        bootstrap(targets, probs, groups="abcdefghij", draws=100)
    with pytest.raises(UsageError, match="1 of 2 classes"):
        bootstrap(np.zeros(10, int), probs, groups="abcdefghij")


def test_any_score_has_an_interval_and_undefined_draws_are_left_out():
    values = np.arange(50.0)
    groups = [f"p{i}" for i in range(50)]

    def mean(weights: np.ndarray) -> np.ndarray:
        return weights @ values / weights.sum(axis=1)

    def half(weights: np.ndarray) -> np.ndarray:
        return np.where(weights[:, 0] > 0, mean(weights), np.nan)  # a patient is in 64 % of the draws

    def seldom(weights: np.ndarray) -> np.ndarray:
        return np.where(weights[:, 0] > 1, mean(weights), np.nan)

    found = bootstrap_scores({"mean": mean, "half": half, "seldom": seldom}, groups=groups, draws=4000)
    error = values.std() / np.sqrt(50)
    assert found["mean"].low == pytest.approx(24.5 - 1.96 * error, abs=0.5)
    assert found["mean"].high == pytest.approx(24.5 + 1.96 * error, abs=0.5)
    assert 2000 < found["half"].draws < 3000
    assert found["seldom"] is None
    with pytest.raises(UsageError, match="no slides"):
        bootstrap_scores({"mean": mean}, groups=[])


def test_strata_are_kept_in_every_draw():
    rows = np.concatenate(
        list(patient_draws([f"p{i}" for i in range(9)], strata=[0] * 3 + [1] * 6, draws=1000, seed=0))
    )
    assert (rows[:, :3].sum(axis=1) == 3).all()
    assert (rows[:, 3:].sum(axis=1) == 6).all()
