"""Real patches: the mitotic figures and the nine tissues beside the project, read and split as studies do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.crc01_patches import CELL_PX, CELL_UM, CLASSES, Layout, draw_points, write_points
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.tuning.patches import PatchSet, PatchSpec, check_parts, grouped_folds, read_patches
from pathotune_pipeline.tuning.patches.decode import CropSpec
from pathotune_pipeline.tuning.patches.read import list_patches
from tests.tuning.patches.conftest import write_csv


def test_points_are_even_over_classes_and_no_patch_of_two_folds_overlaps() -> None:
    rng = np.random.default_rng(0)
    grid = np.repeat(np.repeat(rng.choice([0, 1, 2, 3, 255], (30, 50)), 6, axis=0), 6, axis=1).astype(np.uint8)
    grid[0, :20] = 8  # of a class with too few cells
    layout = Layout(per_class=150, patch_um=250.0, folds=4, seed=3)
    points = draw_points(grid, layout)
    assert Counter(points.labels.tolist()) == {0: 150, 1: 150, 2: 150, 3: 150}
    assert (grid[points.rows, points.columns] == points.labels).all()
    assert points.columns.max() < 202
    assert max(len(set(points.folds[np.array(points.blocks) == block])) for block in set(points.blocks)) == 1
    for label in range(4):
        assert min(Counter(points.folds[points.labels == label].tolist()).values()) > 30
    centres = np.column_stack([points.rows, points.columns]) * CELL_UM
    apart = np.abs(centres[:, None] - centres[None]).max(
        axis=2
    )  # squares overlap where both axes are nearer than a side
    others = points.folds[:, None] != points.folds[None]
    assert apart[others].min() >= layout.patch_um


def test_nine_tissues_of_one_slide(shared: Path, tmp_path: Path) -> None:
    slide, grid = (shared / "data" / name for name in ("slides/crc01.tif", "truth/crc01/class_grid_228x167.npy"))
    if not slide.exists() or not grid.exists():
        pytest.skip("crc01 is absent")
    points = draw_points(np.load(grid), Layout(per_class=20))
    write_points(points, slide, tmp_path / "out" / "crc01.csv")
    spec = PatchSpec(source=tmp_path / "out" / "crc01.csv", mpp=1.3, side_px=86, split_column="fold")
    patches = read_patches(spec)
    assert patches.counts() == dict.fromkeys(sorted(CLASSES), 20)
    assert set(patches.splits) == {"fold-0", "fold-1", "fold-2"}
    check_parts(patches, {fold: patches.where(split=fold) for fold in set(patches.splits)})
    brightness = {name: patches.images[patches.labels == place].mean() for place, name in enumerate(patches.classes)}
    assert brightness["ADI"] > brightness["MUC"] > brightness["TUM"]
    assert float(patches.names[0].split("@")[1].split(",")[0]) % CELL_PX == pytest.approx(CELL_PX / 2, abs=0.01)


def test_mitotic_figures_of_three_domains(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "mitosis" / "labels.csv"
    if not source.exists():
        pytest.skip("the mitotic figures are absent")
    spec = PatchSpec(source=source, classes=("normal", "atypical"))
    listing, labels, classes = list_patches(spec, CropSpec(0, None, False, SlideSpec()))
    refs = listing.refs
    patches = PatchSet(
        images=np.zeros((len(refs), 1, 1, 3), np.uint8),
        labels=labels,
        classes=classes,
        groups=tuple(ref.group for ref in refs),
        domains=tuple(ref.domain for ref in refs),
        splits=tuple(ref.split for ref in refs),
        names=tuple(ref.name for ref in refs),
    )
    assert patches.counts() == {"normal": 1888, "atypical": 1179}
    assert Counter(patches.domains) == {"amibr": 1664, "atnorm-br": 746, "atnorm-md": 657}
    inside = patches.where(domain="amibr")
    assert len(set(patches.units[inside])) == 188
    for fold in grouped_folds(patches, 3, index=inside):
        check_parts(patches, {"train": fold.train, "val": fold.val, "test": fold.test})
        held = patches.counts(fold.test)
        assert abs(held["normal"] - held["atypical"]) <= 2
        assert abs(len(fold.test) - len(inside) / 3) <= 2
    # Of every hundredth the pixels, as another reader has them.
    few = [{"path": ref.name, "label": ref.label, "slide": ref.group} for ref in refs[::100]]
    read = read_patches(spec.with_values(source=write_csv(tmp_path / "few.csv", few), images=source.parent))
    assert any("14 of 31 patches do not have a group" in note for note in read.notes)
    for image, row in zip(read.images, few, strict=True):
        assert np.array_equal(image, cv2.imread(str(source.parent / row["path"]))[..., ::-1])
