"""The main job end to end, as commands: what is computed, what is not, what a kill costs, who sees which name."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import bits, pathotune, start  # type: ignore[import-not-found]

EXTRACT = ("extract", "--tile-px", 128, "--json")
FAILPOINTS = (
    "features.batch:2", "features.chunk", "store.placed:3", "store.committed:3",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("tissue.committed", "tiles.committed", "store.staged:2", "store.staged:6", "store.placed:8")
    ),
)  # fmt: skip


def extract(
    archive: Path, store: Path, *more: object, failpoint: str | None = None
) -> subprocess.CompletedProcess[str]:
    return pathotune(*EXTRACT, "--slides", archive, "--store", store, *more, failpoint=failpoint)


@pytest.fixture(scope="module")
def reference(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bits of an uninterrupted serial run."""
    store = tmp_path_factory.mktemp("reference") / "store"
    done = extract(small_archive, store, "--executor", "serial")
    assert done.returncode == 3, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert (counts["slides"], counts["committed"], counts["failed"]) == (7, 6, 1)
    return bits(store)


def test_a_second_run_does_nothing_and_says_so(small_archive: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    extract(small_archive, store, "--executor", "serial")
    before = {path: path.stat().st_mtime_ns for path in (store / "data.zarr").rglob("*")}
    again = json.loads(extract(small_archive, store, "--executor", "serial").stdout)
    assert again["counts"]["computed"] == 0
    assert {path: path.stat().st_mtime_ns for path in (store / "data.zarr").rglob("*")} == before
    (tmp_path / "clean").mkdir()
    shutil.copytree(small_archive / "case-1", tmp_path / "clean" / "case-1")
    pathotune(
        "extract", "--tile-px", 128, "--slides", tmp_path / "clean", "--store", tmp_path / "two", "--executor", "serial"
    )
    said = pathotune(
        "extract", "--tile-px", 128, "--slides", tmp_path / "clean", "--store", tmp_path / "two", "--executor", "serial"
    )
    assert said.returncode == 0
    assert "none: everything asked for is in the store already" in said.stdout


def test_other_settings_are_computed_anew_and_the_old_features_stay_readable(
    small_archive: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    store = tmp_path / "store"
    extract(small_archive, store, "--executor", "serial")
    other = json.loads(extract(small_archive, store, "--executor", "serial", "--tile-px", 256).stdout)
    assert other["counts"]["computed"] == 6
    both = bits(store)
    assert reference.items() <= both.items()
    assert len([name for name in both if name.endswith("features")]) == 12
    tissue = [name for name in both if name.endswith("/mask")]
    assert len(tissue) == 6, "the tissue did not change and is not computed again"


def test_a_moved_or_renamed_archive_is_not_read_again_when_its_contents_are_known(
    small_archive: Path, tmp_path: Path
) -> None:
    store, moved = tmp_path / "store", tmp_path / "moved"
    extract(small_archive, store, "--executor", "serial")
    shutil.copytree(small_archive, moved)
    again = json.loads(extract(moved, store, "--executor", "serial").stdout)
    assert again["counts"]["computed"] == 0
    assert {outcome["status"] for outcome in again["outcomes"]} == {"committed", "failed"}


def test_a_replaced_file_under_the_same_name_is_computed(small_archive: Path, tmp_path: Path) -> None:
    archive, store = tmp_path / "archive", tmp_path / "store"
    archive.mkdir()
    shutil.copy(small_archive / "case-0" / "s0.tif", archive / "a.tif")
    extract(archive, store, "--executor", "serial")
    before = bits(store)
    shutil.copy(small_archive / "case-0" / "s1.tif", archive / "a.tif")
    assert json.loads(extract(archive, store, "--executor", "serial").stdout)["counts"]["computed"] == 1
    assert bits(store) != before


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_bits_do_not_depend_on_the_executor_or_the_number_of_workers(
    small_archive: Path, tmp_path: Path, reference: dict[str, str], workers: int
) -> None:
    done = extract(small_archive, tmp_path / "store", "--executor", "local", "--workers", workers)
    assert done.returncode == 3, done.stderr
    assert bits(tmp_path / "store") == reference


@pytest.mark.parametrize("threads", [1, 4])
def test_bits_do_not_depend_on_threads(
    small_archive: Path, tmp_path: Path, reference: dict[str, str], threads: int
) -> None:
    extract(small_archive, tmp_path / "store", "--executor", "serial", "--threads", threads)
    assert bits(tmp_path / "store") == reference


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_kill_at_a_named_place_then_a_second_run_gives_the_same_bits(
    small_archive: Path, tmp_path: Path, reference: dict[str, str], failpoint: str
) -> None:
    store = tmp_path / "store"
    killed = extract(small_archive, store, "--executor", "serial", failpoint=failpoint)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert bits(store).items() <= reference.items()
    again = extract(small_archive, store, "--executor", "serial")
    assert again.returncode == 3, again.stderr
    assert bits(store) == reference
    assert not list((store / "staging").rglob("zarr.json")), "what the killed run staged is cleared"


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    import psutil

    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_kills_of_the_process_or_a_worker(
    small_archive: Path, tmp_path: Path, reference: dict[str, str], seed: int
) -> None:
    """Odd seeds kill a Dask worker, even seeds the whole process group, at a random moment of the run."""
    draw, store = random.Random(seed), tmp_path / "store"
    process = start(small_archive, store, "--executor", "local", "--workers", 2)
    deadline = time.time() + 60
    while not (store / "runs").is_dir() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(draw.uniform(0.0, 6.0))
    if seed % 2:
        for pid in workers_of(process)[:1]:
            os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=300)
    if (store / "store.json").exists():
        assert bits(store).items() <= reference.items()
    again = extract(small_archive, store, "--executor", "serial")
    assert again.returncode == 3, again.stderr
    assert bits(store) == reference


def test_a_killed_worker_costs_no_slide(small_archive: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    store = tmp_path / "store"
    process = start(small_archive, store, "--executor", "local", "--workers", 2)
    deadline = time.time() + 120
    while not list(store.glob("commits/*/*.json")) and time.time() < deadline:
        time.sleep(0.02)
    victims = workers_of(process)
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 3, stderr
    assert json.loads(stdout)["counts"]["committed"] == 6
    assert bits(store) == reference


def test_two_extractions_at_once_commit_every_slide_once(
    small_archive: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    store = tmp_path / "store"
    both = [start(small_archive, store, "--executor", "serial") for _ in range(2)]
    for process in both:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 3, stderr
        assert json.loads(stdout)["counts"]["committed"] == 6
    assert bits(store) == reference
    assert len(list(store.glob("commits/features-*/*.json"))) == 6
    assert not list((store / "staging").rglob("zarr.json"))


def test_a_slide_with_damaged_tiles(tmp_path: Path) -> None:
    """Few damaged blocks are marked; many fail the slide; neither is ever a white tile."""
    import tifffile

    from pathotune_pipeline.store import open_store
    from pathotune_pipeline.testing.slides import write_slide

    truth = write_slide(tmp_path / "in" / "a.tif", size_px=(2048, 2048), seed=4)
    with tifffile.TiffFile(truth.path) as tif:
        page = tif.pages[0]
        offsets, counts = page.dataoffsets, page.databytecounts
    middle = len(offsets) // 2 + 4
    raw = bytearray(truth.path.read_bytes())
    raw[offsets[middle] : offsets[middle] + counts[middle]] = os.urandom(counts[middle])
    truth.path.write_bytes(raw)
    few = extract(tmp_path / "in", tmp_path / "store", "--executor", "serial", "--max-invalid", 0.2)
    (outcome,) = json.loads(few.stdout)["outcomes"]
    assert outcome["status"] == "committed", outcome
    assert 1 <= outcome["invalid_tiles"] <= 9
    store = open_store(tmp_path / "store")
    (features,) = store.sets("features")
    (record,) = store.records(features).values()
    valid, rows = store.read(record, "valid"), store.read(record, "features")
    assert int((~valid).sum()) == outcome["invalid_tiles"]
    assert not rows[~valid].any()
    assert rows[valid].any(axis=1).all()
    strict = extract(tmp_path / "in", tmp_path / "strict", "--executor", "serial", "--max-invalid", 0)
    assert strict.returncode == 3
    (outcome,) = json.loads(strict.stdout)["outcomes"]
    assert "cannot be read" in outcome["reason"]
    assert "--max-invalid" in outcome["reason"]


def test_real_slides_and_oddities(shared: Path, tmp_path: Path) -> None:
    """Every entry of the folder is committed, empty, or failed for a true reason."""
    done = extract(shared / "data" / "slides", tmp_path / "store", "--executor", "serial", "--mpp", 2.0)
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    outcomes = {outcome["slide_id"]: outcome for outcome in told["outcomes"]}
    counts = told["counts"]
    assert counts["slides"] == len(outcomes) == counts["committed"] + counts["empty"] + counts["failed"]
    for name in ("crc01.tif", "cmu-1-small-region.svs", "cmu-1-dicom", "two-pieces.tif"):
        assert outcomes[name]["status"] == "committed", outcomes[name]
    assert outcomes["tiny-16px.svs"]["status"] == "empty"
    assert "no tile fits" in outcomes["tiny-16px.svs"]["reason"]
    reasons = {
        "tcga-cr-7395-01a-01-ts1.svs": "no mpp",
        "flat-kidney.tif": "no mpp",
        "invalid-resolution.tif": "no mpp",
        "absurd-mpp.tiff": "outside 0.1-10",
        "camelyon-overview-j2k.dcm": "outside 0.1-10",
        "unopenable.tiff": "compression",
        "unreadable.svs": "decode",
    }
    for name, reason in reasons.items():
        assert outcomes[name]["status"] == "failed", outcomes[name]
        assert reason in outcomes[name]["reason"]
    assert [name for name in outcomes if name.startswith("cmu-1-dicom")] == ["cmu-1-dicom"]
    assert outcomes["fluorescence-dapi.ndpi"]["status"] == "empty"
    assert "fluorescence, not brightfield" in outcomes["fluorescence-dapi.ndpi"]["reason"]
    assert outcomes["fluorescence-dapi.ndpi"]["facts"]["illumination"] == "fluorescence"
    kinds = [reason for _, reason in told["passed_over"] if reason.endswith("image of a DICOM series: cmu-1-dicom")]
    assert len(kinds) == 3


def test_the_audits_manifest_is_taken_and_refused_slides_are_told(shared: Path, tmp_path: Path) -> None:
    """What the audit refuses fails without being opened; what it lets pass has the outcome it has without it."""
    slides, written = shared / "data" / "slides", tmp_path / "m.csv"
    audited = pathotune("audit", "--slides", slides, "--out", written, "--json")
    assert audited.returncode == 3, audited.stderr
    verdicts = {row["slide_id"]: row["verdict"] for row in json.loads(audited.stdout)["slides"]}
    done = extract(slides, tmp_path / "store", "--manifest", written, "--executor", "serial", "--mpp", 2.0)
    assert done.returncode == 3, done.stderr
    outcomes = {outcome["slide_id"]: outcome for outcome in json.loads(done.stdout)["outcomes"]}
    assert outcomes.keys() == verdicts.keys()
    for name, outcome in outcomes.items():
        refused = outcome["reason"].startswith("refused by the audit: ")
        assert refused == (verdicts[name] == "refuse"), outcome
        assert (outcome["status"] == "failed") == refused, outcome


def test_given_mpps_make_the_refused_ones_readable(shared: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,mpp\nflat-kidney.tif,2.0\nabsurd-mpp.tiff,1.0\ninvalid-resolution.tif,0.5\ntcga-cr-7395-01a-01-ts1.svs,0.5\n"
    )
    done = extract(
        shared / "data" / "slides", tmp_path / "s", "--manifest", manifest, "--executor", "serial", "--mpp", 2.0
    )
    outcomes = {outcome["slide_id"]: outcome for outcome in json.loads(done.stdout)["outcomes"]}
    assert outcomes["absurd-mpp.tiff"]["status"] == "committed"
    assert outcomes["tcga-cr-7395-01a-01-ts1.svs"]["status"] == "committed"
    assert outcomes["invalid-resolution.tif"]["status"] == "empty"
    assert outcomes["flat-kidney.tif"]["status"] in {"committed", "empty"}
    assert outcomes["absurd-mpp.tiff"]["facts"]["slide"]["mpp_source"] == "manifest"


def test_coordinates_are_int64_in_raster_order_and_readable_with_plain_zarr(
    small_archive: Path, tmp_path: Path
) -> None:
    import zarr

    extract(small_archive, tmp_path / "store", "--executor", "serial")
    root = zarr.open(tmp_path / "store" / "data.zarr", mode="r")
    seen = 0
    for _, slide in root.groups():
        groups = dict(slide.groups())
        features = next(group for name, group in groups.items() if name.startswith("features-"))
        tiles = root[features.attrs["tiles_group"]]
        coords = tiles["coords"][:]
        assert coords.dtype == np.int64
        assert (np.lexsort((coords[:, 0], coords[:, 1])) == np.arange(len(coords))).all()
        assert features["features"].dtype == np.float16
        assert features["features"].shape[0] == len(coords) == features["valid"].shape[0]
        assert features.attrs["encoder"]["name"] == "stain-texture"
        seen += 1
    assert seen == 6
