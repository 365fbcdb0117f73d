"""Real patches: the mitotic figures and the nine tissues beside the project, read and split as studies do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.crc01_patches import CELL_PX, CELL_UM, CLASSES, Layout, draw_points, write_points
from pathotune_pipeline.tuning.patches import PatchSpec, check_parts, grouped_folds, read_patches


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


def test_mitotic_figures_of_three_domains(shared: Path) -> None:
    table = shared / "data" / "mitosis" / "labels.csv"
    if not table.exists():
        pytest.skip("the mitotic figures are absent")
    patches = read_patches(PatchSpec(source=table, classes=("normal", "atypical"), side_px=64))
    assert patches.counts() == {"normal": 1888, "atypical": 1179}
    assert Counter(patches.domains) == {"amibr": 1664, "atnorm-br": 746, "atnorm-md": 657}
    assert any("1403 of 3067 patches do not have a group" in note for note in patches.notes)
    inside = patches.where(domain="amibr")
    assert len(set(patches.units[inside])) == 188
    for fold in grouped_folds(patches, 3, index=inside):
        check_parts(patches, {"train": fold.train, "val": fold.val, "test": fold.test})
        held = patches.counts(fold.test)
        assert abs(held["normal"] - held["atypical"]) <= 2
        assert abs(len(fold.test) - len(inside) / 3) <= 2
