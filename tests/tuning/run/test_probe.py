from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from pathotune_pipeline.errors import PathotuneError, UsageError
from pathotune_pipeline.evaluation.metrics import auroc
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.adapt import PatchTask, adapt_patches, adapt_tasks
from pathotune_pipeline.tuning.run.choice import validation_value
from pathotune_pipeline.tuning.run.encode import PatchFeatures
from pathotune_pipeline.tuning.run.probe import Labelled, fit_linear, fit_neighbours
from pathotune_pipeline.tuning.run.spec import AdaptSpec


def cloud(count: int, classes: int, *, seed: int = 0, dim: int = 12) -> Labelled:
    """Overlapping clouds on axes of very different scale, one class rarer than the others."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.integers(0, classes + 1, count), classes - 1).astype(np.int64)
    centres = np.random.default_rng(99).normal(0, 0.7, (classes, dim))
    features = (centres[labels] + rng.normal(0, 1, (count, dim))) * np.geomspace(0.01, 100, dim) + 5
    return Labelled(features.astype(np.float32), labels)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("classes", "l2"), [(2, 0.1), (2, 0.001), (4, 0.03)])
def test_the_linear_probe_is_that_of_scikit_learn(classes, l2, balanced):
    from sklearn.linear_model import LogisticRegression

    train, test = cloud(300, classes), cloud(100, classes, seed=1)
    probe = fit_linear(train, None, classes=classes, penalties=[l2], select="loss", balanced=balanced)
    mean, std = train.features.mean(0, dtype=np.float64), train.features.std(0, dtype=np.float64)
    strength = (2 if classes == 2 else 1) / (len(train.labels) * l2)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=5000, class_weight="balanced" if balanced else None)
    theirs.fit((train.features - mean) / std, train.labels)
    expected = theirs.predict_proba((test.features - mean) / std)
    assert np.abs(probe.probabilities(test.features) - expected).max() < 2e-4


def test_the_validation_chooses_the_penalty():
    train, val = cloud(60, 3), cloud(400, 3, seed=1)
    penalties = [10.0, 1.0, 0.1, 0.01, 1e-6]
    chosen = fit_linear(train, val, classes=3, penalties=penalties, select="loss", balanced=False)
    values = {}
    for l2 in penalties:
        alone = fit_linear(train, None, classes=3, penalties=[l2], select="loss", balanced=False)
        values[l2] = validation_value(alone.probabilities(val.features), val.labels, "loss")
    assert chosen.l2 == min(values, key=values.get)
    assert chosen.l2 not in (10.0, 1e-6)
    unseen = fit_linear(train, None, classes=3, penalties=penalties, select="loss", balanced=False)
    assert unseen.l2 == 0.1


def test_neighbours_vote_by_their_likeness():
    train, test = cloud(80, 3), cloud(20, 3, seed=1)
    probe = fit_neighbours(train, None, classes=3, numbers=[7], select="loss")
    mean, std = train.features.mean(0, dtype=np.float64), train.features.std(0, dtype=np.float64)
    own, others = (((each.features - mean) / std) for each in (test, train))
    cosine = (own @ others.T) / np.outer(np.linalg.norm(own, axis=1), np.linalg.norm(others, axis=1))
    expected = np.zeros((20, 3))
    for row, likeness in enumerate(cosine):
        for place in np.argsort(-likeness)[:7]:
            expected[row, train.labels[place]] += np.exp(likeness[place] / 0.07)
    expected /= expected.sum(1, keepdims=True)
    assert np.abs(probe.probabilities(test.features) - expected).max() < 1e-4
    assert probe.probabilities(test.features[:0]).shape == (0, 3)


def test_more_neighbours_than_patches_are_all_of_them():
    train = cloud(10, 2)
    probe = fit_neighbours(train, None, classes=2, numbers=[50], select="loss")
    assert probe.probabilities(train.features).sum(1) == pytest.approx(np.ones(10))


def test_the_validation_chooses_the_neighbours():
    train, val = cloud(200, 3), cloud(200, 3, seed=1)
    numbers, values = [1, 200, 15], {}
    for k in numbers:
        alone = fit_neighbours(train, None, classes=3, numbers=[k], select="balanced_accuracy")
        values[k] = validation_value(alone.probabilities(val.features), val.labels, "balanced_accuracy")
    chosen = fit_neighbours(train, val, classes=3, numbers=numbers, select="balanced_accuracy")
    assert chosen.k == min(values, key=values.get) != 1


def test_features_that_are_not_finite_are_said():
    train = cloud(20, 2)
    train.features[3, 2] = np.inf
    with pytest.raises(PathotuneError, match="not finite"):
        fit_linear(train, None, classes=2, penalties=[1.0], select="loss", balanced=False)


def test_a_patch_is_encoded_once_for_all_probes(encoder, three_stains, monkeypatch):
    seen = []
    encode = type(encoder).encode
    monkeypatch.setattr(
        type(encoder), "encode", lambda self, tiles, **more: seen.append(len(tiles)) or encode(self, tiles, **more)
    )
    train, val, test = np.arange(90), np.arange(90, 130), np.arange(130, 180)
    for method in ("linear", "knn", "linear"):
        result = adapt_patches(encoder, three_stains, train=train, val=val, spec=AdaptSpec(method=method))
        result.predict(three_stains, test)
    assert sum(seen) == 180


def test_features_do_not_outlive_their_encoder_and_patches(new_encoder, pink_and_blue):
    encoder, patches = new_encoder(), pink_and_blue.subset(np.arange(20))
    PatchFeatures(encoder).rows(patches, np.arange(20))
    alive = weakref.ref(encoder), weakref.ref(patches)
    del encoder, patches
    gc.collect()
    assert [each() for each in alive] == [None, None]


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_probes_of_shuffled_labels_are_at_chance(encoder, pink_and_blue, method):
    train, val, test = np.arange(60), np.arange(60, 80), np.arange(80, 160)
    told, shuffled = [], []
    for seed in range(4):
        labels = np.random.default_rng(seed).permutation(pink_and_blue.labels)
        for patches, scores in ((pink_and_blue, told), (pink_and_blue.with_labels(labels), shuffled)):
            result = adapt_patches(encoder, patches, train=train, val=val, spec=AdaptSpec(method=method))
            scores.append(auroc(patches.labels[test], result.predict(patches, test)).value)
    assert min(told) > 0.95
    assert abs(np.mean(shuffled) - 0.5) < 0.1


def test_what_cannot_be_learnt_is_said(encoder, pink_and_blue):
    def learn(patches: PatchSet = pink_and_blue, train=range(40), val=range(40, 50)):
        parts = {"train": np.array(train, np.int64), "val": np.array(val, np.int64)}
        return adapt_patches(encoder, patches, spec=AdaptSpec(method="linear"), **parts)

    with pytest.raises(UsageError, match="no patches to train"):
        learn(train=[])
    with pytest.raises(UsageError, match="10 patches are to train and to validate, such as patch-30"):
        learn(val=np.arange(30, 50))
    with pytest.raises(UsageError, match="two classes are needed"):
        learn(train=np.flatnonzero(pink_and_blue.labels == 1), val=[])
    bare = pink_and_blue.labels.copy()
    bare[7] = -1
    with pytest.raises(UsageError, match="patch-7 has no label"):
        learn(pink_and_blue.with_labels(bare))
    with pytest.raises(UsageError, match="one task at a time"):
        adapt_tasks(encoder, [PatchTask(pink_and_blue, np.arange(40), np.arange(0))] * 2, spec=AdaptSpec(method="knn"))
    assert "Nothing was validated" in learn(val=np.arange(0)).notes[0]
    assert "1 groups" in learn(train=np.arange(42), val=np.arange(42, 60)).notes[0]
    three = pink_and_blue.with_labels(pink_and_blue.labels, ("a", "b", "c"))
    assert "No training patch is of class c" in learn(three).notes[0]
