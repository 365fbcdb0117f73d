from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.run_scores import JudgedRun, compare_runs, score_runs


def judged(seed: int, *, images: int = 120, groups: int = 0, first: int = 0) -> JudgedRun:
    """A model that is right more often than not, of images `first` and on; by `groups` slides, or none."""
    of_images = np.random.default_rng(7)
    targets = of_images.integers(0, 2, first + images)[first:]
    odds = np.random.default_rng(seed).normal(size=images) + targets
    positive = 1 / (1 + np.exp(-odds))
    names = tuple(f"image-{place}" for place in range(first, first + images))
    slides = tuple(f"slide-{place % groups}" if groups else "" for place in range(first, first + images))
    return JudgedRun(names, targets, slides, np.stack([1 - positive, positive], axis=1))


def test_mean_and_std_are_those_of_the_runs_own_scores() -> None:
    runs = [judged(seed) for seed in range(4)]
    found = score_runs(runs)
    areas = [roc_auc_score(run.targets, run.probs[:, 1]) for run in runs]
    recalls = [balanced_accuracy_score(run.targets, run.probs.argmax(axis=1)) for run in runs]
    assert found["auroc"].mean == pytest.approx(np.mean(areas))
    assert found["auroc"].std == pytest.approx(np.std(areas, ddof=1))
    assert found["balanced_accuracy"].mean == pytest.approx(np.mean(recalls))
    assert found["auroc"].low < found["auroc"].mean < found["auroc"].high
    assert (found["auroc"].runs, found["auroc"].images, found["auroc"].unit) == (4, 120, "image")


def test_one_run_has_no_std() -> None:
    assert score_runs([judged(0)])["kappa"].std is None


def test_images_of_a_slide_are_not_independent() -> None:
    """Where a slide's images are all alike, only the number of slides says how sure a score is."""
    alone = judged(0, images=30)
    copies = JudgedRun(
        tuple(f"{name}-{copy}" for copy in range(10) for name in alone.names),
        np.tile(alone.targets, 10),
        tuple(name for _ in range(10) for name in alone.names),
        np.tile(alone.probs, (10, 1)),
    )
    blind = JudgedRun(copies.names, copies.targets, ("",) * 300, copies.probs)
    width = {
        name: each["auroc"].high - each["auroc"].low
        for name, each in (
            ("alone", score_runs([alone])),
            ("copies", score_runs([copies])),
            ("blind", score_runs([blind])),
        )
    }
    assert width["copies"] == pytest.approx(width["alone"])
    assert width["blind"] < 0.5 * width["copies"]
    assert score_runs([copies])["auroc"].groups == 30


def test_seeds_do_not_narrow_the_interval_but_folds_do() -> None:
    """The same images judged again are no more images; other folds' are."""
    one = score_runs([judged(0)])["auroc"]
    again = score_runs([judged(0), judged(0)])["auroc"]
    assert (again.low, again.high) == pytest.approx((one.low, one.high))
    folds = score_runs([judged(0), *(judged(fold, first=120 * fold) for fold in range(1, 6))])["auroc"]
    assert folds.images == 720
    assert folds.high - folds.low < 0.6 * (one.high - one.low)


def test_a_class_that_does_not_occur_gives_no_score() -> None:
    run = judged(0)
    keep = np.flatnonzero(run.targets == 1)
    only = JudgedRun(tuple(run.names[i] for i in keep), run.targets[keep], ("",) * len(keep), run.probs[keep])
    found = score_runs([only])
    assert found["auroc"].mean is found["auroc"].low is found["balanced_accuracy"].mean is None
    assert found["weighted_f1"].mean is not None


def test_runs_that_contradict_each_other_are_refused() -> None:
    one, other = judged(0), judged(1)
    with pytest.raises(UsageError, match="two classes"):
        score_runs([one, JudgedRun(other.names, 1 - other.targets, other.groups, other.probs)])
    with pytest.raises(UsageError, match="each image once"):
        JudgedRun(("a", "a"), np.zeros(2, int), ("", ""), np.ones((2, 2)))
    with pytest.raises(UsageError, match="no runs"):
        score_runs([])


def test_a_difference_is_that_of_the_means_and_surer_than_they_are() -> None:
    """What makes an image hard for both falls out of their difference."""
    first, second = ([judged(seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    same = compare_runs(list(zip(first, first, strict=True)))["auroc"]
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    found = compare_runs(list(zip(first, second, strict=True)))
    means = [score_runs(runs) for runs in (first, second)]
    for name, difference in found.items():
        assert difference.mean == pytest.approx(means[0][name].mean - means[1][name].mean)
        assert difference.low <= difference.mean <= difference.high
        assert difference.pairs == 2


def test_a_method_that_is_better_is_told_from_chance_and_the_same_one_is_not() -> None:
    good = [judged(seed) for seed in range(3)]
    noise = np.random.default_rng(5).random((3, 120))
    blind = [
        JudgedRun(run.names, run.targets, run.groups, np.stack([1 - own, own], axis=1))
        for run, own in zip(good, noise, strict=True)
    ]
    better = compare_runs(list(zip(good, blind, strict=True)))["auroc"]
    assert better.low > 0
    chance = compare_runs(list(pairwise(blind)))["auroc"]
    assert chance.low < 0 < chance.high


def test_pairs_must_have_judged_the_same_images() -> None:
    with pytest.raises(UsageError, match="both judged"):
        compare_runs([(judged(0), judged(0, first=5))])
