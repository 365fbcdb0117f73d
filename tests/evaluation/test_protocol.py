"""What is judged on what: checkpoints, thresholds, patients, external slides."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.targets import TargetSpec, read_survival
from pathotune_pipeline.errors import ManifestError, PathotuneError, SpecError, UsageError
from pathotune_pipeline.evaluation import (
    CrossvalSpec,
    compare_results,
    crossval,
    crossval_targets,
    read_result,
    write_result,
)
from pathotune_pipeline.evaluation.crossval import Sources
from pathotune_pipeline.evaluation.metrics import censoring_curve
from pathotune_pipeline.evaluation.threshold import youden_threshold
from pathotune_pipeline.heads import load_head, predict


def make(patients: int = 30, prefix: str = "p", seed: int = 0) -> list[Bag]:
    """Slides that are shifted by their class; every other patient has two of different length."""
    rng = np.random.default_rng(seed)
    bags = []
    for p in range(patients):
        for s in range(1 + p % 2):
            x = rng.standard_normal((8 + 3 * s, 6)).astype(np.float32)
            x[:, 0] += 0.7 * (p // 2 % 2)
            place = np.arange(2 * len(x)).reshape(-1, 2)
            bags.append(Bag(x, place, f"{prefix}{p:02d}-{s}.svs", f"{prefix}{p:02d}", ("no", "yes")[p // 2 % 2]))
    return bags


BAGS = make()
AWAY = make(12, prefix="x", seed=1)


def spec(**changes) -> CrossvalSpec:
    values = {"head": "mean", "train": {"lr": 5e-2, "epochs": 12, "patience": 0}, "folds": 3, "seeds": 2}
    return CrossvalSpec.parse({**values, "batch_bags": 4, "bootstrap": 1000, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def result():
    return crossval(BAGS, spec(), sources=Sources(external=AWAY))


def test_both_checkpoints_are_judged_and_kept(result, tmp_path):
    assert result.scores_last.keys() == result.scores.keys()
    best, last = ({(r.seed, r.fold, r.slide_id): r.probs for r in rows} for rows in (
        result.predictions, result.predictions_last
    ))  # fmt: skip
    assert best.keys() == last.keys()
    folder = write_result(result, tmp_path / "cv")
    differ = [run for run in result.runs if run.best_epoch < 11]
    assert differ
    for run in result.runs:
        at = (run.seed, run.fold)
        place = folder / "models" / f"seed{run.seed}-fold{run.fold}"
        assert (place / "last").exists() == (run in differ)
        tested = [bag for bag in BAGS if (*at, bag.bag_id) in best]
        for model, said in ((load_head(place), best), *([(load_head(place / "last"), last)] if run in differ else [])):
            for bag, probs in zip(tested, predict(model, tested).probs, strict=True):
                assert tuple(probs.tolist()) == said[(*at, bag.bag_id)]
    assert [run.best_epoch for run in result.runs_last] == [11] * 6


def test_thresholds_and_temperatures_come_from_the_validation_part_alone(result):
    by_id = {bag.bag_id: bag for bag in BAGS}
    for run in result.runs:
        ids = [r.slide_id for r in result.splits if (r.seed, r.fold, r.part) == (run.seed, run.fold, "val")]
        val = [by_id[each] for each in ids]
        probs = predict(result.models[run.seed, run.fold], val).probs[:, 1]
        assert run.threshold == youden_threshold(np.array([bag.target == "yes" for bag in val]), probs)
    spoilt = [replace(bag, target="yes" if bag.target == "no" else "no") for bag in AWAY]
    again = crossval(BAGS, spec(), sources=Sources(external=spoilt))
    assert again.runs == result.runs
    assert again.scores == result.scores
    assert again.external["scores"]["auroc"]["value"] == pytest.approx(1 - result.external["scores"]["auroc"]["value"])


def test_scores_at_the_threshold_are_those_of_mean_probability_against_mean_threshold(result):
    cut = {(run.seed, run.fold): run.threshold for run in result.runs}
    slides = {}
    for row in result.predictions:
        slides.setdefault(row.slide_id, []).append((row.probs[1], cut[row.seed, row.fold], row.label))
    called = {
        slide: np.mean([p for p, _, _ in said]) >= np.mean([t for _, t, _ in said]) for slide, said in slides.items()
    }
    sick = [slide for slide, said in slides.items() if said[0][2] == "yes"]
    well = [slide for slide in slides if slide not in sick]
    assert result.scores["sensitivity"]["value"] == pytest.approx(np.mean([called[s] for s in sick]))
    assert result.scores["specificity"]["value"] == pytest.approx(1 - np.mean([called[s] for s in well]))
    assert result.scores["sensitivity"]["low"] <= result.scores["sensitivity"]["value"]


def test_external_slides_are_judged_by_the_mean_of_all_models_and_trained_on_by_none(result):
    assert {row.slide_id for row in result.splits} == {bag.bag_id for bag in BAGS}
    assert (result.external["slides"], result.external["patients"]) == (len(AWAY), 12)
    said = [predict(model, AWAY).probs for model in result.models.values()]
    pooled = {row.slide_id: row.probs for row in result.pool(result.predictions_external).pooled()}
    assert np.allclose([pooled[bag.bag_id] for bag in AWAY], np.mean(said, axis=0), atol=1e-12)
    auroc = result.external["scores"]["auroc"]
    assert auroc["low"] <= auroc["value"] <= auroc["high"]
    assert any("nothing was chosen on it" in note for note in result.notes)
    alone = crossval(BAGS, spec())
    assert alone.predictions == result.predictions
    assert alone.external == {}


def test_all_of_it_comes_back_from_disk_and_an_older_folder_is_read(result, tmp_path):
    folder = write_result(result, tmp_path / "cv")
    again = read_result(folder)
    for name in ("predictions_last", "runs_last", "scores_last", "predictions_external", "external", "runs", "scores"):
        assert getattr(again, name) == getattr(result, name), name
    record = json.loads((folder / "crossval.json").read_text())
    for name in ("runs_last", "scores_last", "external"):
        del record[name]
    for run in record["runs"]:
        del run["threshold"]
    (folder / "crossval.json").write_text(json.dumps(record | {"of a later version": 1}))
    (folder / "predictions_last.csv").unlink()
    (folder / "predictions_external.csv").unlink()
    older = read_result(folder)
    assert older.predictions == result.predictions
    assert older.external == older.scores_last == {}
    assert older.runs[0].threshold is None
    assert older.sample().thresholds is None


def test_patients_whose_answers_are_averaged_count_once(result):
    found = crossval(BAGS, spec(unit="average"))
    assert [(r.slide_id, r.probs) for r in found.predictions] == [(r.slide_id, r.probs) for r in result.predictions]
    pooled = found.pooled()
    assert [row.slide_id for row in pooled] == sorted({bag.group for bag in BAGS})
    rows = [row for row in found.predictions if row.case_id == "p01"]
    assert len(rows) == 4
    assert np.allclose(pooled[1].probs, np.mean([row.probs for row in rows], axis=0))
    scaled = found.sample().scaled
    assert scaled.shape == (30, 2)
    assert found.per_seed[0]["auroc"] is not None
    assert compare_results(found, found, draws=1000).patients == 30
    with pytest.raises(UsageError, match="no slide in common"):
        compare_results(found, result)


def test_fused_patients_are_one_bag_and_their_attention_comes_back_by_slide():
    small = {"head": "abmil", "settings": {"hidden": 8, "attention_dim": 4}, "train": {"epochs": 2}, "seeds": 1}
    found = crossval(BAGS, spec(unit="fuse", **small), sources=Sources(external=AWAY))
    assert sorted({row.slide_id for row in found.predictions}) == sorted({bag.group for bag in BAGS})
    assert found.external["slides"] == found.external["patients"] == 12
    assert {slide: len(each) for slide, each in found.attention.items()} == {bag.bag_id: len(bag) for bag in BAGS}
    assert found.attention["p01-0.svs"].sum() + found.attention["p01-1.svs"].sum() == pytest.approx(1, abs=1e-5)
    row = next(row for row in found.predictions if row.slide_id == "p01")
    two = [bag for bag in BAGS if bag.group == "p01"]
    both = replace(
        two[0], **{name: np.concatenate([getattr(bag, name) for bag in two]) for name in ("features", "coords")}
    )
    assert tuple(predict(found.models[0, row.fold], [both]).probs[0].tolist()) == row.probs


@pytest.mark.parametrize("unit", ["fuse", "average"])
def test_a_patient_with_two_labels_cannot_count_once(unit):
    torn = [replace(bag, target="no") if bag.bag_id == "p03-1.svs" else bag for bag in BAGS]
    with pytest.raises(ManifestError, match=r"1 patients have slides with different labels: 'p03' \(no and yes\)"):
        crossval(torn, spec(unit=unit))
    assert crossval(torn, spec(train={"epochs": 1}, seeds=1)).predictions  # slides may differ


def test_an_external_patient_or_slide_is_in_the_cohort():
    with pytest.raises(PathotuneError, match="'p00' is in both the cohort and the external test set"):
        crossval(BAGS, spec(), sources=Sources(external=[replace(AWAY[0], group="p00")]))
    with pytest.raises(UsageError, match="1 slides are external and to be trained on"):
        crossval(BAGS, spec(), sources=Sources(external=[BAGS[0]]))
    with pytest.raises(ManifestError, match=r"1 slides of the external test set .* is 'maybe'; known are no, yes"):
        crossval(BAGS, spec(), sources=Sources(external=[replace(AWAY[0], target="maybe"), AWAY[1]]))


def test_several_targets_and_survival_are_judged_outside_too():
    rng = np.random.default_rng(2)

    def timed(bags: list[Bag]) -> list[Bag]:
        times = {
            bag.group: f"{rng.exponential(2 if bag.target == 'yes' else 8):.3f}{'+' * (rng.random() < 0.3)}"
            for bag in bags
        }
        return [replace(bag, target={"os": times[bag.group], "grade": bag.target}) for bag in bags]

    targets = {"grade": TargetSpec(), "os": TargetSpec(kind="survival-discrete", event="e", horizons=(2, 5))}
    found = crossval_targets(
        timed(BAGS), targets, spec(unit="average", train={"epochs": 3}), sources=Sources(external=timed(AWAY))
    )
    assert found["os"].external["scores"]["c_index"]["value"] is not None
    assert found["os"].external["patients"] == found["grade"].external["patients"] == 12
    assert found["os"].scores_last["c_index_ipcw"]["value"] is not None
    assert {"sensitivity", "auroc"} <= found["grade"].external["scores"].keys()
    ids = [r.slide_id for r in found["os"].splits if (r.seed, r.fold, r.part) == (1, 2, "train")]
    said = {r.slide_id: r.label for r in found["os"].predictions}
    train = np.array([read_survival(said[each]) for each in ids])
    curve = censoring_curve(train[:, 0], train[:, 1] > 0)
    left = found["os"].censoring[1, 2, "x00-0.svs"]
    assert left[1:] == pytest.approx(curve.at(np.array([2.0, 5.0])))


def test_slides_that_are_tested_more_than_once_or_never(tmp_path):
    """Monte-Carlo splits overlap: a slide counts once, with the mean of the models that had not seen it."""
    path = tmp_path / "splits.csv"
    rows = ["case_id,fold_0,fold_1"]
    parts = {0: ("test", "test"), 1: ("test", "test"), 2: ("test", "val"), 3: ("val", "test")}
    rows += [f"p{p:02d},{','.join(parts.get(p % 10, ('train', 'train')))}" for p in range(30)]
    path.write_text("\n".join(rows))
    settings = {"head": "abmil", "settings": {"hidden": 8, "attention_dim": 4}, "train": {"epochs": 2}}
    found = crossval(BAGS, spec(splits=str(path), seeds=1, **settings))
    counts = {slide: sum(row.slide_id == slide for row in found.predictions) for slide in found.attention}
    assert set(counts.values()) == {1, 2}
    assert len(found.pooled()) == len(counts)
    assert all(each.sum() == pytest.approx(1, abs=1e-5) for each in found.attention.values())
    assert found.per_seed[0]["accuracy"] == pytest.approx(found.scores["accuracy"]["value"])
    fused = crossval(BAGS, spec(splits=str(path), seeds=1, unit="fuse", **settings))
    assert {row.slide_id for row in fused.predictions} == {f"p{p:02d}" for p in range(30) if p % 10 < 4}


def test_without_a_threshold_for_every_model_there_are_no_scores_at_it_and_that_is_said(tmp_path):
    path = tmp_path / "splits.csv"
    sides = [("test", "train"), ("train", "test"), ("train", "val"), ("val", "train")]
    rows = [f"p{p:02d},{','.join(sides[p % 4] if p < 16 else ('train', 'train'))}" for p in range(30)]
    path.write_text("\n".join(["case_id,fold_0,fold_1", *rows]))
    found = crossval(BAGS, spec(splits=str(path), seeds=1, train={"epochs": 1}))
    assert "sensitivity" not in found.scores
    assert any("2 of 2 models have no threshold" in note for note in found.notes)
    assert any("2 of 2 folds: the validation part lacks a class" in note for note in found.notes)


def test_a_wrong_unit_is_refused():
    with pytest.raises(SpecError, match="unit"):
        spec(unit="patients")


def growing(kind: str) -> Callable[[list[Bag]], list[Bag]]:
    """Bags with a target of that kind."""
    values = {"regression": lambda p: f"{p * 1.5}", "survival-cox": lambda p: f"{p + 1}{'+' * (p % 3 == 0)}"}
    return lambda bags: [replace(bag, target=values[kind](int(bag.group[1:]))) for bag in bags]


@pytest.mark.parametrize("kind", ["regression", "survival-cox"])
def test_a_test_case_stays_one_for_targets_of_any_kind(kind, tmp_path):
    settings = spec(assignments=str(tmp_path / "a.json"), seeds=1, train={"epochs": 1}, batch_bags=None)
    target = {"y": TargetSpec(kind=kind, event="e")}
    first, second = (crossval_targets(growing(kind)(make(count)), target, settings)["y"] for count in (24, 40))
    tested = [{row.slide_id: row.fold for row in each.predictions} for each in (first, second)]
    assert tested[0].items() <= tested[1].items()
    assert len(tested[1]) == 60
