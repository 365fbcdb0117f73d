"""What is known of real data, found by way of the public functions: classic sets, regions of a slide, slide tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.real_bags import (
    MUSK,
    TILE,
    TISSUE_HEADS,
    TUMOUR,
    Layout,
    Regions,
    attention_score,
    cell_of,
    cut_regions,
    fold_accuracies,
    judge,
    read_camelyon,
    read_classic,
    slide_bag,
    tabular_predictions,
    tissue_spec,
)
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelRow
from pathotune_pipeline.evaluation.crossval import crossval
from pathotune_pipeline.exchange.bring import ImportSource, ImportSpec, import_features
from pathotune_pipeline.heads.train import HeadFitSpec, fit_head, predict
from pathotune_pipeline.models.evaluate import EvaluateSpec
from pathotune_pipeline.models.tabular import TabularStudy, evaluate_table
from pathotune_pipeline.store.store import FeatureStore

PUBLISHED = {
    "Method_I": 0.916,
    "Method_II_noise_norm": 0.984,
    "Method_II_noise_only": 0.942,
    "pred_I": 0.882,
    "pred_I_thres_07": 0.898,
    "pred_II": 0.791,
}
"""AUROC of the published predictions against the published truth, by scikit-learn."""


def test_regions_do_not_overlap_and_blocks_do_not_touch() -> None:
    px = TILE["tile_px"]
    rows, columns = np.mgrid[0:40, 0:53]
    places = np.stack([columns.ravel(), rows.ravel()], axis=1)
    rng = np.random.default_rng(0)
    tumour, layout = rng.random(len(places)) < 0.02, Layout(side=4, regions=3, gap=2, least=16)
    slide = Bag(places.astype(np.float32), places * px, "s", "s")
    regions = cut_regions(slide, tumour, layout)
    assert len(regions.bags) == 4 * 3 * 9 - 3 * 3  # 4 x 3 blocks; the last column of blocks is a region short of room
    seen = np.concatenate([np.asarray(bag.coords) for bag in regions.bags])
    assert len(np.unique(seen, axis=0)) == len(seen) == 16 * len(regions.bags)
    called = {tuple(place): bool(hit) for place, hit in zip((places * px).tolist(), tumour, strict=True)}
    for bag in regions.bags:
        here = [called[tuple(place)] for place in np.asarray(bag.coords).tolist()]
        assert regions.tumour[bag.bag_id].tolist() == here
        assert bag.target == ("tumour" if any(here) else "none")
    for one in {bag.group for bag in regions.bags}:
        own, others = (
            np.concatenate([np.asarray(bag.coords) for bag in regions.bags if (bag.group == one) is same]) / px
            for same in (True, False)
        )
        assert np.abs(own[:, None] - others[None]).max(axis=-1).min() > layout.gap


def test_camelyon16_by_its_slide_table(shared: Path, tmp_path: Path) -> None:
    """129 test slides; features of 266 training slides; nothing of the test slides is used to learn."""
    table = read_camelyon(shared / "data" / "mil" / "camelyon16-slide-table")
    assert (table.train.shape, table.test.shape) == ((266, 30), (129, 30))
    assert int(table.truth.sum()) == 49
    for name, published in PUBLISHED.items():
        scores = judge(table.truth, table.published[name], groups=table.names)
        assert scores["auroc"]["value"] == pytest.approx(roc_auc_score(table.truth, table.published[name]))
        assert scores["auroc"]["value"] == pytest.approx(published, abs=5e-4)
        assert scores["auprc"]["value"] == pytest.approx(average_precision_score(table.truth, table.published[name]))
        assert scores["auroc"]["low"] < published < scores["auroc"]["high"]
    table_path = (
        shared / "data" / "mil" / "camelyon16-slide-table" / "RF_results" / "reference_all_final_results_0515.csv"
    )
    study = TabularStudy(table_path, None, "truth", probabilities=("Method_I",), out=tmp_path / "method-1")
    found = evaluate_table(study, EvaluateSpec()).scores
    own = judge(table.truth, table.published["Method_I"], groups=table.names)
    assert {name: found[name]["value"] for name in own} == {name: own[name]["value"] for name in own}
    assert {name: found[name]["low"] for name in own} == pytest.approx(
        {name: own[name]["low"] for name in own}, abs=0.01
    )
    for name, least in (("forest", 0.88), ("logistic", 0.85)):
        score = judge(table.truth, tabular_predictions(table)[name], groups=table.names)["auroc"]
        assert score["value"] >= least, name
        assert score["low"] > 0.75, name


def test_a_real_bag_of_stamps_is_judged_by_every_head(shared: Path, tmp_path: Path) -> None:
    """777 tiles of a TCGA slide, as STAMP wrote them: imported, read as a bag, and answered for."""
    source = tmp_path / "feats"
    source.mkdir()
    (source / "TCGA-AD-6964.h5").symlink_to(shared / "data" / "mil" / "stamp-bag-tcga-ad-6964.h5")
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    told = {"mpp": 0.5, "unit": "px", "tile_um": 256.0, "tile_px": 224, "encoder": "retccl"}
    import_features(store, ImportSource("stamp", source), ImportSpec.parse(told))
    (features,) = store.sets("features")
    (slide,) = store.records(features)
    (bag,) = list(BagDataset(store, features, {slide: LabelRow("TCGA-AD-6964", "a")}))
    assert (len(bag), bag.dim, bag.group) == (777, 512, "TCGA-AD-6964")
    flipped = Bag(-np.asarray(bag.features), bag.coords, "other", "other", "b")
    for head in TISSUE_HEADS:
        spec = HeadFitSpec(head=head, settings=tissue_spec(head).settings, train={"epochs": 1}, device="cpu")
        said = predict(fit_head([bag, flipped], (), classes=("a", "b"), spec=spec), [bag])
        assert np.isfinite(said.probs).all()
        assert said.attention is None or said.attention[0].shape == (777,)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("name", "bags", "instances", "least"), [("musk1", 92, 476, 0.83), ("musk2", 102, 6598, 0.79)])
def test_gated_abmil_on_musk(name: str, bags: int, instances: int, least: float, shared: Path) -> None:
    """5 x 10 folds, the last of 100 epochs: nothing is chosen by a score, of the test part or another."""
    cohort = read_classic(shared / "data" / "mil" / f"{name}.npz")
    assert (len(cohort), sum(map(len, cohort))) == (bags, instances)
    found = fold_accuracies(cohort, MUSK)
    assert len(found) == 50
    assert found.mean() >= least, (found.mean(), found.std(ddof=1) / np.sqrt(50))


@pytest.fixture(scope="module")
def regions(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Regions:
    """Regions of a real slide, by features of our own."""
    slide = slide_bag(shared / "data" / "slides" / "crc01.tif", tmp_path_factory.mktemp("crc01") / "store")
    grid = np.load(shared / "data" / "truth" / "crc01" / "class_grid_228x167.npy")
    return cut_regions(slide, cell_of(np.asarray(slide.coords), grid) == TUMOUR)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("head", TISSUE_HEADS)
def test_regions_with_tumour_are_told_from_those_without(head: str, regions: Regions) -> None:
    """Blocks that do not touch are the patients; the labels are another tool's, not a pathologist's."""
    assert len({bag.group for bag in regions.bags}) == 39
    assert sum(bag.target == "tumour" for bag in regions.bags) == 365
    result = crossval(regions.bags, tissue_spec(head))
    assert result.scores["auroc"]["value"] >= LEAST[head], result.scores["auroc"]
    assert result.scores["auroc"]["low"] > 0.8
    found = attention_score(result, regions)
    assert bool(found) == (head in LEAST_ATTENTION)
    if found:
        assert found["value"] >= LEAST_ATTENTION[head], found


LEAST = dict.fromkeys(TISSUE_HEADS, 0.88)
LEAST_ATTENTION = {
    "abmil": 0.7,
    "abmil-ungated": 0.7,
    "clam-sb": 0.7,
    "clam-mb": 0.7,
    "transmil": 0.53,
    "dsmil": 0.7,
    "dtfd": 0.7,
    "transformer": 0.58,
}
"""AUROC of attention over a region's tiles against the map, some way below what was measured."""
