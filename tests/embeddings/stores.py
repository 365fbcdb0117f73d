"""A store with features of a toy encoder, put in without slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.store import FeatureStore, SetName
from tests.store.groups import put

TISSUE = SetName("tissue", "8mpp", "0123456789ab")
TILES = SetName("tiles", "256px-0.5mpp", "0123456789ab")
FEATURES = SetName("features", "toy-256px-0.5mpp", "0123456789ab")
DIM = 6


def slide_arrays(slide: str, tiles: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [N, DIM], valid [N] and coords [N, 2] of a slide; its fourth tile could not be read."""
    rng = np.random.default_rng([seed, *slide.encode()])
    valid = np.arange(tiles) != 3
    features = rng.normal(size=(tiles, DIM)).astype(np.float16) * valid[:, None]
    coords = np.stack([np.arange(tiles) % 7, np.arange(tiles) // 7], axis=1) * 512
    return features.astype(np.float16), valid, coords.astype(np.int64)


def put_slide(
    store: FeatureStore, slide: str, tiles: int = 20, *, digit: str = "c", seed: int = 0, **more: Any
) -> None:
    """Tissue, tiles and features of one slide; with another digit and seed, its features as they became later."""
    features, valid, coords = slide_arrays(slide, tiles, seed)
    byte = np.zeros(4, np.uint8)
    tissue = put(
        store, TISSUE, slide, "a", {"mask": np.ones((4, 5), np.uint8), "geojson": byte, "thumbnail_jpeg": byte}
    )
    geometry = {"stride_level0": more.pop("stride", (512.0, 512.0))}
    places = put(store, TILES, slide, "b", {"coords": more.pop("coords", coords), "tissue_fraction": np.ones(tiles, np.float32)},
                 tiles=tiles, geometry=geometry)  # fmt: skip
    features = more.pop("features", features)
    facts = {
        "tiles": tiles, "invalid_tiles": int((~valid).sum()), "dim": features.shape[1], "reason": "",
        "case_id": f"case of {slide}", "tiles_group": places, "tissue_group": tissue,
        "tiles_fingerprint": "b" * 64, "tissue_fingerprint": "a" * 64,
        "encoder": {"name": "toy"}, "tile_px": 256, "mpp": 0.5, **more,
    }  # fmt: skip
    put(store, FEATURES, slide, digit, {"features": features, "valid": valid}, **facts)


def new_store(root: Path, slides: tuple[str, ...] = ("a.svs", "b.svs", "c.svs")) -> FeatureStore:
    store = FeatureStore(root)
    store.initialise()
    for number, slide in enumerate(slides):
        put_slide(store, slide, 20 + number)
    return store
