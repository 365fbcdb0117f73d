"""Adaptation methods on real data: mitotic figures of three domains, and the tissues of one slide.

For each data set a study of fractions (`pathotune study scaling`): every method of `adaptation.yaml` on .03, .1, .3 and all
of the training slides, in folds by slide, tested in domain and, of mitotic figures, in two other domains. Its folder holds
cells, tables and a page; `adaptation.md` has all scores as they came out. Run it again after a kill: what is there stays.

    python benchmarks/adaptation.py --encoder FOLDER --work DIR [--jobs 2] [--part mitosis] [--part tissue] [--data ../shared/data]

The encoder is a small vision transformer of `pathotune pretrain`; `untrained` is the same network with random weights.
On two cores it takes about an hour and a half; `--quick` (two folds, 60 steps rather than three and 120) about 40 minutes.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from crc01_patches import Layout, draw_points, write_points
from safetensors.torch import save_file

from pathotune_pipeline.cli import main as pathotune
from pathotune_pipeline.store.files import replace_file
from pathotune_pipeline.tuning.studies.file import merged

SEEN = "The encoder was pretrained on these images too, without their labels."
PARTS = ("mitosis", "tissue")
SIDE_PX = 64
TISSUE_UM = 112.0
BASELINE = "small-vit, linear probe"
QUICK = {"folds": 2, "steps": 60}
SMALL = "The encoder is a small network pretrained on a processor: this says how methods behave on it, and nothing of large models."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="both by default")
    parser.add_argument("--encoder", type=Path, required=True, help="folder that `pathotune pretrain` wrote")
    parser.add_argument("--work", type=Path, required=True, help="cells, tables and pages; kept for the next time")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--jobs", type=int, default=2, help="processes; 0 writes tables alone")
    parser.add_argument("--quick", action="store_true", help="two folds, 60 steps")
    for name in ("steps", "folds", "seeds"):
        parser.add_argument(f"--{name}", type=int, help="instead of the file's")
    parser.add_argument("--fractions", type=float, nargs="+", help="instead of the file's")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    common = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    if given.quick:
        common["scaling"] |= QUICK
    asked = {name: getattr(given, name) for name in ("steps", "folds", "seeds", "fractions")}
    common["scaling"] |= {name: value for name, value in asked.items() if value is not None}
    encoders = {
        "small-vit": {"name": f"local:{given.encoder.resolve()}", "batch_size": 128},
        "untrained": {
            "name": f"local:{untrained(given.encoder, given.work / 'untrained').resolve()}",
            "batch_size": 128,
        },
        "stain-texture": {"name": "stain-texture", "batch_size": 128},
    }
    pages = []
    for part in given.part or PARTS:
        own = mitosis(given.data) if part == "mitosis" else tissue(given.data, given.work)
        out = given.work / part
        out.mkdir(exist_ok=True)
        file = out / "study.yaml"
        own["patches"] |= {"side_px": SIDE_PX, "cache": str(given.work / "patches")}
        file.write_text(
            yaml.safe_dump({**merged(common, own), "encoders": encoders, "baseline": BASELINE}, sort_keys=False)
        )
        words = ["study", "scaling", "--study", file, "--out", out, "--jobs", given.jobs]
        if pathotune([str(word) for word in words]) not in (0, 3):  # 3: some cells failed, each told with its reason
            raise SystemExit(f"{part}: the study could not be run")
        pages.append(table(out))
    replace_file(given.work / "adaptation.md", "\n\n".join(pages).encode())


def mitosis(data: Path) -> dict[str, Any]:
    """Atypical against normal mitotic figures of the AMi-Br benchmark (MIT)."""
    return {
        "title": "Atypical against normal mitotic figures",
        "note": "Trained on amibr, in folds by slide. atnorm-br and atnorm-md are other domains, whose images name no slide: "
        f"their intervals resample images. {SEEN} {SMALL}",
        "patches": {"source": str(data / "mitosis" / "labels.csv")},
        "adapt": {"adapter": {"organ": "tumour", "task": "telling atypical from normal mitotic figures"}},
        "scaling": {"train_domains": ["amibr"]},
    }


def tissue(data: Path, work: Path) -> dict[str, Any]:
    """Tissue classes of one slide by another model's map."""
    grid = np.load(data / "truth" / "crc01" / "class_grid_228x167.npy")
    points = work / "crc01.csv"
    write_points(draw_points(grid, Layout(patch_um=TISSUE_UM)), data / "slides" / "crc01.tif", points)
    return {
        "title": "Tissues of one colorectal slide",
        "note": "Labels are another model's, not a pathologist's. Groups are blocks of the one slide that do not touch, so "
        f"intervals are within this patient. Classes with too few cells are left out. {SEEN} {SMALL}",
        "patches": {"source": str(points), "mpp": TISSUE_UM / SIDE_PX},
        "adapt": {"adapter": {"organ": "colorectal", "task": "telling tissues apart"}},
    }


def untrained(encoder: Path, out: Path) -> Path:
    """The same network with random weights, as a folder beside it."""
    if not (out / "model.safetensors").exists():
        torch.manual_seed(0)
        network = timm.create_model(f"local-dir:{encoder}", pretrained=False)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(encoder / "config.json", out / "config.json")
        save_file(network.state_dict(), out / "model.safetensors.tmp")
        (out / "model.safetensors.tmp").replace(out / "model.safetensors")
    return out


def table(out: Path) -> str:
    """All scores of a study as they came out, in Markdown."""
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [
        f"## {out.name}",
        "",
        f"| score | tested on | encoder | method | fraction | mean ± std | interval | against {BASELINE} | runs | images | by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["score"]):
        said = (
            f"{float(row['mean']):.3f}" + (f" ± {float(row['std']):.3f}" if row["std"] else "") if row["mean"] else "–"
        )
        sure = f"{float(row['low']):.3f} to {float(row['high']):.3f}" if row["low"] else row["reason"] or "–"
        apart = "–"
        if row["difference"] and row["difference_low"]:
            apart = "{:+.3f} ({:+.3f} to {:+.3f})".format(
                *(float(row[name]) for name in ("difference", "difference_low", "difference_high"))
            )
        cells = (
            row["score"], row["test"], row["encoder"], row["method"], row["fraction"], said, sure, apart,
            f"{row['runs'] or 0} of {row['cells']}", row["images"], row["resampled"],
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
