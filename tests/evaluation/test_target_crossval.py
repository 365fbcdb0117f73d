"""Each kind of target end to end on toy bags whose tiles know the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.targets import TargetSpec, read_survival
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation import CrossvalSpec, compare_results, crossval_targets, read_result, write_result
from pathotune_pipeline.evaluation.metrics import censoring_curve, concordance_index
from pathotune_pipeline.evaluation.result import write_results
from pathotune_pipeline.heads import load_head


def survival_text(z: float, rng: np.random.Generator) -> str:
    time = float(np.exp(2 - z + 0.2 * rng.standard_normal()))
    return f"{time:.4f}" if rng.random() < 0.6 else f"{time * rng.random():.4f}+"


def planted() -> dict[str, list[Bag]]:
    """The same slides with one value of each kind, all of them from two hidden numbers."""
    rng = np.random.default_rng(0)
    bags: dict[str, list[Bag]] = {}
    for i in range(48):
        z, w = rng.standard_normal(2)
        x = rng.standard_normal((12, 6)).astype(np.float32)
        x[:, 0] += 2 * z
        x[:, 1] += 2 * w
        values = {
            "binary": "yes" if z > 0 else "no",
            "multilabel": ";".join(n for n, v in (("a", z), ("b", w)) if v > 0) or "-",
            "ordinal": str(int(np.searchsorted([-0.6, 0.6], z))),
            "regression": f"{100 + 10 * z:.3f}",
            "survival-discrete": survival_text(z, rng),
            "survival-cox": survival_text(z, rng),
        }
        values["several"] = {"binary": values["binary"], "regression": values["regression"]}
        if i % 3 == 0:
            del values["several"]["regression"]
        if i % 8 == 1:
            del values["several"]["binary"]
        for name, value in values.items():
            bags.setdefault(name, []).append(Bag(x, np.zeros((12, 2), np.int64), f"s{i:02d}", f"p{i // 2:02d}", value))
    return bags


BAGS = planted()


def spec(**changes) -> CrossvalSpec:
    values = {"head": "mean", "train": {"lr": 2e-2, "epochs": 40}, "folds": 3, "seeds": 1, "bootstrap": 1000}
    return CrossvalSpec.parse({**values, "batch_bags": 8, "device": "cpu", **changes})


@pytest.mark.parametrize(
    ("kind", "names", "headline", "least"),
    [
        ("multilabel", ["auroc", "auprc"], "auroc", 0.8),
        ("ordinal", ["quadratic_kappa", "auroc", "balanced_accuracy", "accuracy", "mae"], "quadratic_kappa", 0.5),
        ("regression", ["r2", "mae", "pearson"], "r2", 0.5),
        ("survival-discrete", ["c_index", "c_index_ipcw", "auc_t", "integrated_brier"], "c_index", 0.75),
        ("survival-cox", ["c_index", "c_index_ipcw", "auc_t", "integrated_brier"], "c_index", 0.75),
    ],
)
def test_each_kind_is_learnt_scored_and_comes_back_from_disk(kind, names, headline, least, tmp_path):
    result = crossval_targets(BAGS[kind], {"y": TargetSpec(kind=kind)}, spec())["y"]
    assert list(result.scores) == names
    score = result.scores[headline]
    assert score["value"] > least
    assert score["low"] < score["value"] < score["high"]
    assert sorted(row.slide_id for row in result.predictions) == [bag.bag_id for bag in BAGS[kind]]
    again = read_result(write_result(result, tmp_path / "cv"))
    for name in ("kind", "classes", "predictions", "scores", "curves", "horizons", "runs"):
        assert getattr(again, name) == getattr(result, name), name
    assert load_head(tmp_path / "cv" / "models" / "seed0-fold0").task == result.models[0, 0].task
    if kind.startswith("survival"):
        assert result.scores["integrated_brier"]["value"] < 0.2
        assert result.curves["log_rank"]["p_value"] < 0.01
        pairs = np.array([read_survival(row.label) for row in result.pooled()])
        risks = np.array([row.probs[0] for row in result.pooled()])
        assert concordance_index(pairs[:, 0], pairs[:, 1] > 0, risks).value == pytest.approx(score["value"])


def test_cuts_scales_and_censoring_come_from_the_training_part():
    result = crossval_targets(
        BAGS["survival-discrete"], {"y": TargetSpec(kind="survival-discrete")}, spec(train={"epochs": 1})
    )["y"]
    by_id = {bag.bag_id: read_survival(bag.target) for bag in BAGS["survival-discrete"]}
    cuts = []
    for fold in range(3):
        parts = {
            part: [r.slide_id for r in result.splits if (r.fold, r.part) == (fold, part)] for part in ("train", "test")
        }
        train = np.array([by_id[each] for each in parts["train"]])
        seen = train[train[:, 1] > 0, 0]
        cuts.append(result.models[0, fold].task.codings[0].cuts)
        assert cuts[-1] == pytest.approx((*np.quantile(seen, (0.25, 0.5, 0.75)), train[:, 0].max()))
        curve = censoring_curve(train[:, 0], train[:, 1] > 0)
        for slide in parts["test"]:
            expected = [float(curve.at(by_id[slide][0], before=True)), *curve.at(np.array(result.horizons))]
            assert result.censoring[0, fold, slide] == pytest.approx(expected)
    assert len(set(cuts)) == 3
    numbers = crossval_targets(BAGS["regression"], {"y": TargetSpec(kind="regression")}, spec(train={"epochs": 1}))["y"]
    values = {bag.bag_id: float(bag.target) for bag in BAGS["regression"]}
    train = [values[r.slide_id] for r in numbers.splits if (r.fold, r.part) == (1, "train")]
    coding = numbers.models[0, 1].task.codings[0]
    assert (coding.mean, coding.std) == pytest.approx((np.mean(train), np.std(train)))


def test_several_targets_share_a_head_and_lack_labels_each_for_itself(tmp_path):
    targets = {"binary": TargetSpec(), "regression": TargetSpec(kind="regression")}
    results = crossval_targets(BAGS["several"], targets, spec())
    assert results["binary"].scores["auroc"]["value"] > 0.8
    assert results["binary"].scores["ece_calibrated"]["value"] is not None
    assert results["regression"].scores["r2"]["value"] > 0.4
    lacking = [bag.bag_id for bag in BAGS["several"] if "regression" not in bag.target]
    assert not set(lacking) & {row.slide_id for row in results["regression"].predictions}
    assert results["binary"].models[0, 0] is results["regression"].models[0, 0]
    folder = write_results(results, tmp_path / "cv")
    assert sorted(path.name for path in folder.iterdir()) == ["binary", "regression"]
    assert read_result(folder / "regression").scores == results["regression"].scores


def test_shuffled_targets_score_like_chance():
    found = crossval_targets(BAGS["regression"], {"y": TargetSpec(kind="regression")}, spec(shuffle_labels=True))["y"]
    assert found.scores["r2"]["value"] < 0.3
    assert any("permuted" in note for note in found.notes)


def test_what_cannot_be_learnt():
    with pytest.raises(ManifestError, match="no number"):
        crossval_targets(BAGS["binary"], {"y": TargetSpec(kind="regression")}, spec())
    with pytest.raises(UsageError, match="no class to weigh"):
        crossval_targets(BAGS["regression"], {"y": TargetSpec(kind="regression")}, spec(class_weights="balanced"))
    with pytest.raises(ManifestError, match="no slide has a value"):
        crossval_targets(BAGS["several"], {"binary": TargetSpec(), "other": TargetSpec()}, spec())
    with pytest.raises(UsageError, match="needs a target"):
        crossval_targets(BAGS["binary"], {}, spec())


def test_two_models_of_one_target_are_compared():
    targets = {"y": TargetSpec(kind="survival-cox", horizons=(3, 6, 12))}
    good = crossval_targets(BAGS["survival-cox"], targets, spec())["y"]
    null = crossval_targets(BAGS["survival-cox"], targets, spec(shuffle_labels=True))["y"]
    truthful = [replace(row, label=truth_of(good, row.slide_id)) for row in null.predictions]
    left = {slide: value for (_, _, slide), value in good.censoring.items()}
    mixed = replace(
        null, predictions=truthful, censoring={(r.seed, r.fold, r.slide_id): left[r.slide_id] for r in truthful}
    )
    for name in ("c_index", "c_index_ipcw", "auc_t", "integrated_brier"):
        found = compare_results(good, mixed, name, draws=1000)
        assert found.value_a == pytest.approx(good.scores[name]["value"]), name
    found = compare_results(good, mixed, draws=1000)
    assert found.low > 0
    assert found.p_value < 0.05
    with pytest.raises(UsageError, match="of the other"):
        compare_results(good, null)
    with pytest.raises(UsageError, match="Did you mean 'c_index'"):
        compare_results(good, mixed, "c_indx")
    other = crossval_targets(BAGS["regression"], {"y": TargetSpec(kind="regression")}, spec(train={"epochs": 1}))["y"]
    with pytest.raises(UsageError, match="models of one target"):
        compare_results(good, other)


def truth_of(result, slide: str) -> str:
    return next(row.label for row in result.predictions if row.slide_id == slide)
