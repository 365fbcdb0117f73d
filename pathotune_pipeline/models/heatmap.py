"""Heat maps of slides: a head's attention as PNG, GeoJSON, pyramidal TIFF and a table, and sheets of its tiles."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pathotune_pipeline.archive.identity import IdentityCache, content_hash, key_of, redact
from pathotune_pipeline.archive.manifest import Manifest, SlideItem
from pathotune_pipeline.bags.bag import Bag, BagBatch
from pathotune_pipeline.bags.dataset import read_bag
from pathotune_pipeline.errors import PathotuneError, SlideChangedError, UsageError
from pathotune_pipeline.exchange.outbox import Outbox, Write
from pathotune_pipeline.features.persist import load_grid
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.heads.head import HEADS, create_head
from pathotune_pipeline.models.field import field_of
from pathotune_pipeline.models.folder import Answer, Model
from pathotune_pipeline.models.heat_geojson import band_features, collection, tile_features
from pathotune_pipeline.models.heat_picture import Caption, write_heat_picture
from pathotune_pipeline.models.heat_tiff import pick_downsample, write_heat_tiff
from pathotune_pipeline.models.inputs import InputSlide
from pathotune_pipeline.models.table import verdict
from pathotune_pipeline.models.top_tiles import ranked, read_ranked, write_sheet
from pathotune_pipeline.reports.overlay import decode_thumbnail, percentiles
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.store.store import CommitRecord, FeatureStore
from pathotune_pipeline.tiles.grid import TileGrid

Status = Literal["drawn", "skipped", "failed"]
MEANING = (
    "Colour: percentile of a tile's attention among all tiles of this slide. It says what the head weighed, no more."
)


class HeatmapSpec(Spec):
    """What is drawn of a slide's attention."""

    picture_px: int = setting(900, "Long side of each panel of the PNG, in pixels.", ge=100, le=8000)
    tile_map_px: int = setting(16, "Least pixels that a tile is wide on the TIFF; more makes it finer.", ge=1, le=1024)
    bands: tuple[float, ...] = setting(
        (0.5, 0.75, 0.9, 0.95), "Percentiles, 0 to 1, from which on the GeoJSON's bands begin.", min_length=1
    )
    geojson_tiles: int = setting(
        20_000, "A slide with more tiles has bands alone in its GeoJSON, and no object for each tile.", ge=0
    )
    top_tiles: int = setting(16, "Tiles of the most, and as many of the least attention on the sheet.", ge=1, le=400)
    device: str = setting("auto", "Where the heads run: auto, cpu, cuda, cuda:1, mps.", hashed=False)


@dataclass(frozen=True, slots=True)
class HeatmapOutcome:
    """What became of one slide.

    Attributes:
        slide_id: whose.
        status: drawn, skipped (it has no tile) or failed.
        reason: why not drawn; of a drawn one, what is missing.
        files: that were written.
    """

    slide_id: str
    status: Status
    reason: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Drawing:
    """All that the pictures of one slide are made from."""

    slide_id: str
    grid: TileGrid
    answer: Answer
    attention: np.ndarray
    levels: np.ndarray
    level0: Size
    mpp: Mpp
    thumbnail: np.ndarray


def draw_heatmaps(
    model: Model,
    store: FeatureStore,
    inputs: Sequence[InputSlide],
    out: Path,
    spec: HeatmapSpec,
    *,
    slides: Manifest | None = None,
    overwrite: bool = False,
) -> list[HeatmapOutcome]:
    """Draw slides into a folder, each whole or not at all; one that fails does not stop the others.

    Args:
        model: with attention.
        store: holds features of the model's recipe.
        inputs: which slides.
        out: folder; made if it is new. Files are named after slide ids.
        spec: what is drawn.
        slides: where the slides' files lie; without, there are no sheets of tiles.
        overwrite: whether older files may be replaced.

    Raises:
        UsageError: the head has no attention, or the folder cannot be written.
    """
    check_attention(model)
    _check_bands(spec.bands)
    items = {item.slide_id: item for item in slides.items} if slides else {}
    cache = IdentityCache(store.identity_file)
    outcomes = []
    with Outbox(out, overwrite=overwrite) as outbox:
        for each in inputs:
            if each.record is None or each.failed or not each.record.facts["tiles"]:
                status: Status = "failed" if each.failed else "skipped"
                outcomes.append(HeatmapOutcome(each.slide_id, status, each.reason or "it has no tiles"))
                continue
            try:
                drawing = _prepare(model, store, each.record, each.case_id)
                files = _files(model, drawing, spec)
                item, missing = items.get(each.slide_id), ""
                if item is not None:
                    identity = str(each.record.facts.get("identity") or "")
                    files[f"{key_of(each.slide_id)}.tiles.png"] = _sheet(model, drawing, spec, item, identity, cache)
                elif slides is not None:
                    missing = "no sheet of tiles: --slides has no such slide"
                outbox.put(files)
                outcomes.append(HeatmapOutcome(each.slide_id, "drawn", missing, tuple(files)))
            except PathotuneError as error:
                item = items.get(each.slide_id)
                told = redact(str(error), item.path, each.slide_id) if item else str(error)
                outcomes.append(HeatmapOutcome(each.slide_id, "failed", told))
    return outcomes


def check_attention(model: Model) -> None:
    """Make sure that the model's head says what it weighs.

    Raises:
        UsageError: it does not; the message names the heads that do.
    """
    dim = model.card.features.dim
    tiles = torch.zeros((2, dim))
    if model.answer(Bag(tiles, np.zeros((2, 2), np.int64), "", "")).attention is None:
        raise UsageError(
            f"--model {model.folder}: its head, {model.card.head}, has no attention to be drawn. Heads that have: "
            f"{', '.join(heads_with_attention())}."
        )


def heads_with_attention() -> list[str]:
    """Names of the heads that give attention, found out by asking each."""
    found = []
    for name in HEADS.names():
        with contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
            head = create_head(name, in_dim=8, n_classes=2).eval()
            if head(BagBatch.of(torch.zeros((4, 8)))).attention is not None:
                found.append(name)
    return found


def _check_bands(bands: Sequence[float]) -> None:
    if list(bands) != sorted(set(bands)) or not 0 <= bands[0] <= bands[-1] < 1:
        raise UsageError(f"heatmap.bands: {list(bands)} must rise, from 0 or more to less than 1.")


def _prepare(model: Model, store: FeatureStore, record: CommitRecord, case_id: str) -> _Drawing:
    answer = model.answer(read_bag(store, record, case_id=case_id))
    valid = store.read(record, "valid").astype(bool)
    grid = load_grid(store, record.made_from("tiles"))
    tissue = record.made_from("tissue")
    facts: Any = dict(store.group(tissue).attrs)
    attention = np.asarray(answer.attention)
    return _Drawing(
        record.slide_id,
        replace(grid, coords=grid.coords[valid], tissue_fraction=grid.tissue_fraction[valid]),
        answer,
        attention,
        percentiles(attention),
        Size(int(facts["level0_width"]), int(facts["level0_height"])),
        Mpp(float(facts["level0_mpp_x"]), float(facts["level0_mpp_y"])),
        decode_thumbnail(store.read(tissue, "thumbnail_jpeg")),
    )


def _files(model: Model, drawing: _Drawing, spec: HeatmapSpec) -> dict[str, Write]:
    """What is written of a slide, by name."""
    grid, key = drawing.grid, key_of(drawing.slide_id)
    field = field_of(grid.coords, grid.extent_level0, drawing.levels)
    step = pick_downsample(grid.extent_level0, spec.tile_map_px)

    def picture(path: Path) -> None:
        write_heat_picture(
            path, drawing.thumbnail, field, level0=drawing.level0, mpp=drawing.mpp, long_side=spec.picture_px,
            caption=Caption(_title(model, drawing), MEANING),
        )  # fmt: skip

    def geojson(path: Path) -> None:
        features = band_features(field, spec.bands)
        if len(grid) <= spec.geojson_tiles:
            features += tile_features(
                grid.coords, grid.extent_level0, attention=drawing.attention, levels=drawing.levels
            )
        path.write_text(json.dumps(collection(features), separators=(",", ":")))

    return {
        f"{key}.csv": lambda path: _write_csv(path, drawing),
        f"{key}.geojson": geojson,
        f"{key}.tif": lambda path: write_heat_tiff(
            path, field, level0=drawing.level0, mpp=drawing.mpp, downsample=step
        ),
        f"{key}.png": picture,
    }


def _sheet(
    model: Model, drawing: _Drawing, spec: HeatmapSpec, item: SlideItem, identity: str, cache: IdentityCache
) -> Write:
    """Read the tiles now, so that a slide that cannot be read has no files at all; what writes the sheet."""
    found = cache.get(item.path) or content_hash(item.path)
    if identity and found != identity:
        raise SlideChangedError("its file is not the one that its features were made of. Extract it again.")
    color = ((model.card.features.extraction or {}).get("slide") or {}).get("color", "raw")
    slide = open_slide(item.path, SlideSpec(color=color))
    parts = []
    try:
        half = len(drawing.grid) / 2  # no tile stands in both parts
        for heading, highest, most in (("most attention", True, ceil(half)), ("least attention", False, floor(half))):
            count = min(spec.top_tiles, most)
            chosen = ranked(drawing.grid, drawing.attention, count=count, highest=highest)
            tiles = read_ranked(slide, drawing.grid, chosen, attention=drawing.attention, levels=drawing.levels)
            parts.append((f"{heading}: {len(tiles)} of {len(drawing.grid)} tiles", tiles))
    finally:
        slide.close()
    title = f"{_title(model, drawing)}   {drawing.grid.tile_px} px at {drawing.grid.mpp:g} um/px"
    return lambda path: write_sheet(path, parts, title=title)


def _title(model: Model, drawing: _Drawing) -> str:
    said = []
    for target in model.card.targets:
        values = drawing.answer.values[target.name]
        word = verdict(target, values)
        likely = f" {values.max():.2f}" if target.classes and target.kind != "multilabel" else ""
        said.append(f"{target.name}: {word}{likely}" if word else f"{target.name}: {values[0]:.3g}")
    return f"{drawing.slide_id}   {'; '.join(said)}   {model.card.head}, model {model.short}, {model.card.intended_use}"


def _write_csv(path: Path, drawing: _Drawing) -> None:
    width, height = drawing.grid.extent_level0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["x", "y", "width", "height", "attention", "percentile"])
        for (x, y), raw, level in zip(
            drawing.grid.coords.tolist(), drawing.attention.tolist(), drawing.levels.tolist(), strict=True
        ):
            writer.writerow([x, y, f"{width:g}", f"{height:g}", repr(raw), f"{100 * level:.3f}"])
