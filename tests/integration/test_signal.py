"""What the demo claims: a local signal that ABMIL finds, mean pooling and global statistics do not, and shuffles erase."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import join_labels
from pathotune_pipeline.evaluation.crossval import CrossvalSpec, crossval
from pathotune_pipeline.evaluation.result import write_result
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store import FeatureStore, open_store
from pathotune_pipeline.testing.planted import planted_auroc
from pathotune_pipeline.testing.slides import make_archive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's archive and its features."""
    root = tmp_path_factory.mktemp("signal")
    make_archive(root / "archive", patients=40, seed=0)
    result = extract(read_manifest(root / "archive"), ExtractSpec(), FeatureStore(root / "store"), SerialExecutor())
    assert result.counts()["committed"] == 50
    return root


@pytest.fixture(scope="module")
def bags(folder: Path) -> list[Bag]:
    store = open_store(folder / "store")
    (features,) = store.sets("features")
    join = join_labels(store.records(features), read_table(folder / "archive" / "labels.csv").rows, target="class")
    dataset = BagDataset(store, features, join.labels)
    return [dataset[index] for index in range(len(dataset))]


def test_the_signal_is_small_and_local(folder: Path, bags: list[Bag]) -> None:
    truth = json.loads((folder / "archive" / "truth.json").read_text())
    tiles = {bag.bag_id: len(bag) for bag in bags}
    from pathotune_pipeline.archive.identity import encode_id

    shares = [len(facts["planted"]) / tiles[encode_id(name)] for name, facts in truth.items()]
    assert max(shares) <= 0.10
    assert sum(share > 0 for share in shares) == len(shares) // 2


def test_no_global_colour_or_tissue_statistic_tells_the_classes_apart(folder: Path, bags: list[Bag]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    store = open_store(folder / "store")
    (tissue,) = store.sets("tissue")
    facts = []
    for bag in bags:
        record = store.records(tissue)[bag.bag_id]
        mask, attrs = store.read(record, "mask").astype(bool), store.group(record).attrs
        thumbnail = cv2.imdecode(store.read(record, "thumbnail_jpeg"), cv2.IMREAD_COLOR)
        inside = thumbnail[cv2.resize(mask.astype(np.uint8), thumbnail.shape[1::-1]).astype(bool)].astype(np.float64)
        density = -np.log10((inside + 1) / 256)
        facts.append([*inside.mean(0), *inside.std(0), *density.mean(0), *density.std(0), attrs["share"], len(bag)])
    labels = np.array([bag.target == "positive" for bag in bags])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    scores = []
    for seed in range(5):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        said = cross_val_predict(
            model, np.array(facts), labels, groups=[bag.group for bag in bags], cv=folds, method="decision_function"
        )
        scores.append(roc_auc_score(labels, said))
    assert 0.3 <= np.mean(scores) <= 0.7, scores


def test_abmil_finds_it_and_mean_pooling_does_not(folder: Path, bags: list[Bag]) -> None:
    store = open_store(folder / "store")
    (features,) = store.sets("features")
    name = str(features).removeprefix("features-")
    abmil = crossval(bags, CrossvalSpec(head="abmil", seeds=2), feature_set=name)
    mean = crossval(bags, CrossvalSpec(head="mean", seeds=2), feature_set=name)
    assert abmil.scores["auroc"]["value"] >= 0.85
    assert abmil.scores["auroc"]["low"] > mean.scores["auroc"]["value"]
    write_result(abmil, folder / "abmil")
    found = planted_auroc(folder / "store", folder / "abmil", folder / "archive" / "truth.json")
    assert found is not None
    assert found.slides == 25
    assert found.mean >= 0.8


def test_shuffled_labels_score_as_chance(bags: list[Bag]) -> None:
    """The mean over 20 shuffles among patients; a leak anywhere between labels and test parts would lift it."""
    spec = CrossvalSpec(head="abmil", seeds=1, shuffle_labels=True, bootstrap=1000)
    quick = spec.with_values(train={"epochs": 15, "min_epochs": 0, "patience": 5})
    scores = [crossval(bags, quick.with_values(seed0=seed)).scores["auroc"]["value"] for seed in range(20)]
    assert abs(float(np.mean(scores)) - 0.5) <= 0.1, scores
