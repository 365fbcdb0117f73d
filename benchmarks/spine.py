"""One 16k x 16k slide from file to committed features: seconds by stage, and tiles/s against what bounds them.

Rivals: (a) a plain OpenSlide loop that only reads the same coordinates, on one thread and on as many as we use;
(b) the bare encoder on tiles that lie in memory already, on as many threads.

    python benchmarks/spine.py [--quick] [--size-px 16384]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import torch
from timing import in_turns, median_ratio, row

from pathotune_pipeline.archive.manifest import SlideItem
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.execution.executor import usable_cores
from pathotune_pipeline.features.persist import load_grid
from pathotune_pipeline.features.plan import ExtractSpec, SlideJob, make_recipe
from pathotune_pipeline.features.worker import process_slide
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tiles.read import read_tiles

BENCH = "spine"
STAGES = ("identity_s", "open_s", "tissue_s", "grid_s", "read_s", "encode_s", "stream_s", "commit_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a slide of 8192 px; under 3 minutes")
    parser.add_argument("--size-px", type=int, default=None)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    side = arguments.size_px or (8192 if arguments.quick else 16384)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), side, arguments.pairs)


def run(folder: Path, side: int, pairs: int) -> None:
    path = folder / "slide.tif"
    write_slide(path, size_px=(side, side), seed=1, levels=5)
    threads = usable_cores()
    spec = ExtractSpec()
    encoder = create_encoder(spec.encoder)
    recipe = make_recipe(spec, encoder.card, encoder.recipe())
    outcomes = []

    def whole() -> None:
        store = FeatureStore(folder / "store")
        shutil.rmtree(store.root, ignore_errors=True)
        store.initialise()
        outcomes.append(process_slide(SlideJob(SlideItem("slide.tif", path), None, recipe, store.root, threads)))
        assert outcomes[-1].status == "committed", outcomes[-1]

    whole()
    store = FeatureStore(folder / "store")
    (record,) = store.records(recipe.tiles_set).values()
    grid = load_grid(store, record)
    count, size = len(grid.coords), encoder.batch_size
    starts = range(0, count, size)
    in_memory = torch.zeros((size, grid.tile_px, grid.tile_px, 3), dtype=torch.uint8)
    slide = open_slide(path)
    read_tiles(slide, grid, 0, min(size, count), in_memory.numpy()[: min(size, count)])

    def openslide_loop(workers: int) -> None:
        handle = openslide.OpenSlide(str(path))
        extent = grid.read_size_px

        def read(corner: np.ndarray) -> int:
            return np.asarray(
                handle.read_region((int(corner[0]), int(corner[1])), grid.level, extent).convert("RGB")
            ).size

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(read, grid.coords))
        handle.close()

    def bare_encoder() -> None:
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            list(pool.map(lambda _: encoder.encode(in_memory), starts))

    def our_reading() -> None:
        def read(start: int) -> None:
            out = np.empty((size, grid.tile_px, grid.tile_px, 3), np.uint8)
            stop = min(start + size, count)
            read_tiles(slide, grid, start, stop, out[: stop - start])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, starts))

    taken = in_turns(
        {
            "whole": whole,
            "openslide, 1 thread": lambda: openslide_loop(1),
            f"openslide, {threads} threads": lambda: openslide_loop(threads),
            "bare encoder": bare_encoder,
            "our reading": our_reading,
        },
        pairs,
    )
    rivals = ["openslide, 1 thread", f"openslide, {threads} threads"]
    for stage in STAGES:
        row(BENCH, f"{side} px: {stage}", statistics.median(o.stages.get(stage, 0.0) for o in outcomes[-pairs:]), "s")
    row(BENCH, f"{side} px: whole slide", statistics.median(taken["whole"]), "s")
    speeds = {name: count / statistics.median(times) for name, times in taken.items()}
    against = {name: median_ratio(taken[name], taken["whole"]) for name in [*rivals, "bare encoder"]}
    row(BENCH, f"{side} px: file to committed features, {threads} threads", speeds["whole"], "tiles/s", against)
    reading = {name: median_ratio(taken[name], taken["our reading"]) for name in rivals}
    row(BENCH, f"{side} px: our reading alone, {threads} threads", speeds["our reading"], "tiles/s", reading)
    for name in [*rivals, "bare encoder"]:
        row(BENCH, f"{side} px: {name}", speeds[name], "tiles/s")


if __name__ == "__main__":
    main()
