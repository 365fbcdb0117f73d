"""Each way to spoil a study: a clear message before training, or a rule that is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.bags.targets import TargetSpec
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation import CrossvalSpec, crossval, crossval_targets
from pathotune_pipeline.evaluation.crossval import Sources
from pathotune_pipeline.evaluation.preflight import Asked, Findings, check_folds

PATIENTS = {f"s{n}": f"p{n}" for n in range(12)}
FOLD = Fold(0, ("s0", "s1", "s2", "s3", "s4", "s5"), ("s6", "s7", "s8"), ("s9", "s10", "s11"))


def look(kind: str, values: str, classes: tuple[str, ...] = (), more: tuple[Asked, ...] = ()) -> Findings:
    """Findings of one fold: six slides train, three validate, three are tested; "." is not known."""
    said = {f"s{n}": value for n, value in enumerate(values.split()) if value != "."}
    findings = Findings()
    check_folds([(7, FOLD)], [Asked("y", kind, classes, said), *more], PATIENTS, findings)
    return findings


@pytest.mark.parametrize(
    ("kind", "values", "trouble"),
    [
        (
            "binary",
            "a a a a a a  a b a  a b a",
            "fold 0 of seed 7: target 'y': the training part has no slide of class 'b'",
        ),
        ("ordinal", "a a a a a a  a b a  a b a", "the training part has no slide of class 'b'"),
        ("binary", ". . . . . .  a b a  a b a", "no slide of the training part has a value"),
        ("binary", "a b a b a b  . . .  a b a", "no slide of the validation part has a value"),
        ("regression", "1 1 1.0 1 1 1  1 2 3  1 2 3", "all numbers of the training part are equal"),
        ("survival-cox", "1+ 2+ 3+ 4+ 5+ 6+  1 2 3  1 2 3", "no event was seen in the training part"),
        ("survival-discrete", "1+ 2+ 3+ 4+ 5+ 6+  1 2 3  1 2 3", "no event was seen in the training part"),
        ("survival-cox", "1 2 3 4 5 6  1+ 2+ 3+  1 2 3", "in the validation part, where a Cox loss is 0"),
    ],
)
def test_a_fold_that_cannot_be_learnt_from_stops_the_study(kind, values, trouble):
    found = look(kind, values, ("a", "b"))
    assert any(trouble in each and "Ask for fewer folds" in each for each in found.troubles), found
    with pytest.raises(ManifestError):
        found.settle()


@pytest.mark.parametrize(
    ("kind", "values", "note"),
    [
        ("binary", "a b a b a b  a a a  a b a", "1 of 1 folds: target 'y': the validation part lacks a class"),
        ("binary", "a b a b a b  a b a  a a a", "the test part has one class alone"),
        ("binary", "a b a b a b  a b a  a a a", "no test part has a slide of class 'b'"),
        ("multilabel", "a;b a;b b a;b b b  a b a  a b a", "label 'b' is the same on all slides of the training part"),
        ("survival-discrete", "1 2 3 4 5 6  1+ 2+ 3+  1 2 3", "so censored slides alone choose the epoch"),
        ("binary", "a b a b a b  a b a  a b a", "1 of 1 validation parts have fewer than 5 patients (3 the fewest)"),
    ],
)
def test_what_can_be_borne_is_told(kind, values, note):
    found = look(kind, values, ("a", "b"))
    assert found.troubles == []
    assert any(note in each for each in found.settle()), found


def test_of_several_targets_one_may_have_nothing_to_learn_in_a_fold():
    other = Asked("z", "binary", ("a", "b"), {f"s{n}": "ab"[n % 2] for n in range(12)})
    found = look("regression", "1 1 1 1 1 1  1 2 3  1 2 3", more=(other,))
    assert found.troubles == []
    assert any("target 'y': all numbers of the training part are equal" in note for note in found.notes)


def bags(count: int = 18, dim: int = 3) -> list[Bag]:
    rng = np.random.default_rng(0)
    return [
        Bag(rng.random((4, dim), np.float32), np.zeros((4, 2), np.int64), f"s{n:02d}", f"p{n:02d}", "ab"[n % 2])
        for n in range(count)
    ]


def spec(**changes) -> CrossvalSpec:
    values = {"head": "mean", "train": {"epochs": 1}, "folds": 3, "seeds": 1, "bootstrap": 1000, "device": "cpu"}
    return CrossvalSpec.parse({**values, **changes})


@pytest.fixture
def no_training(monkeypatch):
    """A study that begins to train in spite of a trouble fails."""

    def learn(*_, **__):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(torch.Tensor, "backward", learn)


@pytest.mark.usefixtures("no_training")
def test_all_troubles_are_told_at_once_before_anything_is_trained():
    times = [replace(bag, target={"os": f"{n}+", "size": "3", "x": "oops"}) for n, bag in enumerate(bags())]
    targets = {
        "os": TargetSpec(kind="survival-cox", event="e"),
        "size": TargetSpec(kind="regression"),
        "x": TargetSpec(kind="regression"),
        "absent": TargetSpec(),
    }
    with pytest.raises(ManifestError) as raised:
        crossval_targets(times, targets, spec())
    text = str(raised.value)
    assert text.startswith("4 things stand in the way of training:\n")
    for part in (
        "target 'os': no slide's event was seen",
        "target 'size': all 18 slides have the number 3",
        "target 'x': 18 slides have a value that cannot be read. s00: 'oops' is no number",
        "Target 'absent': no slide has a value",
    ):
        assert part in text


@pytest.mark.usefixtures("no_training")
def test_folds_of_a_file_are_looked_at_together(tmp_path):
    rows = ["slide_id,fold_0,fold_1"]
    rows += [
        f"s{n:02d},{'train' if n % 2 else 'test'},{'val' if n == 4 else 'test' if n % 2 else 'train'}"
        for n in range(18)
    ]
    (tmp_path / "s.csv").write_text("\n".join(rows))
    with pytest.raises(ManifestError) as raised:
        crossval(bags(), spec(splits=str(tmp_path / "s.csv")))
    assert "fold 0 of seed 0: the training part has no slide of class 'a'" in str(raised.value)
    assert "fold 1 of seed 0: the training part has no slide of class 'b'" in str(raised.value)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("where", ["bags", "external"])
def test_features_are_looked_at_first(where):
    odd = bags(1)[0]
    for other, message in (
        (replace(odd, features=np.full((4, 3), np.nan, np.float32)), "Bag t has features that are not finite"),
        (replace(odd, features=np.zeros((4, 5), np.float16)), "3 features a tile and bag t 5"),
    ):
        other = replace(other, bag_id="t", group="t")
        given = [*bags(), other] if where == "bags" else bags()
        with pytest.raises(UsageError, match=message):
            crossval(given, spec(), sources=Sources(external=[other] if where == "external" else []))


@pytest.mark.usefixtures("no_training")
def test_a_study_that_cannot_be_done_writes_no_assignments(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ManifestError, match="no slide of the validation part has a value"):
        crossval(bags(4), spec(assignments=str(path)))
    assert not path.exists()


def test_a_split_of_the_callers_own_is_checked_as_any_other():
    def cut(settings, strata, groups):
        assert settings.folds == 3
        ids = sorted(strata)
        yield 5, Fold(0, tuple(ids[:10]), tuple(ids[10:18]), ())

    found = crossval(bags(), spec(), sources=Sources(split=cut))
    assert found.predictions == []
    assert found.scores == {}
    assert list(found.models) == [(5, 0)]
    with pytest.raises(ManifestError, match="no slide of class 'b'"):
        crossval(bags(), spec(), sources=Sources(split=lambda *_: [(0, Fold(0, ("s00",), ("s01", "s02"), ("s03",)))]))
