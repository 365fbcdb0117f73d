"""Labelled points on `crc01`, one slide with another tool's map of nine tissue classes: a CSV for `--patches`.

Columns x, y, label, path, group and fold. A point is the middle of a cell of the map (112 um). Cells are drawn evenly
over the classes; the group is a block of cells, and no patch of one block touches a patch of another, so that folds by
group are apart on the slide. The labels are another model's, not a pathologist's, and it is one slide: scores tell
methods apart and say nothing about other patients.

    python benchmarks/crc01_patches.py --out crc01.csv [--data ../shared/data] [--per-class 300] [--patch-um 112]
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathotune_pipeline.store.files import replace_file
from pathotune_pipeline.tuning.patches import PatchSet, grouped_folds

CLASSES = ("BACK", "NORM", "DEB", "TUM", "ADI", "MUC", "MUS", "STR", "LYM")
CELL_PX = 86.154
"""Side of a cell in level-0 px."""
CELL_UM = 112.0
COLUMNS = 202
"""Columns of the map that lie on the slide."""
FEWEST_CELLS = 50


@dataclass(frozen=True, slots=True)
class Layout:
    """How points are drawn.

    Attributes:
        per_class: most points of a class.
        patch_um: side of the patches that will be read.
        block_cells: cells along a block.
        folds: a class that is in fewer blocks is left out.
        seed: of all draws.
    """

    per_class: int = 300
    patch_um: float = CELL_UM
    block_cells: int = 12
    folds: int = 3
    seed: int = 0

    @property
    def gap_cells(self) -> int:
        """Cells between blocks that no point lies in: one at least, and more where patches are wider than cells."""
        return max(1, math.ceil(self.patch_um / CELL_UM) - 1)


@dataclass(frozen=True, slots=True)
class Points:
    """Points of the map: rows and columns int64 [N], classes int64 [N], blocks by name, and the fold that tests each."""

    rows: np.ndarray
    columns: np.ndarray
    labels: np.ndarray
    blocks: tuple[str, ...]
    folds: np.ndarray


def draw_points(grid: np.ndarray, layout: Layout) -> Points:
    """Draw points of every class that has enough cells in enough blocks.

    Args:
        grid: uint8 [rows, columns], places in CLASSES, 255 where there is no tissue.
        layout: how many, how large the patches are, and how far blocks are apart.
    """
    grid = grid[:, :COLUMNS]
    inside = np.zeros(grid.shape, bool)
    size, gap = layout.block_cells, layout.gap_cells
    inside[(np.arange(len(grid)) % size < size - gap)[:, None] & (np.arange(grid.shape[1]) % size < size - gap)] = True
    rng = np.random.default_rng(layout.seed)
    drawn = []
    for label in range(len(CLASSES)):
        cells = np.argwhere((grid == label) & inside)
        blocks = len(np.unique(cells // size, axis=0))
        if len(cells) < FEWEST_CELLS or blocks < 2 * layout.folds:
            print(f"{CLASSES[label]} is left out: {len(cells)} cells in {blocks} blocks")
            continue
        chosen = rng.choice(len(cells), min(layout.per_class, len(cells)), replace=False)
        drawn.append(np.column_stack([cells[np.sort(chosen)], np.full(len(chosen), label)]))
    points = np.concatenate(drawn)
    blocks = tuple(f"block-{row // size}-{column // size}" for row, column, _ in points.tolist())
    return Points(points[:, 0], points[:, 1], points[:, 2], blocks, _folds(points, blocks, layout))


def _folds(points: np.ndarray, blocks: tuple[str, ...], layout: Layout) -> np.ndarray:
    count = len(points)
    bare = PatchSet(
        images=np.zeros((count, 1, 1, 3), np.uint8),
        labels=points[:, 2].astype(np.int64),
        classes=CLASSES,
        groups=blocks,
        domains=("",) * count,
        splits=("",) * count,
        names=tuple(f"{row},{column}" for row, column, _ in points.tolist()),
    )
    folds = np.empty(count, np.int64)
    for fold in grouped_folds(bare, layout.folds, seed=layout.seed, val_share=0):
        folds[fold.test] = fold.index
    return folds


def write_points(points: Points, slide: Path, out: Path) -> None:
    """Write the CSV; the slide's path is relative to it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "x", "y", "label", "group", "fold"])
    path = Path(os.path.relpath(slide.resolve(), out.resolve().parent)).as_posix()
    for row, column, label, block, fold in zip(
        points.rows, points.columns, points.labels, points.blocks, points.folds, strict=True
    ):
        x, y = (column + 0.5) * CELL_PX, (row + 0.5) * CELL_PX
        writer.writerow([path, f"{x:.2f}", f"{y:.2f}", CLASSES[label], block, f"fold-{fold}"])
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, text.getvalue().encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the CSV")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--per-class", type=int, default=300, help="most points of a class")
    parser.add_argument("--patch-um", type=float, default=CELL_UM, help="side of the patches in um")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    grid = np.load(given.data / "truth" / "crc01" / "class_grid_228x167.npy")
    points = draw_points(grid, Layout(given.per_class, given.patch_um, folds=given.folds, seed=given.seed))
    write_points(points, given.data / "slides" / "crc01.tif", given.out)
    for label, name in enumerate(CLASSES):
        folds = Counter(points.folds[points.labels == label].tolist())
        blocks = {block for block, at in zip(points.blocks, points.labels, strict=True) if at == label}
        print(f"{name}: {sum(folds.values())} points in {len(blocks)} blocks; by fold {dict(sorted(folds.items()))}")


if __name__ == "__main__":
    main()
