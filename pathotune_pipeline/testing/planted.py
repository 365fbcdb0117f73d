"""Whether a model's attention finds what was planted in a synthetic archive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from pathotune_pipeline.archive.identity import encode_id
from pathotune_pipeline.evaluation.result import read_result
from pathotune_pipeline.store.store import FeatureStore, open_store

LEAST_OVERLAP = 0.5
"""A tile counts as planted when at least this share of it lies in planted boxes."""


@dataclass(frozen=True, slots=True)
class PlantedScore:
    """How well attention separates planted tiles from the others, slide by slide.

    Attributes:
        mean: mean over slides of the AUROC over a slide's tiles.
        worst: the lowest of them.
        slides: how many slides have planted tiles and attention.
        share: mean share of those slides' tiles that are planted.
    """

    mean: float
    worst: float
    slides: int
    share: float


def planted_auroc(store: Path, model: Path, truth: Path) -> PlantedScore | None:
    """Attention against truth, over the slides that hold planted tiles.

    Args:
        store: the store that the model was trained from.
        model: a folder that crossval wrote; its attention is of models that had not seen the slide.
        truth: `truth.json` of `make_archive`.

    Returns:
        The score, or None where the head has no attention.
    """
    result = read_result(model)
    if not result.attention:
        return None
    boxes = {encode_id(name): _corners(facts["planted"]) for name, facts in json.loads(truth.read_text()).items()}
    opened = open_store(store)
    hits = {
        slide_id: _is_planted(opened, record, planted)
        for slide_id, record in opened.records(opened.find_set(result.feature_set)).items()
        if (planted := boxes.get(slide_id)) is not None and len(planted)
    }
    scores = attention_aurocs(result.attention, hits)
    if not scores:
        return None
    share = float(np.mean([hits[slide_id].mean() for slide_id in scores]))
    return PlantedScore(float(np.mean(list(scores.values()))), min(scores.values()), len(scores), share)


def attention_aurocs(attention: Mapping[str, np.ndarray], hits: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How well attention separates the tiles that matter from the others: AUROC over the tiles of each bag.

    Args:
        attention: bag id -> [N] float.
        hits: bag id -> [N] bool, which tiles matter; bags with all or none of them are passed over.
    """
    return {
        name: float(roc_auc_score(hit, attention[name]))
        for name, hit in hits.items()
        if name in attention and 0 < hit.sum() < len(hit)
    }


def _corners(boxes: list[list[float]]) -> np.ndarray:
    """[[x, y, w, h], ...] to float64 [N, 4] of (left, top, right, bottom)."""
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.column_stack([array[:, :2], array[:, :2] + array[:, 2:]])


def _is_planted(store: FeatureStore, record: Any, planted: np.ndarray) -> np.ndarray:
    tiles = record.made_from("tiles")
    valid = store.read(record, "valid").astype(bool)
    corners = store.read(tiles, "coords")[valid].astype(np.float64)
    geometry: Any = store.group(tiles).attrs["geometry"]
    width, height = geometry["extent_level0"]
    left, top = corners[:, :1], corners[:, 1:]
    across = np.minimum(left + width, planted[:, 2]) - np.maximum(left, planted[:, 0])  # [N, boxes]
    down = np.minimum(top + height, planted[:, 3]) - np.maximum(top, planted[:, 1])
    covered = (np.clip(across, 0, None) * np.clip(down, 0, None)).sum(axis=1)
    return np.asarray(covered >= LEAST_OVERLAP * width * height)
