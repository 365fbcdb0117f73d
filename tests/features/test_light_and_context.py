"""What a manifest and the audit say of a slide, and what light it was taken in, on the way through an extraction."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from pathotune_pipeline.archive import Manifest, Pseudonymiser, SlideItem, read_manifest
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store import FeatureStore

SPEC = ExtractSpec.parse({"tiles": {"tile_px": 128}})


def run(manifest: Manifest, store: FeatureStore, **slide: object) -> ExtractResult:
    return extract(manifest, SPEC.with_values(slide=slide), store, SerialExecutor())


@pytest.fixture
def glowing(tmp_path: Path) -> Path:
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(1024, 1024)), (0, 0), 20)
    light = np.clip((noise - np.quantile(noise, 0.8)) / np.ptp(noise) * 1200, 0, 255)
    pixels = np.clip(5 + light[..., None] * np.array([0.1, 0.4, 1.0]), 0, 255).astype(np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(
        folder / "dapi.tif", pixels, tile=(256, 256), photometric="rgb", resolution=(20000, 20000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    return folder


def test_a_fluorescence_slide_adds_no_tiles_unless_told(glowing: Path, tmp_path: Path) -> None:
    store, manifest = FeatureStore(tmp_path / "s"), read_manifest(glowing)
    for _ in range(2):
        (outcome,) = run(manifest, store).outcomes
        assert (outcome.status, outcome.tiles) == ("empty", 0)
        assert outcome.reason == "fluorescence, not brightfield; --allow-fluorescence to tile it anyway"
    (outcome,) = run(manifest, store, allow_fluorescence=True).outcomes
    assert outcome.status == "committed"
    assert outcome.facts["illumination"] == "fluorescence"
    assert outcome.tiles > 0


def test_what_the_audit_refused_is_failed_and_not_opened(small_archive: Path, tmp_path: Path) -> None:
    good = small_archive / "case-1" / "s2.tif"
    items = (SlideItem("a", good), SlideItem("b", good, refused="its scale is absurd"))
    result = run(Manifest(items), FeatureStore(tmp_path / "s"))
    assert [outcome.status for outcome in result.outcomes] == ["committed", "failed"]
    assert result.outcomes[1].reason == "refused by the audit: its scale is absurd"
    assert not result.outcomes[1].transient
    assert result.counts()["failed"] == 1


def test_context_reaches_the_store_and_names_do_not(small_archive: Path, tmp_path: Path) -> None:
    context = (("stain", "HE"), ("note", "Doe, John"))
    manifest = Manifest((SlideItem("a", small_archive / "case-1" / "s2.tif", "Doe", context=context),))
    for name, listed, found in (
        ("plain", manifest, {"stain": "HE", "note": "Doe, John"}),
        ("pseudo", manifest.pseudonymised(Pseudonymiser(b"0123456789abcdef")), {"stain": "HE"}),
    ):
        store = FeatureStore(tmp_path / name)
        run(listed, store)
        (features,) = store.sets("features")
        (record,) = store.records(features).values()
        assert record.facts["context"] == found
        assert dict(store.group(record).attrs)["context"] == found
    assert not [path for path in (tmp_path / "pseudo").rglob("*") if path.is_file() and b"Doe" in path.read_bytes()]
