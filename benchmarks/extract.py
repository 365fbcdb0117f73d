"""The engine against what bounds it: the bare encoder on tiles in memory, the reader alone, one large slide, one encoder.

Networks have random weights. Contenders take turns in one process, warm; every figure is a median over pairs, and a
ratio is our speed over theirs.

    python benchmarks/extract.py [--quick] [--pairs 5] [--only vit,resnet,null,biopsies,biopsies-resnet,two,overhead,memory]
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
import zarr
from timing import in_turns, median_ratio, row

from pathotune_pipeline.archive.identity import content_hash
from pathotune_pipeline.archive.manifest import Manifest, read_manifest
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.create import ENCODERS, create_encoder
from pathotune_pipeline.execution.executor import usable_cores
from pathotune_pipeline.execution.serial import SerialExecutor
from pathotune_pipeline.features.engines import engine_of
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.persist import load_grid
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.resident import HostLane, Resident
from pathotune_pipeline.features.stream import Part, RowWriter, Sink
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tiles.read import read_tiles

BENCH = "extract"
THREADS = usable_cores()
TILE_PX = 256
NETWORKS = {"bench-vit-s": "vit_small_patch16_224", "bench-resnet18": "resnet18", "bench-resnet10": "resnet10t"}
Work = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """How much is done: tiles of the large slide for each network, biopsies, slides of the walks, scenes along a side
    of the mosaic, side of the slide that is read alone."""

    vit: int
    resnet: int
    biopsies: int
    biopsy_px: int
    walk: int
    mosaic: int
    long_px: int
    pairs: int


class Null(torch.nn.Module):
    """An encoder that costs nothing."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.zeros((len(batch), 8))


def build(spec: EncoderSpec) -> tuple[torch.nn.Module, EncoderCard]:
    card = EncoderCard(name=spec.name, source="built-in", architecture=spec.name, dim=8, tile_px=TILE_PX)
    if spec.name == "bench-null":
        return Null(), card.with_values(mean=None, std=None)
    import timm

    torch.manual_seed(0)
    return timm.create_model(NETWORKS[spec.name], num_classes=8), card.with_values(input_px=224)


for _name in (*NETWORKS, "bench-null"):
    ENCODERS.add(_name, build)


def read_all(path: Path, grid: TileGrid, *, size: int, threads: int) -> None:
    """Read every tile of a slide into warm memory, and do nothing with it."""
    slide = open_slide(path)
    free = [np.empty((size, TILE_PX, TILE_PX, 3), np.uint8) for _ in range(threads)]

    def read(start: int) -> None:
        out, stop = free.pop(), min(start + size, len(grid))
        read_tiles(slide, grid, start, stop, out[: stop - start])
        free.append(out)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(0, len(grid), size)))
    slide.close()


def write_mosaic(path: Path, *, times: int, side: int = 4096, levels: int = 5) -> None:
    """A large slide of one scene set `times` by `times`, its JPEG blocks written again and again."""
    import tifffile

    scene = path.with_name("scene.tmp") / "scene.tif"
    write_slide(scene, size_px=(side, side), seed=1, levels=levels)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffFile(scene) as source, tifffile.TiffWriter(path, bigtiff=True) as made:
        for level, page in enumerate(source.pages[:levels]):
            handle, across = page.parent.filehandle, page.imagewidth // page.tilewidth
            blocks = list(handle.read_segments(page.dataoffsets, page.databytecounts))
            blocks = [block for block, _ in sorted(blocks, key=lambda each: each[1])]
            rows = [blocks[i : i + across] for i in range(0, len(blocks), across)]
            mosaic = (block for _ in range(times) for row in rows for _ in range(times) for block in row)
            made.write(
                mosaic,
                shape=(page.imagelength * times, page.imagewidth * times, 3),
                dtype=np.uint8,
                tile=(page.tilelength, page.tilewidth),
                photometric="ycbcr" if page.photometric == 6 else "rgb",
                compression="jpeg",
                subsampling=(2, 2),
                subfiletype=1 if level else 0,
                resolution=(20000 / 2**level, 20000 / 2**level),
                resolutionunit="CENTIMETER",
                metadata=None,
                jpegtables=page.jpegtables,
            )
    shutil.rmtree(scene.parent)


def cpu_in_turns(works: Mapping[str, Work], pairs: int) -> dict[str, list[float]]:
    """Processor seconds of each, taking turns, after a first round that is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(pairs + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if number:
                spent[name].append(time.process_time() - began)
    return spent


@contextmanager
def reading_and_encoding_counted() -> Iterator[list[float]]:
    """Processor seconds of each span of tiles that the engine reads, and of each batch that it encodes, in the block.

    What a run spends beside them is steadier than its difference to a reader that runs at another time.
    """
    spent: list[float] = []

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            began = time.thread_time()
            try:
                return work(*args, **more)
            finally:
                spent.append(time.thread_time() - began)

        return wrapped

    with (
        mock.patch("pathotune_pipeline.features.engine.read_tiles", counted(read_tiles)),
        mock.patch.object(HostLane, "launch", counted(HostLane.launch)),
    ):
        yield spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few tiles; under 3 minutes")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--biopsies", type=int, default=None)
    parser.add_argument("--only", default="vit,resnet,null,biopsies,two,overhead,memory", help="also biopsies-resnet")
    arguments = parser.parse_args()
    full = Sizes(512, 1024, 100, 3584, 500, 9, 16384, arguments.pairs)
    quick = Sizes(64, 128, 4, 1536, 60, 2, 8192, arguments.pairs)
    sizes = quick if arguments.quick else full
    sizes = replace(sizes, biopsies=arguments.biopsies or sizes.biopsies)
    chosen = arguments.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), sizes)
        cases: dict[str, Work] = {
            "vit": lambda: bench.against_bare("bench-vit-s", sizes.vit),
            "resnet": lambda: bench.against_bare("bench-resnet18", sizes.resnet),
            "null": bench.against_reader,
            "biopsies": lambda: bench.biopsies("stain-texture", sizes.pairs),  # so quick that a slide's own cost shows
            "biopsies-resnet": lambda: bench.biopsies("bench-resnet18", 1),  # ten minutes a turn
            "two": bench.two_encoders,
            "overhead": bench.overhead,
            "memory": bench.memory,
        }
        for name in chosen:
            cases[name]()
            bench.clear()


class Bench:
    """Slides, made once, and one case a method."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes
        self._number = itertools.count()
        self._made: dict[str, Manifest] = {}

    def manifest(self, name: str, count: int, side: int) -> Manifest:
        """So many slides of one side; all but the first are copies under other names."""
        key = f"{name}-{count}-{side}"
        if key not in self._made:
            first = self.folder / key / "0000.tif"
            write_slide(first, size_px=(side, side), seed=1, levels=4)
            for number in range(1, count):
                os.link(first, first.with_name(f"{number:04d}.tif"))
            self._made[key] = read_manifest(first.parent)
        return self._made[key]

    def large(self) -> Manifest:
        return self.manifest("large", 1, 8192)

    def run(self, manifest: Manifest, *names: str, most: int | None = None) -> ExtractResult:
        """From files to committed features, into a store of its own, which lies there until `clear`."""
        first, *also = names
        tiles = {"mpp": 0.5, "tile_px": TILE_PX, "min_tissue": 0.0, "max_tiles": most}
        spec = ExtractSpec.parse({"encoder": {"name": first, "also": also, "device": "cpu"}, "tiles": tiles})
        store = FeatureStore(self.folder / f"store{next(self._number)}")
        result = extract(manifest, spec, store, SerialExecutor(2))
        bad = [outcome for each in result.each() for outcome in each.outcomes if outcome.status != "committed"]
        if bad:
            raise SystemExit(f"{bad[0].slide_id}: {bad[0].reason}")
        return result

    def clear(self) -> None:
        """Take away what was written; nobody's time but the bench's."""
        for made in ("store", "grid"):
            for path in self.folder.glob(f"{made}*"):
                shutil.rmtree(path)

    def bare(self, name: str, tiles: int) -> Work:
        """The encoder on tiles that lie in memory, a thread a core."""
        encoder = create_encoder(EncoderSpec(name=name))
        draw = np.random.default_rng(0)
        shape = (encoder.batch_size, TILE_PX, TILE_PX, 3)
        batch = torch.from_numpy(draw.integers(0, 255, shape, dtype=np.uint8))

        def work() -> None:
            with ThreadPoolExecutor(THREADS, initializer=lambda: torch.set_num_threads(1)) as pool:
                list(pool.map(lambda _: encoder.encode(batch), range(0, tiles, encoder.batch_size)))

        return work

    def against_bare(self, name: str, tiles: int) -> None:
        manifest = self.large()
        contenders = {"ours": lambda: self.run(manifest, name, most=tiles), "bare encoder": self.bare(name, tiles)}
        taken = in_turns(contenders, self.sizes.pairs)
        rate = tiles / statistics.median(taken["ours"])
        ratios = {"bare encoder": median_ratio(taken["bare encoder"], taken["ours"])}
        row(BENCH, f"{NETWORKS[name]}, {tiles} tiles, file to committed features", rate, "tiles/s", ratios)

    def _grid(self, manifest: Manifest) -> TileGrid:
        tiles = {"mpp": 0.5, "tile_px": TILE_PX, "min_tissue": 0.0}
        store = FeatureStore(self.folder / f"grid{next(self._number)}")
        spec = ExtractSpec.parse({"encoder": {"name": "bench-null", "device": "cpu"}, "tiles": tiles})
        extract(manifest, spec, store, SerialExecutor(2))
        (tiles_set,) = store.sets("tiles")
        (record,) = store.records(tiles_set).values()
        return load_grid(store, record)

    def against_reader(self) -> None:
        """Reading, batching and writing with an encoder that costs nothing, against reading alone."""
        long = self.manifest("long", 1, self.sizes.long_px)
        grid, (item,) = self._grid(long), long.items
        # Batches of 32: with larger ones the ring falls out of this machine's cache, and the reader's own does not.
        resident = Resident(create_encoder(EncoderSpec(name="bench-null", batch_size=32)))
        size, threads = resident.batch_size, THREADS

        def ours() -> None:
            slide = open_slide(item.path)
            array = zarr.create_array(
                self.folder / "rows", shape=(len(grid), 8), chunks=(len(grid), 8), dtype="float16", overwrite=True
            )
            part = Part(grid, [Sink(resident, RowWriter(array))])
            engine_of(torch.device("cpu")).encode(slide, [part], threads=threads)
            slide.close()

        works: dict[str, Work] = {"ours": ours, "reader": lambda: read_all(item.path, grid, size=size, threads=threads)}
        taken = in_turns(works, self.sizes.pairs)
        rate = len(grid) / statistics.median(taken["ours"])
        row(
            BENCH,
            f"null encoder, stream of {len(grid)} tiles alone",
            rate,
            "tiles/s",
            {"reader": median_ratio(taken["reader"], taken["ours"])},
        )

    def biopsies(self, name: str, pairs: int) -> None:
        """Many small slides against a large one, by tiles/s."""
        count, side = self.sizes.biopsies, self.sizes.biopsy_px
        many, large = self.manifest("biopsies", count, side), self.manifest("long", 1, self.sizes.long_px)
        tiles = {"many": count * (side // TILE_PX) ** 2, "large": (self.sizes.long_px // TILE_PX) ** 2}
        taken = in_turns({"many": lambda: self.run(many, name), "large": lambda: self.run(large, name)}, pairs)
        rates = {each: [tiles[each] / seconds for seconds in taken[each]] for each in tiles}
        ratio = statistics.median(a / b for a, b in zip(rates["many"], rates["large"], strict=True))
        case = f"{count} biopsies of {tiles['many'] // count} tiles, {name}"
        row(BENCH, case, statistics.median(rates["many"]), "tiles/s", {f"one slide of {tiles['large']} tiles": ratio})

    def two_encoders(self) -> None:
        tiles, names = self.sizes.resnet, ("bench-resnet18", "bench-resnet10")
        manifest = self.large()
        works = {"ours": lambda: self.run(manifest, *names, most=tiles)}
        works |= {name: self.bare(name, tiles) for name in names}
        taken = in_turns(works, self.sizes.pairs)
        sums = [sum(times) for times in zip(*(taken[name] for name in names), strict=True)]
        rate = tiles / statistics.median(taken["ours"])
        case = f"two encoders in one pass, {tiles} tiles"
        row(BENCH, case, rate, "tiles/s", {"sum of both bare": median_ratio(sums, taken["ours"])})

    def overhead(self) -> None:
        """What a slide costs besides reading and encoding its tiles, in processor seconds: small slides, and a large one."""
        manifest = self.manifest("walk", self.sizes.walk, 512)
        spent = cpu_in_turns({"all": lambda: self.run(manifest, "bench-null")}, self.sizes.pairs)["all"]
        case = f"overhead of a slide, over {len(manifest)} of 4 tiles"
        row(BENCH, case, statistics.median(spent) / len(manifest), "CPU-s")

        path = self.folder / "mosaic" / "slide.tif"
        write_mosaic(path, times=self.sizes.mosaic)
        mosaic = read_manifest(path.parent)
        grid, (item,) = self._grid(mosaic), mosaic.items
        within: list[float] = []

        def run() -> None:
            with reading_and_encoding_counted() as spent:
                began = time.process_time()
                self.run(mosaic, "bench-null")
                within.append(time.process_time() - began - sum(spent))

        works: dict[str, Work] = {"all": run, "read": lambda: read_all(item.path, grid, size=64, threads=THREADS)}
        taken = cpu_in_turns(works, self.sizes.pairs)
        beside = statistics.median(a - b for a, b in zip(taken["all"], taken["read"], strict=True))
        row(
            BENCH,
            f"overhead of a slide of {len(grid)} tiles, its overview included",
            beside,
            "CPU-s",
            beside_own_reading_and_encoding=statistics.median(within[1:]),
            sha256_of_the_file=statistics.median(cpu_in_turns({"hash": lambda: content_hash(path)}, 3)["hash"]),
        )

    def memory(self) -> None:
        """Growth of this process's memory over a walk of slides, after its first tenth."""
        manifest, process = self.manifest("walk", self.sizes.walk, 512), psutil.Process()
        seen: list[int] = []
        tiles = {"mpp": 0.5, "tile_px": TILE_PX, "min_tissue": 0.0}
        spec = ExtractSpec.parse({"encoder": {"name": "bench-null", "device": "cpu"}, "tiles": tiles})
        extract(
            manifest, spec, FeatureStore(self.folder / "walk"), SerialExecutor(2),
            on_outcome=lambda _: seen.append(process.memory_info().rss),
        )  # fmt: skip
        growth = max(seen) - seen[len(seen) // 10]
        row(BENCH, f"memory over {len(seen)} slides, after the first tenth", growth / 1e6, "MB")


if __name__ == "__main__":
    main()
