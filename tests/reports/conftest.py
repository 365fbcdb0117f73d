"""A store and a model folder as other packages write them, drawn by hand: no slide is read and nothing is trained."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore

LEVEL0 = (20_000, 12_000)
"""Width and height of every fake slide in pixels of level 0."""
MPP = 0.25
TILE_PX, TILE_MPP = 256, 0.5
EXTENT = TILE_PX * TILE_MPP / MPP
TISSUE, TILES = SetName("tissue", "8mpp", "a" * 12), SetName("tiles", "256px-0.5mpp", "b" * 12)
FEATURES = SetName("features", "stain-texture-256px-0.5mpp", "c" * 12)


@dataclass
class FakeSlide:
    """A slide of the fake store: its outcome in the first run, and what is committed of it."""

    slide_id: str
    status: str = "committed"
    reason: str = ""
    case_id: str = ""
    invalid: int = 0
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    identity: str = "i"
    context: dict[str, str] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    mean: float = 0.0


def tissue_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawn thumbnail uint8 [h, w, 3] and its mask bool [h2, w2]."""
    rng = np.random.default_rng(seed)
    width, height = 1024, round(1024 * LEVEL0[1] / LEVEL0[0])
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(2, 5))):
        centre = (int(rng.uniform(0.2, 0.8) * width), int(rng.uniform(0.25, 0.75) * height))
        axes = (int(rng.uniform(70, 190)), int(rng.uniform(60, 140)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    wobble = cv2.GaussianBlur(rng.normal(size=mask.shape), (0, 0), 9)
    mask = ((cv2.GaussianBlur(mask.astype(np.float64), (0, 0), 5) + 3 * wobble) > 0.5).astype(np.uint8)
    texture = cv2.GaussianBlur(rng.normal(size=mask.shape), (0, 0), 2) * 60
    stain = np.stack([205 + texture, 140 + texture * 1.6, 190 + texture], axis=-1)
    image = np.where(mask[..., None] > 0, stain, np.array([243, 242, 244]) + rng.normal(size=(*mask.shape, 1)))
    small = cv2.resize(mask, (LEVEL0[0] // 32, LEVEL0[1] // 32), interpolation=cv2.INTER_NEAREST)
    return np.clip(image, 0, 255).astype(np.uint8), small.astype(bool)


def coords_of(mask: np.ndarray) -> np.ndarray:
    """Corners of the grid's tiles whose middle is tissue, int64 [N, 2]."""
    scale = mask.shape[1] / LEVEL0[0]
    step = int(EXTENT)
    every = [(x, y) for y in range(0, LEVEL0[1] - step + 1, step) for x in range(0, LEVEL0[0] - step + 1, step)]
    kept = [(x, y) for x, y in every if mask[int((y + step / 2) * scale), int((x + step / 2) * scale)]]
    return np.array(kept, np.int64).reshape(-1, 2)


def slide_facts() -> dict[str, Any]:
    levels = [{"width": LEVEL0[0] // d, "height": LEVEL0[1] // d, "downsample": float(d)} for d in (1, 4, 16)]
    return {
        "vendor": "aperio",
        "reader": "openslide",
        "levels": levels,
        "mpp": {"x": MPP, "y": MPP},
        "mpp_source": "openslide",
        "objective_power": 40.0,
    }


def commit_slide(store: FeatureStore, slide: FakeSlide) -> int:
    """Commit a slide's tissue, tiles and features; how many tiles it has."""
    thumbnail, mask = tissue_of(slide.seed)
    if slide.status == "empty":
        mask[:] = False
    coords = coords_of(mask)
    key, prints = key_of(slide.slide_id), {}
    for set_name in (TISSUE, TILES, FEATURES):
        prints[set_name.stage] = hashlib.sha256(f"{set_name}{slide.slide_id}{slide.identity}".encode()).hexdigest()

    def head(set_name: SetName) -> dict[str, Any]:
        fingerprint = prints[set_name.stage]
        plain = {
            "slide_id": slide.slide_id,
            "set": str(set_name),
            "fingerprint": fingerprint,
            "identity": slide.identity,
            "group": f"{key}/{set_name.group(fingerprint[:12])}",
        }
        return {**plain, "case_id": slide.case_id} if slide.case_id else plain

    pixels = LEVEL0[0] / mask.shape[1]
    tissue = {
        "mask_mpp_x": MPP * pixels,
        "mask_mpp_y": MPP * pixels,
        "level0_mpp_x": MPP,
        "level0_mpp_y": MPP,
        "level0_width": LEVEL0[0],
        "level0_height": LEVEL0[1],
        "area_um2": float(mask.sum()) * (MPP * pixels) ** 2,
        "share": float(mask.mean()),
        "quality": slide.quality or None,
    }
    with store.stage(slide.slide_id, key, TISSUE, prints["tissue"]) as staged:
        staged.put("mask", mask.astype(np.uint8))
        staged.put("geojson", np.frombuffer(b"{}", np.uint8))
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(thumbnail, cv2.COLOR_RGB2BGR))[1]
        staged.put("thumbnail_jpeg", jpeg.reshape(-1))
        staged.commit({**head(TISSUE), **tissue}, {**head(TISSUE), **tissue, "slide": slide_facts()})
    geometry = {"tile_px": TILE_PX, "mpp": TILE_MPP, "extent_level0": [EXTENT, EXTENT], "enlargement": 0.0}
    with store.stage(slide.slide_id, key, TILES, prints["tiles"]) as staged:
        staged.put("coords", coords)
        staged.put("tissue_fraction", np.ones(len(coords), np.float32))
        told = {"tiles": len(coords), "reason": slide.reason, "geometry": geometry}
        staged.commit({**head(TILES), **told}, {**head(TILES), **told})
    valid = np.ones(len(coords), bool)
    valid[: slide.invalid] = False
    record = {
        **head(FEATURES),
        "tiles_group": head(TILES)["group"],
        "tissue_group": head(TISSUE)["group"],
        "tiles_fingerprint": prints["tiles"],
        "tissue_fingerprint": prints["tissue"],
        "tiles": len(coords),
        "invalid_tiles": slide.invalid,
        "dim": 4,
        "reason": slide.reason,
        "context": slide.context,
        "flags": slide.flags,
    }
    made_with = {
        "encoder": {"name": "stain-texture", "dim": 4, "mpp": 0.5, "sha256": None},
        "settings": {
            "encoder": {"name": "stain-texture", "weights": "/home/someone/weights.pt"},
            "tiles": {"min_tissue": 0.25},
        },
        "versions": {"pathotune_pipeline": "0.1", "numpy": "2.0"},
        "reader": "openslide",
    }
    with store.stage(slide.slide_id, key, FEATURES, prints["features"]) as staged:
        staged.put("features", np.full((len(coords), 4), slide.mean, np.float16))
        staged.put("valid", valid)
        staged.commit(record, {**record, **made_with})
    store.close_staging()
    return len(coords)


def write_run(
    store: FeatureStore, stamp: str, outcomes: list[dict[str, Any]], *, finished: bool = True, **more: Any
) -> None:
    """A run's record as RunLog writes it, at a time of our choosing: `stamp` is like 20260101T010000Z."""
    started = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:16]}"
    folder = store.root / "runs" / f"{stamp}-abc123"
    folder.mkdir()
    record = {
        "run_id": folder.name,
        "verb": "extract",
        "started": started,
        "finished": started if finished else None,
        "settings": {"tiles": {"min_tissue": 0.25}},
        "versions": {},
        "features": str(FEATURES),
        "slides": len(outcomes),
        **more,
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(outcome) + "\n" for outcome in outcomes))


def outcome_of(slide: FakeSlide, tiles: int = 0, *, new: bool = True) -> dict[str, Any]:
    return {
        "slide_id": slide.slide_id,
        "status": slide.status,
        "reason": slide.reason,
        "new": new,
        "tiles": tiles,
        "seconds": 12.3 if new else 0.0,
        "stages": {"read_s": 4.0, "encode_s": 8.0} if new else {},
        "identity": slide.identity,
        "facts": slide.facts,
    }


def build_store(root: Path, slides: list[FakeSlide], *, stamp: str = "20260101T010000Z") -> FeatureStore:
    """A store with these slides and one run over them."""
    store = FeatureStore(root)
    store.initialise()
    outcomes = [outcome_of(slide, 0 if slide.status == "failed" else commit_slide(store, slide)) for slide in slides]
    write_run(store, stamp, outcomes)
    return store


def build_model(
    folder: Path,
    store: FeatureStore,
    labels: dict[str, str],
    *,
    seeds: int = 2,
    classes: tuple[str, ...] = ("neg", "pos"),
) -> Path:
    """A model folder as `write_result` writes it; the first slide is predicted wrongly."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    records = store.records(FEATURES)
    rows, attention = [], {}
    for index, (slide_id, label) in enumerate(labels.items()):
        said = classes.index(label) if index else (classes.index(label) + 1) % len(classes)
        record = records[slide_id]
        coords = store.read(record.made_from("tiles"), "coords")[record.facts["invalid_tiles"] :]
        attention[slide_id] = _bumpy(rng, coords)
        for seed in range(seeds):
            logits = rng.normal(0, 0.5, len(classes)) + 2.0 * np.eye(len(classes))[said]
            probs = np.exp(logits) / np.exp(logits).sum()
            rows.append([slide_id, f"case-{index}", label, seed, index % 3, *map(repr, probs.tolist())])
    judged = classes[1:] if len(classes) == 2 else classes
    curve = {"fpr": [0.0, 0.0, 0.2, 0.2, 1.0], "tpr": [0.0, 0.6, 0.6, 0.9, 1.0]}
    roc = {
        name: {"fpr": curve["fpr"], "tpr": [min(1.0, y * (1 - 0.1 * i)) for y in curve["tpr"][:-1]] + [1.0]}
        for i, name in enumerate(judged)
    }
    folds = [
        {
            "seed": seed,
            "fold": fold,
            "n_test": len(labels) // 3,
            "auroc": None if (seed, fold) == (0, 2) else 0.8 + 0.05 * fold - 0.04 * seed,
            "balanced_accuracy": 0.72 + 0.06 * fold - 0.03 * seed,
        }
        for seed in range(seeds)
        for fold in range(3)
    ]
    score = {"value": 0.861, "low": 0.742, "high": 0.951, "level": 0.95, "reason": ""}
    told = {
        "format": "pathotune-crossval",
        "revision": 1,
        "settings": {"head": "abmil", "folds": 3, "seeds": seeds, "train": {"lr": 1e-4}},
        "classes": list(classes),
        "feature_set": str(FEATURES).removeprefix("features-"),
        "notes": ["1 slides have no tiles and were left out, <b>empty</b> for one."],
        "scores": {"auroc": score, "balanced_accuracy": {**score, "value": 0.79, "low": 0.68, "high": 0.89}},
        "per_seed": [],
        "per_fold": folds,
        "roc": roc,
        "context": {"features": str(FEATURES).removeprefix("features-"), "target": "status <x>", "slides": len(labels)},
    }
    (folder / "crossval.json").write_text(json.dumps(told))
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "case_id", "label", "seed", "fold", *(f"prob_{name}" for name in classes)])
        writer.writerows(rows)
    np.savez(folder / "attention.npz", **attention)
    return folder


def _bumpy(rng: np.random.Generator, coords: np.ndarray) -> np.ndarray:
    """Attention [N] that falls off around one place and sums to 1."""
    centre = coords[int(rng.integers(len(coords)))]
    away = np.linalg.norm((coords - centre) / 3000.0, axis=1)
    weights = np.exp(-away + rng.normal(0, 0.15, len(coords))).astype(np.float32)
    return weights / weights.sum()


NASTY = "b%2F<script>alert(1)<%2Fscript>'\"&ünï"


@pytest.fixture(scope="session")
def fake() -> SimpleNamespace:
    """Everything above, for tests: a test file cannot import its conftest."""
    return SimpleNamespace(**globals())


@pytest.fixture
def slides() -> list[FakeSlide]:
    return [
        FakeSlide("a.svs", case_id="P-1", seed=1, invalid=3),
        FakeSlide(NASTY, seed=2),
        FakeSlide("c.svs", "empty", "no tissue was found", seed=3),
        FakeSlide("d.svs", "failed", "tile <img src=x onerror=alert(2)> http://example.org/x cannot be read", seed=4),
        FakeSlide("e.svs", case_id="P-2", seed=5),
    ]


@pytest.fixture
def store(tmp_path: Path, slides: list[FakeSlide]) -> FeatureStore:
    return build_store(tmp_path / "my store", slides)


@pytest.fixture
def labels() -> dict[str, str]:
    return {"a.svs": "pos", NASTY: "neg", "e.svs": "pos"}


@pytest.fixture
def model(tmp_path: Path, store: FeatureStore, labels: dict[str, str]) -> Path:
    return build_model(tmp_path / "model <i>", store, labels)


KINDS = ("binary", "multiclass", "ordinal", "multilabel", "regression", "survival-cox")
HORIZONS = (12.0, 36.0, 60.0)
_NAMES = {
    "binary": ("wild type", "mutated"),
    "multiclass": ("LUAD", "LUSC <small>", "SCLC & others of neuroendocrine kind", "normal"),
    "ordinal": ("G1", "G2", "G3"),
    "multilabel": ("ER", "HER2"),
    "regression": ("predicted",),
    "survival-cox": ("risk", *(f"survival_at_{time:g}" for time in HORIZONS)),
}


def build_result(
    folder: Path,
    kind: str,
    *,
    slides: int = 120,
    seeds: int = 2,
    skill: float = 1.5,
    head: str = "abmil",
    threshold: float | None = None,
    unit: str = "slides",
    external: bool = False,
) -> Path:
    """A result of any kind, of predictions drawn by hand: scored, summarised and written by the evaluation.

    `external` adds an external test set and the last epoch's weights, both of the same predictions.
    """
    from pathotune_pipeline.evaluation.result import CrossvalResult, FoldRun, PredictionRow, write_result

    rng = np.random.default_rng([len(kind), slides])
    names, rows = _NAMES[kind], []
    for index in range(slides):
        label, probs = _drawn(rng, kind, names, index, skill=skill)
        for seed in range(seeds):
            noisy = probs(rng)
            rows.append(PredictionRow(f"s{index:04}", f"p{index // 2}", label, seed, index % 5, tuple(noisy.tolist())))
    heat = 1.6 if kind in ("binary", "multiclass") else None
    result = CrossvalResult(
        settings={"head": head, "folds": 5, "seeds": seeds, "unit": unit},
        classes=names,
        kind=kind,
        horizons=HORIZONS if kind.startswith("survival") else (),
        predictions=rows,
        runs=[FoldRun(seed, fold, 5, 20, heat, threshold) for seed in range(seeds) for fold in range(5)],
        context={"features": str(FEATURES).removeprefix("features-"), "target": f"{kind} <t>", "slides": slides},
    )
    if external:
        result.predictions_external, result.predictions_last, result.runs_last = rows, rows, result.runs
    result.summarise(draws=1000, seed=0)
    return write_result(result, folder)


def _drawn(rng: np.random.Generator, kind: str, names: tuple[str, ...], index: int, *, skill: float) -> tuple[str, Any]:
    """A label, and what draws a prediction that knows something of it."""
    if kind in ("binary", "multiclass", "ordinal"):
        chosen = index % len(names) if kind != "binary" else int(index % 3 == 0)

        def classes(rng: np.random.Generator) -> np.ndarray:
            logits = rng.normal(size=len(names)) + skill * np.eye(len(names))[chosen]
            return np.exp(2 * logits) / np.exp(2 * logits).sum()

        return names[chosen], classes
    if kind == "multilabel":
        has = np.array([index % 2, index % 3 == 0], float)
        label = ";".join(name for name, one in zip(names, has, strict=True) if one) or "-"
        return label, lambda rng: 1 / (1 + np.exp(-(skill * (2 * has - 1) + rng.normal(size=2))))
    if kind == "regression":
        value = float(rng.normal(50, 20))
        return f"{value:.4g}", lambda rng: np.array([50 + 0.6 * (value - 50) + rng.normal(0, 8)])
    risk = rng.normal()
    time = float(rng.exponential(40 * np.exp(-0.8 * risk)))
    seen = time < 70
    survival = [np.exp(-h / 40 * np.exp(0.6 * risk)) for h in HORIZONS]
    return f"{min(time, 70):.2f}{'' if seen else '+'}", lambda rng: np.array([risk + rng.normal(0, 0.3), *survival])
