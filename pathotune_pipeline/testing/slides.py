"""Synthetic slides and archives with a known answer, for tests, demonstrations and authors of plug-ins.

The signal of an archive is local. Slides of both classes hold the same share of special tiles, crowded with the same
spindle nuclei. In some of a `positive` slide's special tiles the nuclei form one stream; in its others, and in all of a
`negative` slide's, they point everywhere (decoys). Colours, tissue area and numbers of nuclei say nothing of the class;
the order of fibres and nuclei varies more between slides than the few special tiles shift its mean.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.geometry import Box, um_to_px
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.testing.scene import TILE_UM, draw_scene
from pathotune_pipeline.testing.slide_files import draw_label, write_aperio, write_tiff

Pattern = Literal["none", "planted", "decoy"]

POSITIVE, NEGATIVE = "positive", "negative"


class SyntheticSlideSpec(Spec):
    """What a synthetic slide shows."""

    size_px: tuple[int, int] = setting((4096, 4096), "Width and height of level 0, in px.")
    mpp: float = setting(0.5, "Micrometres per pixel of level 0.", ge=0.1, le=2.0)
    seed: int = setting(0, "Decides everything that is drawn.", ge=0)
    pattern: Pattern = setting("none", "Special tiles: none, aligned nuclei beside decoys (planted), or only decoys.")
    planted_share: float = setting(0.05, "Tiles with aligned nuclei, as a share of tissue tiles.", gt=0, le=0.5)
    decoy_share: float = setting(0.04, "Further special tiles, disordered in any case, as a share.", ge=0, le=0.5)
    offset: tuple[int, int] = setting((0, 0), "Shift of the special tiles' grid, in px (x, y).")
    states_mpp: bool = setting(True, "Whether the file says its mpp; without, a reader has to be told.")
    levels: int = setting(3, "Pyramid levels, each half the one before.", ge=1, le=10)

    @property
    def tile_px(self) -> int:
        """Side of a special tile in level-0 px: 128 um, 256 px at 0.5 um/px."""
        return round(um_to_px(TILE_UM, self.mpp))


@dataclass(frozen=True)
class SlideTruth:
    """What is known about a synthetic slide.

    Attributes:
        path: the file.
        spec: what it was drawn from.
        planted: the tiles with aligned nuclei, in raster order, in level-0 px.
        decoys: the tiles with disordered nuclei, likewise.
        tissue_tiles: number of grid tiles that are at least half tissue.
    """

    path: Path
    spec: SyntheticSlideSpec
    planted: tuple[Box, ...]
    decoys: tuple[Box, ...]
    tissue_tiles: int

    @property
    def coords(self) -> np.ndarray:
        """Top-left corners of the planted tiles: int64 [N, 2], level-0 px, (x, y), raster order."""
        return np.array([(box.x, box.y) for box in self.planted], np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class ArchiveTruth:
    """What is known about a synthetic archive.

    Attributes:
        folder: where the case folders lie.
        labels: CSV with the columns path (relative to the folder), slide_id, case_id, class.
        truth: JSON with the planted boxes of each slide, by slide_id.
        slides: truth of each slide, by slide_id.
        classes: "positive" or "negative", by slide_id.
        cases: case_id, by slide_id.
    """

    folder: Path
    labels: Path
    truth: Path
    slides: dict[str, SlideTruth]
    classes: dict[str, str]
    cases: dict[str, str]


def write_slide(
    path: str | Path,
    spec: SyntheticSlideSpec | None = None,
    *,
    description: str = "",
    label_text: str = "",
    **settings: Any,
) -> SlideTruth:
    """Draw a slide and write it as a pyramidal tiled JPEG TIFF (OpenSlide's generic-tiff).

    Args:
        path: where to; folders are made, an existing file is replaced.
        spec: what to draw; by default a SyntheticSlideSpec of the settings.
        description: the file's ImageDescription, such as a patient's name in a test of privacy. ASCII.
        label_text: printed on a label-like page after the pyramid. ASCII.
        settings: fields of SyntheticSlideSpec: `size_px`, `mpp`, `seed`, `pattern`, `planted_share`,
            `decoy_share`, `offset`, `states_mpp`, `levels`.

    Returns:
        What was drawn where.

    Raises:
        SpecError: an unknown setting or a value that is not allowed.
        UsageError: the slide has no room for a special tile that it is to hold.
    """
    return _write(path, spec, settings, svs=False, texts=(description, label_text))


def write_svs(
    path: str | Path,
    spec: SyntheticSlideSpec | None = None,
    *,
    description: str = "",
    label_text: str = "",
    **settings: Any,
) -> SlideTruth:
    """Draw a slide and write it as Aperio does, so that OpenSlide finds mpp, magnification, label and macro.

    Args:
        path: where to, ending in `.svs`; folders are made, an existing file is replaced.
        spec: what to draw; by default a SyntheticSlideSpec of the settings.
        description: further `key = value` pairs, joined by `|`; each becomes a property `aperio.<key>`. ASCII.
        label_text: printed on the label, which the macro image shows too. ASCII.
        settings: as for `write_slide`.

    Returns:
        What was drawn where.

    Raises:
        SpecError: an unknown setting or a value that is not allowed.
        UsageError: the slide has no room for a special tile that it is to hold.
    """
    return _write(path, spec, settings, svs=True, texts=(description, label_text))


def _write(
    path: str | Path, spec: SyntheticSlideSpec | None, settings: dict[str, Any], *, svs: bool, texts: tuple[str, str]
) -> SlideTruth:
    path, (description, label_text) = Path(path), texts
    spec = spec.with_values(**settings) if spec else SyntheticSlideSpec.parse(settings)
    scene = draw_scene(spec)
    if spec.pattern != "none" and not scene.planted + scene.decoys:
        raise UsageError(
            f"{path.name}: a slide of {spec.size_px} px has no room for a special tile, which has {spec.tile_px} px "
            f"at {spec.mpp} um/px, offset {spec.offset}. Make the slide larger, or choose pattern 'none'."
        )
    write = write_aperio if svs else write_tiff
    label = draw_label(label_text) if label_text else None
    mpp = spec.mpp if spec.states_mpp else None
    write(path, scene.rgb, mpp=mpp, levels=spec.levels, description=description, label=label)
    side, (left, top) = spec.tile_px, spec.offset
    planted, decoys = (
        tuple(Box(left + c * side, top + r * side, side, side) for c, r in places)
        for places in (scene.planted, scene.decoys)
    )
    return SlideTruth(path, spec, planted, decoys, int((scene.tissue >= 0.5).sum()))


def make_archive(
    folder: str | Path,
    *,
    patients: int = 40,
    second_slide_share: float = 0.25,
    seed: int = 0,
    size_px: tuple[int, int] = (4096, 4096),
    mpp: float = 0.5,
    workers: int = 1,
) -> ArchiveTruth:
    """Write an archive with two balanced classes: case folders with slides, `labels.csv` and `truth.json`.

    Both classes have the same number of patients (one more is positive where the number is odd), and as nearly as can
    be the same number of patients with two slides. The same arguments write the same files.

    Args:
        folder: where to; made if absent.
        patients: number of cases; each is of one class.
        second_slide_share: share of cases with two slides.
        seed: decides everything.
        size_px: width and height of level 0 of every slide, in px.
        mpp: um/px of level 0.
        workers: processes that draw.

    Returns:
        Labels and truth, also in the two files.

    Raises:
        UsageError: the slides are too small to hold a special tile.
    """
    folder = Path(folder)
    rng = np.random.default_rng([seed, 20])
    classes = [POSITIVE if i % 2 == 0 else NEGATIVE for i in range(patients)]
    # Ordinal numbers within a class decide who has two slides, so both classes have as many.
    doubled = {i for i in range(patients) if (i // 2) < round(second_slide_share * patients / 2)}
    order = rng.permutation(patients)
    jobs: list[tuple[Path, SyntheticSlideSpec]] = []
    rows: list[dict[str, str]] = []
    for number, i in enumerate(order):
        case_id = f"case-{number:03d}"
        for letter in "ab" if int(i) in doubled else "a":
            slide_id = f"{case_id}/{case_id}-{letter}.tif"
            pattern = "planted" if classes[i] == POSITIVE else "decoy"
            planted, decoys = (float(rng.uniform(0.035, 0.055)) for _ in range(2))
            values = {"seed": int(rng.integers(2**31)), "pattern": pattern, "planted_share": planted}
            values["decoy_share"] = decoys
            jobs.append((folder / slide_id, SyntheticSlideSpec.parse({**values, "size_px": size_px, "mpp": mpp})))
            rows.append({"path": slide_id, "slide_id": slide_id, "case_id": case_id, "class": classes[i]})
    folder.mkdir(parents=True, exist_ok=True)
    ids = [row["slide_id"] for row in rows]
    truth = dict(zip(ids, _draw_all(jobs, workers), strict=True))
    labels_path, truth_path = folder / "labels.csv", folder / "truth.json"
    with labels_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["path", "slide_id", "case_id", "class"])
        writer.writeheader()
        writer.writerows(rows)
    plain = {slide_id: _plain(one) for slide_id, one in truth.items()}
    truth_path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return ArchiveTruth(
        folder=folder,
        labels=labels_path,
        truth=truth_path,
        slides=truth,
        classes={row["slide_id"]: row["class"] for row in rows},
        cases={row["slide_id"]: row["case_id"] for row in rows},
    )


def _draw_all(jobs: Sequence[tuple[Path, SyntheticSlideSpec]], workers: int) -> list[SlideTruth]:
    if workers <= 1:
        return [write_slide(path, spec) for path, spec in jobs]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(write_slide, *zip(*jobs, strict=True)))


def _plain(truth: SlideTruth) -> dict[str, Any]:
    return {
        "pattern": truth.spec.pattern,
        "seed": truth.spec.seed,
        "mpp": truth.spec.mpp,
        "size_px": list(truth.spec.size_px),
        "tile_px": truth.spec.tile_px,
        "tissue_tiles": truth.tissue_tiles,
        **{
            name: [[int(box.x), int(box.y), int(box.width), int(box.height)] for box in boxes]
            for name, boxes in (("planted", truth.planted), ("decoys", truth.decoys))
        },
    }
