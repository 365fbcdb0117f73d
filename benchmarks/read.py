"""Tiles from a warm tiled-JPEG slide of at least 16k x 16k px, against OpenSlide, tiffslide and libjpeg's own limit.

The limit is simplejpeg over the blocks that the tiles need, each once, from memory into one buffer. Contenders take
turns in one process; every figure is a median over pairs. `rss` walks the slide for as many tiles as `--walk`, in
passes, and says by how much the resident memory grew after the first tenth.

    python benchmarks/read.py [--quick] [--pairs 5] [--walk 100000] [--slide FILE]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openslide
import psutil
import simplejpeg
import tifffile
import tiffslide
from timing import in_turns, median_ratio, row

from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.slides.pyramid import RegionPlan, plan_region, read_planned
from pathotune_pipeline.slides.slide import Slide, SlideSpec
from pathotune_pipeline.testing.slides import write_slide

BENCH = "read"
MPP = 0.25
FAST_PASSES = 4
Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Tiles of one size and scale, in row order: a band of full rows of the slide."""

    name: str
    out_px: int
    factor: int
    tiles: int


CASES = (
    Case("256 aligned", 256, 1, 768),
    Case("224 unaligned", 224, 1, 876),
    Case("256 at half scale", 256, 2, 256),
    Case("224 at half scale", 224, 2, 252),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a walk of 20,000 tiles; under 3 minutes")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--walk", type=int, default=None, help="tiles of the memory walk")
    parser.add_argument("--slide", type=Path, help="a tiled-JPEG slide to read instead of a synthetic one")
    arguments = parser.parse_args()
    walk = arguments.walk or (20_000 if arguments.quick else 100_000)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.slide or make_slide(Path(folder))
        path.read_bytes()  # warm
        for case in CASES:
            for threads in (1, 2):
                compare(path, case, threads=threads, pairs=arguments.pairs)
        memory(path, walk)


def make_slide(folder: Path) -> Path:
    """16384 x 16384 px with levels 1, 4 and 16: 8192 px of drawn tissue in 2 x 2, 4:2:0, quality 80."""
    drawn, path = folder / "drawn.tif", folder / "slide.tif"
    write_slide(drawn, size_px=(8192, 8192), mpp=MPP, seed=1, levels=1)
    with tifffile.TiffFile(drawn) as tiff:
        quarter = tiff.pages[0].asarray()
    pixels = np.tile(quarter, (2, 2, 1))
    with tifffile.TiffWriter(path) as tiff:
        for index, factor in enumerate((1, 4, 16)):
            side = pixels.shape[0] // factor
            tiff.write(
                cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), tile=(256, 256), compression="jpeg",
                compressionargs={"level": 80}, photometric="rgb", subfiletype=1 if index else 0, metadata=None,
                resolution=(1e4 / MPP / factor,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


def places(size_px: tuple[int, int], case: Case) -> list[tuple[int, int]]:
    """Level-0 corners of the case's tiles: rows of the slide from its middle on."""
    step = case.out_px * case.factor
    across = size_px[0] // step
    first = (size_px[1] // 3) // step
    rows = -(-case.tiles // across)
    return [(x * step, (first + y) * step) for y in range(rows) for x in range(across)][: case.tiles]


def spread(tile: Callable[[tuple[int, int]], object], where: list[tuple[int, int]], pool: ThreadPoolExecutor) -> None:
    """Batches of 32 tiles in row order, as the stream of features takes them."""

    def batch(start: int) -> None:
        for place in where[start : start + 32]:
            tile(place)

    list(pool.map(batch, range(0, len(where), 32)))


def compare(path: Path, case: Case, *, threads: int, pairs: int) -> None:
    spec = SlideSpec(reader="jpeg")
    ours = open_slide(path, spec, mpp=MPP)
    plan = plan_region(ours.info, MPP * case.factor, (case.out_px, case.out_px))
    if plan.level:
        raise SystemExit(f"{case.name}: the slide has a level for it; this case is of reading from level 0")
    where = places((ours.info.size.width, ours.info.size.height), case)
    with ThreadPoolExecutor(threads) as pool:
        contenders = {
            "ours": ours_of(path, plan, where, pool),
            "openslide": openslide_of(path, case, where, pool),
            "tiffslide": tiffslide_of(path, case, where, pool),
            "limit": limit_of(path, plan, where, pool),
        }
        passes = {"ours": FAST_PASSES, "limit": FAST_PASSES}  # else a turn of theirs is too short to be timed well
        taken = in_turns({name: repeated(work, passes.get(name, 1)) for name, work in contenders.items()}, pairs)
    ours.close()
    taken = {name: [each / passes.get(name, 1) for each in times] for name, times in taken.items()}
    rate = len(where) / statistics.median(taken["ours"])
    ratios = {name: median_ratio(taken[name], taken["ours"]) for name in ("openslide", "tiffslide", "limit")}
    row(BENCH, f"{case.name}, {threads} thread{'s' * (threads > 1)}", rate, "tiles/s", ratios)


def ours_of(path: Path, plan: RegionPlan, where: list[tuple[int, int]], pool: ThreadPoolExecutor) -> Work:
    batch = np.empty((64, plan.size_px[1], plan.size_px[0], 3), np.uint8)

    def work() -> None:
        slide = open_slide(path, SlideSpec(reader="jpeg"), mpp=MPP)  # a cold cache each time
        spread(lambda at: read_planned(slide, plan, location=at, out=batch[(at[0] // 64 + at[1]) % 64]), where, pool)
        slide.close()

    return work


def repeated(work: Work, passes: int) -> Work:
    def several() -> None:
        for _ in range(passes):
            work()

    return several


def scaled(pixels: np.ndarray, side: int) -> np.ndarray:
    return pixels if pixels.shape[0] == side else cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def openslide_of(path: Path, case: Case, where: list[tuple[int, int]], pool: ThreadPoolExecutor) -> Work:
    side = case.out_px * case.factor

    def work() -> None:
        with openslide.OpenSlide(path) as slide:
            spread(
                lambda at: scaled(np.asarray(slide.read_region(at, 0, (side, side)).convert("RGB")), case.out_px),
                where, pool,
            )  # fmt: skip

    return work


def tiffslide_of(path: Path, case: Case, where: list[tuple[int, int]], pool: ThreadPoolExecutor) -> Work:
    side = case.out_px * case.factor
    with tiffslide.TiffSlide(path) as slide:
        slide.read_region((0, 0), 0, (1, 1), as_array=True)

    def work() -> None:
        with tiffslide.TiffSlide(path) as slide:
            spread(
                lambda at: scaled(slide.read_region(at, 0, (side, side), as_array=True), case.out_px), where, pool
            )  # fmt: skip

    return work


def limit_of(path: Path, plan: RegionPlan, where: list[tuple[int, int]], pool: ThreadPoolExecutor) -> Work:
    width, height = plan.read_size_px
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        across, size = -(-page.imagewidth // page.tilewidth), (page.tilelength, page.tilewidth, 3)
        needed = {
            row * across + column
            for x, y in where
            for row in range(y // size[0], -(-(y + height) // size[0]))
            for column in range(x // size[1], -(-(x + width) // size[1]))
        }
        data = []
        for index in sorted(needed):
            tiff.filehandle.seek(page.dataoffsets[index])
            data.append(tiff.filehandle.read(page.databytecounts[index]))

    own = threading.local()  # one buffer a thread, written before the clock starts

    def batch(start: int) -> None:
        if not hasattr(own, "out"):
            own.out = np.zeros(size, np.uint8)
        for one in data[start : start + 32]:
            simplejpeg.decode_jpeg(one, "RGB", buffer=own.out)

    return lambda: list(pool.map(batch, range(0, len(data), 32)))


def memory(path: Path, walk: int) -> None:
    slide: Slide = open_slide(path, SlideSpec(reader="jpeg"), mpp=MPP)
    plan = plan_region(slide.info, MPP, (224, 224))
    out = np.empty((32, 224, 224, 3), np.uint8)
    across, down = slide.info.size.width // 224, slide.info.size.height // 224
    process = psutil.Process()
    after_tenth = most = 0

    def tile(number: int) -> None:
        at = number % (across * down)
        read_planned(slide, plan, location=(at % across * 224, at // across * 224), out=out[number % 32])

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, walk, walk // 100):
            list(pool.map(tile, range(start, min(walk, start + walk // 100)), chunksize=32))
            resident = process.memory_info().rss
            if start < walk // 10:
                after_tenth = resident
            most = max(most, resident if start >= walk // 10 else 0)
    slide.close()
    row(BENCH, f"resident memory over {walk} tiles, growth after the first tenth", (most - after_tenth) / 1e6, "MB")


if __name__ == "__main__":
    main()
