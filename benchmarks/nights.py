"""The morning after: the night's page over many slides, how soon it is seen, and a night in which nothing is new.

Slides of the first part are copies of a few drawn ones with numbers of their own; those of the second come out of memory, as in
`simulate.py`, and are extracted by real workers first.

    python benchmarks/nights.py [--quick] [--slides 5000] [--quiet 10000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simulate
from timing import row

from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
from pathotune_pipeline.reports.nights.page import write_night
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

BENCH = "nights"
DRAWN = 12
LEVEL0, MPP, TILE_PX, DIM = (60_000, 40_000), 0.25, 512, 512
SETS = {
    "tissue": SetName("tissue", "8mpp", "a" * 12),
    "tiles": SetName("tiles", "256px-0.5mpp", "b" * 12),
    "features": SetName("features", "drawn-256px-0.5mpp", "c" * 12),
}
GROUPS = [("H&E", "AT2"), ("H&E", "P1000"), ("Ki-67", "AT2")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 and 200 slides; under a minute")
    parser.add_argument("--slides", type=int, default=None)
    parser.add_argument("--quiet", type=int, default=None)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    slides = arguments.slides or (500 if arguments.quick else 5000)
    quiet = arguments.quiet or (200 if arguments.quick else 10_000)
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), slides)
        quiet_night(Path(folder), quiet, arguments.workers)


def report(folder: Path, slides: int) -> None:
    """A first night of many slides, and a second one with a twentieth of them."""
    store = FeatureStore(folder / "drawn")
    store.initialise()
    drawn = [draw(store, index) for index in range(DRAWN)]
    rng = np.random.default_rng(0)
    for number in range(slides):
        copy(store, drawn[number % DRAWN], f"case-{number // 2}%2Fslide-{number:05}.svs", rng)
    names = sorted(store.records(SETS["features"]))
    write_run(store, "20260101T220000Z", names, set())
    case = f"page of {slides} new slides"
    seconds, cpu, page = built(store, folder / "out")
    row(BENCH, f"{case}: built in", seconds, "s", cpu_s=cpu)
    row(BENCH, f"{case}: size", page.stat().st_size / 1e6, "MB")
    row(BENCH, f"{case}: first contentful paint", 1e3 * first_paint(page), "ms")
    time.sleep(1.1)  # a run's time has whole seconds
    began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    later = [f"late-{number:05}.svs" for number in range(slides // 20)]
    for number, name in enumerate(later):
        copy(store, drawn[number % DRAWN], name, rng)
    write_run(store, began, [*names, *later], {*names})
    seconds, cpu, page = built(store, folder / "out")
    row(BENCH, f"page of {len(later)} new slides among {slides}: built in", seconds, "s", cpu_s=cpu)
    row(BENCH, f"page of {len(later)} new slides among {slides}: size", page.stat().st_size / 1e6, "MB")


def built(store: FeatureStore, out: Path) -> tuple[float, float, Path]:
    """Wall seconds, processor seconds, and the page."""
    began, busy = time.perf_counter(), time.process_time()
    page = write_night(store.root, out)
    return time.perf_counter() - began, time.process_time() - busy, page


def quiet_night(folder: Path, slides: int, workers: int) -> None:
    """Extract once, then again with nothing to do, and write that night's page."""
    import dask

    simulate.dask_setup(None)
    dask.config.set({"distributed.worker.preload": [str(Path(simulate.__file__).resolve())]})
    (folder / "quiet").mkdir()
    listed = simulate.manifest(folder / "quiet", slides, first=0, deadly=0)
    store = folder / "quiet-store"
    with create_executor(ExecutionSpec(executor="local", workers=workers), gpus=False) as executor:
        simulate.simulate(store, listed, executor)
        time.sleep(1.1)
        again, seconds, _ = simulate.simulate(store, listed, executor)
    if again.counts()["computed"]:
        raise SystemExit(f"a second run computed {again.counts()['computed']} slides")
    began = time.perf_counter()
    page = write_night(store, folder / "quiet-out")
    told = time.perf_counter() - began
    print(f"{page.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    row(BENCH, f"night with nothing new, {slides} slides", seconds + told, "s", extract_s=seconds, report_s=told)


def first_paint(page: Path) -> float:
    """Seconds to Chromium's first contentful paint, the median of five."""
    from playwright.sync_api import sync_playwright

    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    script = "performance.getEntriesByName('first-contentful-paint').map(each => each.startTime)"
    found = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=where, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(5):
            shown = browser.new_page(viewport={"width": 1400, "height": 900})
            shown.goto(page.as_uri())
            while not (times := shown.evaluate(script)):
                time.sleep(0.01)
            found.append(times[0] / 1e3)
            shown.close()
        browser.close()
    return float(np.median(found))


# --- slides --------------------------------------------------------------------------------------------------------


def draw(store: FeatureStore, index: int) -> dict[str, CommitRecord]:
    """One slide as extraction commits it: a thumbnail of 1024 px, a mask, some thousand tiles, features."""
    rng = np.random.default_rng(index)
    slide_id = f"drawn-{index}"
    mask = np.zeros((LEVEL0[1] // 32, LEVEL0[0] // 32), np.uint8)
    for _ in range(4):
        centre = (int(rng.uniform(0.2, 0.8) * mask.shape[1]), int(rng.uniform(0.2, 0.8) * mask.shape[0]))
        cv2.ellipse(mask, centre, (int(rng.uniform(200, 420)), int(rng.uniform(150, 300))), 30, 0, 360, 1, -1)
    image = np.where(
        cv2.resize(mask, (1024, 683))[..., None] > 0, rng.integers(100, 230, (683, 1024, 3)), np.uint8(243)
    )
    image = cv2.GaussianBlur(image.astype(np.uint8), (0, 0), 1.5)
    every = np.stack(
        np.meshgrid(np.arange(0, LEVEL0[0] - TILE_PX, TILE_PX), np.arange(0, LEVEL0[1] - TILE_PX, TILE_PX)), -1
    )
    coords = every.reshape(-1, 2)
    coords = coords[mask[coords[:, 1] // 32, coords[:, 0] // 32] > 0].astype(np.int64)
    jpeg = cv2.imencode(".jpg", image)[1].reshape(-1)
    geometry = {"tile_px": 256, "mpp": 0.5, "extent_level0": [TILE_PX, TILE_PX], "enlargement": 0.0}
    level0 = {"level0_width": LEVEL0[0], "level0_height": LEVEL0[1], "level0_mpp_x": MPP, "level0_mpp_y": MPP}
    parts: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
        "tissue": (
            {"mask": mask, "geojson": np.frombuffer(b"{}", np.uint8), "thumbnail_jpeg": jpeg},
            {
                **level0,
                "area_um2": float(mask.sum()) * 64,
                "share": float(mask.mean()),
                "mask_mpp_x": 8.0,
                "mask_mpp_y": 8.0,
            },
        ),
        "tiles": (
            {"coords": coords, "tissue_fraction": np.ones(len(coords), np.float32)},
            {"tiles": len(coords), "geometry": geometry},
        ),
        "features": (
            {"features": rng.normal(size=(len(coords), DIM)).astype(np.float16), "valid": np.ones(len(coords), bool)},
            {"tiles": len(coords), "invalid_tiles": 0, "dim": DIM, "reason": ""},
        ),
    }
    made = {}
    for stage, (arrays, facts) in parts.items():
        fingerprint = hashlib.sha256(f"{stage}{slide_id}".encode()).hexdigest()
        head = {"slide_id": slide_id, "set": str(SETS[stage]), "fingerprint": fingerprint, **facts}
        with store.stage(slide_id, slide_id, SETS[stage], fingerprint) as staged:
            for name, data in arrays.items():
                staged.put(name, data)
            staged.commit(head, head)
        made[stage] = store.record(SETS[stage], slide_id, fingerprint)
        store.place.delete(f"commits/{SETS[stage]}/{slide_id}@{fingerprint[:12]}.json")
    return made


def copy(store: FeatureStore, drawn: dict[str, CommitRecord], slide_id: str, rng: np.random.Generator) -> None:
    """Another slide with the same arrays (hard links), and numbers of its own."""
    stain, scanner = GROUPS[int(rng.integers(len(GROUPS)))]
    vector = np.abs(np.array([0.65, 0.7, 0.29]) + rng.normal(0, 0.01, 3))
    quality = {
        "blur_share": float(abs(rng.normal(0, 0.05))), "fold_share": 0.0, "pen_share": 0.0, "hematoxylin": vector.tolist(),
        "eosin": [0.07, 0.99, 0.11], "background": [241.0, 241.0, 242.0], "area_mm2": 3.0, "coverage": 0.2,
    }  # fmt: skip
    groups = {stage: f"{slide_id}/{record.group.partition('/')[2]}" for stage, record in drawn.items()}
    for stage, record in drawn.items():
        there = store.data / groups[stage]
        shutil.copytree(store.data / record.group, there, copy_function=os.link)
        if stage == "tissue":
            meta = json.loads((there / "zarr.json").read_text())
            meta["attributes"] |= {"slide_id": slide_id, "quality": quality}
            (there / "zarr.json").unlink()
            (there / "zarr.json").write_text(json.dumps(meta))
    facts = {
        **drawn["features"].facts, "slide_id": slide_id, "group": groups["features"], "identity": slide_id,
        "committed_ns": time.time_ns(), "context": {"stain": stain, "scanner": scanner},
        "flags": ["30 % of the tissue is blurred"] if rng.random() < 0.05 else [],
    }  # fmt: skip
    for stage in ("tissue", "tiles"):
        facts |= {f"{stage}_group": groups[stage], f"{stage}_fingerprint": drawn[stage].fingerprint}
    name = f"commits/{SETS['features']}/{slide_id}@{drawn['features'].fingerprint[:12]}.json"
    store.place.create(name, json.dumps(facts).encode(), durable=False)


def write_run(store: FeatureStore, stamp: str, names: list[str], known: set[str]) -> None:
    """A run's record, of a night that made what was not known."""
    started = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:16]}"
    stages = {"read_s": 4.0, "encode_s": 8.0, "tissue_s": 1.0, "commit_s": 0.2}
    lines = [
        {
            "slide_id": name, "status": "committed", "new": name not in known, "tiles": 2000, "seconds": 13.0,
            "stages": {} if name in known else stages, "identity": name, "facts": {},
        }
        for name in names
    ]  # fmt: skip
    folder = store.root / "runs" / f"{stamp}-abc123"
    folder.mkdir()
    record = {
        "run_id": folder.name,
        "verb": "extract",
        "started": started,
        "finished": started,
        "features": str(SETS["features"]),
    }
    (folder / "run.json").write_text(json.dumps({**record, "slides": len(names), "settings": {}}))
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
