"""A small store as extraction makes it, and files as other tools make them, written without our exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.exchange import ImportResult, ImportSpec, import_features
from pathotune_pipeline.exchange.bring import ImportSource
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store import FeatureStore, SetName
from pathotune_pipeline.store.write import checksum
from pathotune_pipeline.testing.slides import write_slide

ODD, EVEN, BLANK = "A%2Fs0.tif", "B%2Fs1.tif", "C%2Fblank.tif"
SETTINGS = {"tiles": {"tile_px": 128, "overlap_px": 32, "mpp": 0.5}}


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose mpp is no round number, one whose is, and one without tissue."""
    root = tmp_path_factory.mktemp("exchange-archive")
    write_slide(root / "A" / "s0.tif", size_px=(1536, 1400), seed=1, pattern="planted", mpp=0.2527)
    write_slide(root / "B" / "s1.tif", size_px=(1536, 1536), seed=2, pattern="decoy", mpp=0.5)
    import tifffile

    (root / "C").mkdir()
    tifffile.imwrite(
        root / "C" / "blank.tif", np.full((600, 600, 3), 245, np.uint8), tile=(256, 256), photometric="rgb",
        resolution=(20000, 20000), resolutionunit=3,
    )  # fmt: skip
    return root


@pytest.fixture(scope="session")
def made(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The archive's features, three tiles of EVEN marked as unreadable."""
    store = FeatureStore(tmp_path_factory.mktemp("exchange-store") / "s")
    extract(read_manifest(archive), ExtractSpec.parse(SETTINGS), store, SerialExecutor())
    _spoil(store, EVEN, [0, 7, 20])
    return store


def _spoil(store: FeatureStore, slide: str, rows: list[int]) -> None:
    [features_set] = store.sets("features")
    record = store.records(features_set)[slide]
    features, valid = store.read(record, "features"), store.read(record, "valid")
    features[rows], valid[rows] = 0, False
    print_ = "e" * 64
    attributes: Any = dict(store.group(record).attrs)
    facts = {key: value for key, value in record.facts.items() if key not in ("checksums", "committed_ns")}
    changed = {"fingerprint": print_, "group": f"{slide}/{features_set.group(print_[:12])}", "invalid_tiles": len(rows)}
    with store.stage(slide, slide, features_set, print_) as staged:
        array = staged.create("features", shape=features.shape, dtype="float16", chunks=features.shape)
        array[...] = features
        staged.expect("features", checksum(features))
        staged.put("valid", valid)
        staged.commit({**facts, **changed}, {**attributes, **changed})
    store.close_staging()


@pytest.fixture(scope="session")
def features_set(made: FeatureStore) -> SetName:
    """The one set of `made`."""
    [found] = made.sets("features")
    return found


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """An empty one."""
    found = FeatureStore(tmp_path / "store")
    found.initialise()
    return found


class Rivals:
    """Writes files in the layouts of other tools, as `h5py` alone makes them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def bring(
        store: FeatureStore, tool: Any, folder: Path, source: dict[str, Any] | None = None, **spec: Any
    ) -> ImportResult:
        """Import a folder."""
        return import_features(store, ImportSource(tool, folder, **(source or {})), ImportSpec.parse(spec))

    @staticmethod
    def coords(columns: int, rows: int, step: int) -> np.ndarray:
        """int64 [N, 2], by rows."""
        y, x = np.mgrid[0:rows, 0:columns]
        return np.stack([x.ravel() * step, y.ravel() * step], axis=1).astype(np.int64)

    @staticmethod
    def features(n: int, dim: int = 6, seed: int = 0) -> np.ndarray:
        """float32 [n, dim] that float16 cannot hold."""
        return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)

    def trident(
        self,
        name: str,
        features: np.ndarray,
        coords: np.ndarray,
        *,
        folder: str = "20x_256px_0px_overlap",
        sub: str = "features_uni_v1",
        **changes: Any,
    ) -> Path:
        """One slide of a job directory, for a 40x slide; an attribute that is None is left out. Gives the directory."""
        attributes = {
            "patch_size": 256,
            "patch_size_level0": 512.0,
            "level0_magnification": 40,
            "target_magnification": 20.0,
            "overlap": 0,
            "name": name,
            "savetodir": "/data/job/20x_256px_0px_overlap",
            "level0_width": 4096,
            "level0_height": 3000,
            **changes,
        }
        told = {key: value for key, value in attributes.items() if value is not None}
        job = self.root / "job"
        patches, rows = job / folder / "patches" / f"{name}_patches.h5", job / folder / sub / f"{name}.h5"
        for path in (patches, rows):
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                wide = coords.shape[-1]
                places = file.create_dataset("coords", data=coords, chunks=(1, wide), maxshape=(None, wide))
                places.attrs.update(told)
                if path == rows:
                    tail = features.shape[1:]
                    made = file.create_dataset("features", data=features, chunks=(1, *tail), maxshape=(None, *tail))
                    made.attrs.update(
                        {"name": name, "savetodir": "/data/job", "encoder": sub.rpartition("features_")[2]}
                    )
        return job

    def clam(self, name: str, features: np.ndarray, coords: np.ndarray, **changes: Any) -> Path:
        """One slide cut at level 1 of a slide of 8000 x 6000 px. Features come with int32 coords and no attributes."""
        root = self.root / "clam"
        for folder in ("patches", "h5_files"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        with h5py.File(root / "patches" / f"{name}.h5", "w") as file:
            places = file.create_dataset("coords", data=coords, chunks=(32, 2), maxshape=(None, 2))
            places.attrs.update(
                {
                    "patch_size": 256,
                    "patch_level": 1,
                    "downsample": np.array([4.0, 4.0]),
                    "downsampled_level_dim": np.array([2000, 1500]),
                    "level_dim": np.array([2000, 1500]),
                    "name": name,
                    "save_path": "/data/patches",
                    **changes,
                }
            )
        with h5py.File(root / "h5_files" / f"{name}.h5", "w") as file:
            file.create_dataset("features", data=features)
            file.create_dataset("coords", data=coords.astype(np.int32))
        return root

    def stamp(self, name: str, feats: np.ndarray, coords_um: np.ndarray, **changes: Any) -> Path:
        """One file; an attribute that is None is left out."""
        attributes = {
            "stamp_version": "2.5.0",
            "extractor": "ctranspath",
            "unit": "um",
            "tile_size_um": 256.0,
            "tile_size_px": 224,
            "code_hash": "0123abcd",
            "feat_type": "tile",
            **changes,
        }
        path = self.root / "feats" / f"{name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["coords"] = coords_um.astype(np.float32)
            file["feats"] = feats.astype(np.float16)
            file.attrs.update({key: value for key, value in attributes.items() if value is not None})
        return self.root / "feats"


@pytest.fixture
def rivals(tmp_path: Path) -> Rivals:
    """Writes other tools' files below the test's folder."""
    return Rivals(tmp_path)
