"""What the heads reach on real data: classic sets, regions of one real slide, a table of slides.

Rows of JSON, as every benchmark; `low` and `high` are 95 % intervals from resampled patients, `sem` a standard error
over 50 test parts (which share training bags, so it is no interval).

- `musk`: gated ABMIL, 5 x 10 folds, last of 100 epochs, nothing chosen by a score. Accuracy.
- `tissue`: regions of one H&E slide cut into blocks that do not touch; a region is positive where another tool's map
  has tumour. Every head, 5 folds by block, epoch chosen on validation. AUROC of regions, and of the attention against
  the map among a region's tiles.
- `camelyon`: 129 test slides of Camelyon16 by the published predictions, and by a forest and a logistic regression of
  the published features of the training slides. AUROC.

    python benchmarks/learn.py [--quick] [musk] [tissue] [camelyon] [--data ../shared/data] [--store DIR]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from real_bags import (
    MUSK,
    TISSUE_HEADS,
    TUMOUR,
    attention_score,
    cell_of,
    cut_regions,
    fold_accuracies,
    judge,
    read_camelyon,
    read_classic,
    slide_bag,
    tabular_predictions,
    tissue_spec,
)
from timing import row

from pathotune_pipeline.evaluation.crossval import crossval

BENCH = "learn"
PARTS = ("musk", "tissue", "camelyon")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS, help="all of them by default")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--store", type=Path, help="keeps the slide's features for the next time")
    parser.add_argument("--head", action="append", choices=TISSUE_HEADS, help="of the tissue's; all by default")
    parser.add_argument("--quick", action="store_true", help="one repeat of MUSK1, three heads; under 3 minutes")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if "musk" in parts:
        for name in ("musk1",) if arguments.quick else ("musk1", "musk2"):
            musk(arguments.data / "mil" / f"{name}.npz", repeats=1 if arguments.quick else 5)
    if "camelyon" in parts:
        camelyon(arguments.data / "mil" / "camelyon16-slide-table")
    if "tissue" in parts:
        heads = arguments.head or (("mean", "abmil", "clam-mb") if arguments.quick else TISSUE_HEADS)
        with tempfile.TemporaryDirectory() as folder:
            tissue(arguments.data, arguments.store or Path(folder) / "store", heads)


def musk(path: Path, *, repeats: int) -> None:
    found = fold_accuracies(read_classic(path), MUSK, repeats=repeats)
    sem = float(found.std(ddof=1) / np.sqrt(len(found)))
    row(BENCH, f"{path.stem}: abmil, {len(found)} test parts", float(found.mean()), "accuracy", sem=sem)


def tissue(data: Path, store: Path, heads: Sequence[str]) -> None:
    slide = slide_bag(data / "slides" / "crc01.tif", store)
    grid = np.load(data / "truth" / "crc01" / "class_grid_228x167.npy")
    regions = cut_regions(slide, cell_of(np.asarray(slide.coords), grid) == TUMOUR)
    positive = sum(bag.target == "tumour" for bag in regions.bags)
    blocks = len({bag.group for bag in regions.bags})
    row(BENCH, f"crc01: {len(slide)} tiles, {blocks} blocks, {positive} positive of", len(regions.bags), "regions")
    for head in heads:
        result = crossval(regions.bags, tissue_spec(head))
        score = result.scores["auroc"]
        row(BENCH, f"crc01: {head}", score["value"], "AUROC", low=score["low"], high=score["high"])
        found = attention_score(result, regions)
        if found:
            row(BENCH, f"crc01: {head}, attention in {found['regions']:g} regions", unit="AUROC of tiles", **found)


def camelyon(folder: Path) -> None:
    table = read_camelyon(folder)
    for name, positive in {**table.published, **tabular_predictions(table)}.items():
        score = judge(table.truth, positive, groups=table.names)["auroc"]
        row(BENCH, f"camelyon16 test: {name}", score["value"], "AUROC", low=score["low"], high=score["high"])


if __name__ == "__main__":
    main()
