"""Bands of ROC and precision-recall curves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.bands import POINTS, bands_of, precision_at, roc_at
from pathotune_pipeline.evaluation.metrics.classification import sides_by_score
from pathotune_pipeline.evaluation.scoring import Sample

AT = np.linspace(0, 1, POINTS)


def sample_of(targets: np.ndarray, probs: np.ndarray, kind: str = "binary") -> Sample:
    names = "abcd"[: probs.shape[1]]
    return Sample(kind=kind, classes=tuple(names), labels=[names[each] for each in targets], values=probs)


def test_the_curves_are_those_of_scikit_learn(drawn):
    targets, probs = drawn(70, 2)
    up, down = sides_by_score(targets == 1, probs[:, 1], np.ones((1, 70)))
    fpr, tpr, _ = roc_curve(targets, probs[:, 1], drop_intermediate=False)
    assert roc_at(up, down)[0] == pytest.approx(np.interp(AT, fpr, tpr))
    precision, recall, _ = precision_recall_curve(targets, probs[:, 1])
    reached = [precision[:-1][recall[:-1] >= max(r, 1e-9) - 1e-12][-1] for r in AT]  # recall falls: the last is highest
    assert precision_at(up, down)[0] == pytest.approx(reached)


def test_weights_count_as_repeated_slides(drawn):
    targets, probs = drawn(40, 2)
    counts = np.random.default_rng(1).integers(0, 4, (6, 40))
    weighted = sides_by_score(targets == 1, probs[:, 1], counts.astype(float))
    for i, row in enumerate(counts):
        again = np.repeat(targets, row), np.repeat(probs[:, 1], row)
        alone = sides_by_score(again[0] == 1, again[1], np.ones((1, row.sum())))
        for curve in (roc_at, precision_at):
            assert curve(*weighted)[i] == pytest.approx(curve(*alone)[0])


def test_a_band_holds_its_curve_and_repeats(drawn):
    targets, probs = drawn(120, 2)
    groups = [f"p{i // 2}" for i in range(120)]
    found = bands_of(sample_of(targets, probs), groups=groups, seed=3)
    assert (found["slides"], found["patients"], found["draws"], list(found["of"])) == (120, 60, 1000, ["b"])
    assert found["of"]["b"]["positive"] == 60
    for kind in ("roc", "pr"):
        value, low, high = (np.array(found["of"]["b"][kind][name]) for name in ("value", "low", "high"))
        assert ((low <= value + 0.05) & (value <= high + 0.05)).all()
        assert 0.02 < np.mean(high - low) < 0.5
    roc = found["of"]["b"]["roc"]
    assert all(roc[name][-1] == 1.0 for name in ("value", "low", "high"))
    assert (np.diff(roc["low"]) >= 0).all()
    assert found == json.loads(json.dumps(found))
    assert found == bands_of(sample_of(targets, probs), groups=groups, seed=3)


def test_patients_and_not_slides_are_resampled(drawn):
    """Copies of a patient's slide add nothing that is known."""
    targets, probs = drawn(40, 2)
    once = bands_of(sample_of(targets, probs), groups=[f"p{i}" for i in range(40)])
    copies = bands_of(sample_of(np.tile(targets, 3), np.tile(probs, (3, 1))), groups=[f"p{i}" for i in range(40)] * 3)
    for kind in ("roc", "pr"):
        assert once["of"]["b"][kind] == copies["of"]["b"][kind]


def test_classes_grades_and_labels_have_bands_and_numbers_none(drawn):
    targets, probs = drawn(60, 3)
    groups = [f"p{i}" for i in range(60)]
    for kind in ("multiclass", "ordinal"):
        assert list(bands_of(sample_of(targets, probs, kind), groups=groups)["of"]) == ["a", "b", "c"]
    labels = [";".join(name for name, has in zip("ab", (t != 1, True), strict=True) if has) for t in targets]
    many = Sample(kind="multilabel", classes=("a", "b"), labels=labels, values=probs[:, :2])
    assert list(bands_of(many, groups=groups)["of"]) == ["a"]  # every slide has b: no other side
    number = Sample(kind="regression", classes=("predicted",), labels=["1.5"] * 60, values=probs[:, :1])
    assert bands_of(number, groups=groups) == {}
    with pytest.raises(UsageError, match="at least 1000"):
        bands_of(sample_of(targets, probs, "multiclass"), groups=groups, draws=10)
