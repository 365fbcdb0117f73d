"""Bags of real data whose answer is known: classic sets, regions of one slide, a table of slides.

The data lie beside the project (`../shared/data`) and are not part of it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.splits import patient_folds
from pathotune_pipeline.evaluation.crossval import CrossvalSpec
from pathotune_pipeline.evaluation.intervals import bootstrap_scores
from pathotune_pipeline.evaluation.result import CrossvalResult
from pathotune_pipeline.evaluation.scoring import Sample, score_table
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.heads.train import HeadFitSpec, fit_head, predict
from pathotune_pipeline.store.store import FeatureStore, open_store
from pathotune_pipeline.testing.planted import attention_aurocs

# --- classic sets --------------------------------------------------------------------------------------------------

MUSK = HeadFitSpec(
    head="abmil",
    settings={"hidden": 256, "attention_dim": 64, "dropout": 0.5},
    train={"epochs": 100, "patience": 0, "lr": 5e-4, "weight_decay": 1e-4},
    batch_bags=8,
    device="cpu",
)
"""Gated ABMIL for 166 numbers an instance. The last epoch counts; nothing is chosen by its score."""


def read_classic(path: Path) -> list[Bag]:
    """The bags of a classic set: `x` [sum of N, D], `indptr` [B + 1], `y` [B]. Each is a patient of its own."""
    with np.load(path) as table:
        x, ends, y = table["x"], table["indptr"], table["y"]
    return [
        Bag(x[a:b], np.zeros((b - a, 2), np.int64), f"{path.stem}-{i:03}", f"{path.stem}-{i:03}", str(int(label)))
        for i, (a, b, label) in enumerate(zip(ends[:-1], ends[1:], y, strict=True))
    ]


def fold_accuracies(bags: Sequence[Bag], spec: HeadFitSpec, *, folds: int = 10, repeats: int = 5) -> np.ndarray:
    """Accuracy on each test part, [repeats * folds]: trained on all other folds, none of them held back.

    Stratified folds by patient; features are scaled by the training part. Without a validation part the last epoch
    counts, so that the test part chooses nothing.
    """
    known = {bag.bag_id: bag for bag in bags}
    labels, groups = ({name: getattr(bag, what) for name, bag in known.items()} for what in ("target", "group"))
    classes = tuple(sorted(set(labels.values())))
    found = []
    for seed in range(repeats):
        for fold in patient_folds(labels, groups, folds=folds, seed=seed):
            train, test = ([known[each] for each in ids] for ids in ((*fold.train, *fold.val), fold.test))
            own = spec.with_values(train={**spec.train, "seed": seed * 1000 + fold.index})
            said = predict(fit_head(train, (), classes=classes, spec=own), test).probs.argmax(axis=1)
            found.append(np.mean([classes[i] == bag.target for i, bag in zip(said, test, strict=True)]))
    return np.array(found)


# --- regions of one slide ------------------------------------------------------------------------------------------

CELL_PX = 86.154
"""Side of a cell of the map of `crc01`, in level-0 px: 112 um."""
TUMOUR = 3
TILE = {"mpp": 1.3, "tile_px": 86}
"""A tile is a cell of the map, but for 0.2 %; at the slide's own 1.3 um/px nothing is resampled."""


TISSUE_HEADS = (
    "mean",
    "max",
    "abmil",
    "abmil-ungated",
    "clam-sb",
    "clam-mb",
    "transmil",
    "dsmil",
    "dtfd",
    "transformer",
)
_SMALL = {"transmil": {"dim": 128, "landmarks": 16}, "transformer": {"dim": 128, "feedforward": 128}}
"""For regions of 36 tiles, where slides have thousands."""


def tissue_spec(head: str) -> CrossvalSpec:
    """How a head is judged on regions: 5 folds by block, one seed, batches of 8 regions, the epoch of the best validation."""
    train: dict[str, Any] = {"epochs": 40, "min_epochs": 0, "patience": 10}
    if head not in ("mean", "max"):
        train |= {"lr": 3e-4, "accumulate": 1}
    if head == "transmil":  # 20 times as dear as the others
        train |= {"epochs": 12, "patience": 5}
    return CrossvalSpec(
        head=head, settings=_SMALL.get(head, {}), train=train, batch_bags=8, folds=5, seeds=1, device="cpu"
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """How a slide is cut: squares of tiles, and blocks of squares with a gap between them.

    Attributes:
        side: tiles along a region.
        regions: regions along a block.
        gap: tiles between two blocks that no region has, so that no tile of one block touches another.
        least: tiles of tissue that a region must have.
    """

    side: int = 6
    regions: int = 4
    gap: int = 2
    least: int = 9


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Bags that are regions of one slide.

    Attributes:
        bags: target "tumour" or "none"; the group is the block.
        tumour: bag id -> [N] bool, which tiles the map calls tumour.
    """

    bags: list[Bag]
    tumour: dict[str, np.ndarray]


def slide_bag(slide: Path, store: Path, encoder: Mapping[str, Any] | None = None) -> Bag:
    """All tiles of one slide by an encoder, or `stain-texture`, through the whole pipeline; what is in the store stays."""
    folder = store.with_name(f"{store.name}-slides")
    folder.mkdir(parents=True, exist_ok=True)
    linked = folder / slide.name
    if not linked.exists():
        linked.symlink_to(slide)
    spec = ExtractSpec.parse({"encoder": dict(encoder or {"name": "stain-texture"}), "tiles": TILE})
    result = extract(read_manifest(folder), spec, FeatureStore(store), SerialExecutor())
    (outcome,) = result.outcomes
    if outcome.status != "committed":
        raise RuntimeError(f"{slide.name}: {outcome.reason}")
    opened = open_store(store)
    record = opened.records(opened.find_set(result.features))[outcome.slide_id]
    valid = opened.read(record, "valid").astype(bool)
    coords = opened.read(record.made_from("tiles"), "coords")[valid]
    return Bag(opened.read(record, "features")[valid], coords, outcome.slide_id, outcome.slide_id)


def cell_of(coords: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The map's class under each tile's middle, [N] uint8; 255 outside."""
    row, column = ((coords[:, axis] + TILE["tile_px"] / 2) // CELL_PX for axis in (1, 0))
    inside = (row < grid.shape[0]) & (column < grid.shape[1])
    found = np.full(len(coords), 255, np.uint8)
    found[inside] = grid[row[inside].astype(int), column[inside].astype(int)]
    return found


def cut_regions(slide: Bag, tumour: np.ndarray, layout: Layout | None = None) -> Regions:
    """Cut a slide's tiles into regions; a region is "tumour" where one of its tiles is.

    Args:
        slide: with coords on the grid of `TILE`.
        tumour: [N] bool.
        layout: of regions and blocks.
    """
    layout = layout or Layout()
    coords = np.asarray(slide.coords)
    place = np.rint(coords / TILE["tile_px"]).astype(np.int64)  # [N, 2] column and row of the grid
    pitch = layout.side * layout.regions + layout.gap
    block, within = place // pitch, place % pitch
    region = within // layout.side
    used = (region < layout.regions).all(axis=1)
    keys, owner = np.unique(np.hstack([block, region])[used], axis=0, return_inverse=True)
    rows = np.flatnonzero(used)
    found = Regions([], {})
    for index, (x, y, i, j) in enumerate(keys.tolist()):
        members = rows[owner.reshape(-1) == index]
        if len(members) < layout.least:
            continue
        name, hit = f"block-{x}-{y}-region-{i}-{j}", tumour[members]
        target = "tumour" if hit.any() else "none"
        found.bags.append(Bag(slide.features[members], coords[members], name, f"block-{x}-{y}", target))
        found.tumour[name] = hit
    return found


def attention_score(result: CrossvalResult, regions: Regions) -> dict[str, float]:
    """The mean over regions of the AUROC of attention against the map, among those with tiles of both kinds.

    Returns:
        "value", "low" and "high" of resampled blocks, and "regions"; empty where the head has no attention.
    """
    found = attention_aurocs(result.attention, regions.tumour)
    if not found:
        return {}
    block = {bag.bag_id: bag.group for bag in regions.bags}
    scores = np.array(list(found.values()))
    interval = bootstrap_scores(
        {"mean": lambda weights: weights @ scores / weights.sum(axis=1)}, groups=[block[name] for name in found]
    )["mean"]
    bounds = {"low": interval.low, "high": interval.high} if interval else {}
    return {"value": float(scores.mean()), **bounds, "regions": len(found)}


# --- a table of slides ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class SlideTable:
    """Camelyon16 as a table.

    Attributes:
        train: [N, 30] float64, features of the training slides.
        train_labels: [N] int64.
        test: [129, 30] float64.
        truth: [129] int64, the published truth.
        names: of the 129 test slides.
        published: name of a prediction -> [129] float64.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    truth: np.ndarray
    names: list[str]
    published: dict[str, np.ndarray]


def read_camelyon(folder: Path) -> SlideTable:
    """The features of "Method I" with the threshold .5, and the published predictions of the test slides."""
    sheets = folder / "RF_parameters" / "PF_parameter_Method_I"
    parts = {
        part: _rows(sheets / f"data_sheet_for_random_forest_16_strike_{part}_5_0502_Method_I_no_norm.csv")
        for part in ("normal", "tumor", "test")
    }
    columns = [name for name in parts["test"][0] if name not in ("", "Unnamed: 0", "name", "tumor")]
    x = {part: np.array([[float(row[name]) for name in columns] for row in rows]) for part, rows in parts.items()}
    told = _rows(folder / "RF_results" / "reference_all_final_results_0515.csv")
    names = [row["slide_name"] for row in told]
    order = {row["name"].removesuffix(".tif"): index for index, row in enumerate(parts["test"])}
    predictions = [name for name in told[0] if name.startswith(("pred_", "Method_"))]
    return SlideTable(
        train=np.concatenate([x["normal"], x["tumor"]]),
        train_labels=np.repeat([0, 1], [len(x["normal"]), len(x["tumor"])]),
        test=x["test"][[order[name] for name in names]],
        truth=np.array([int(row["truth"]) for row in told]),
        names=names,
        published={name: np.array([float(row[name]) for row in told]) for name in predictions},
    )


def tabular_predictions(table: SlideTable) -> dict[str, np.ndarray]:
    """Probability of tumour of each test slide by models of the training slides' features, [129] float64 each."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = {
        "forest": RandomForestClassifier(500, random_state=0),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)),
    }
    return {
        name: model.fit(table.train, table.train_labels).predict_proba(table.test)[:, 1]
        for name, model in models.items()
    }


def judge(truth: np.ndarray, positive: np.ndarray, *, groups: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    """Every score of a binary prediction with its interval, as a cross-validation's.

    Args:
        truth: [N] int64, 0 or 1.
        positive: [N] float64, probability of 1.
        groups: the patient of each slide.
    """
    sample = Sample(
        kind="binary",
        classes=("normal", "tumour"),
        labels=[("normal", "tumour")[each] for each in truth],
        values=np.column_stack([1 - positive, positive]),
    )
    return score_table(sample, groups=groups, draws=2000, seed=0)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
