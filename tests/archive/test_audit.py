"""The audit against files that crash, hang and eat memory: each costs itself, and nothing is left unsaid."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from pathotune_pipeline.archive import Manifest, SlideItem, read_manifest
from pathotune_pipeline.archive.audit import AuditResult, AuditRow, AuditSpec, audit, manifest_csv
from pathotune_pipeline.archive.audit_child import regions
from pathotune_pipeline.archive.audit_pool import AuditChild
from pathotune_pipeline.geometry import Size
from pathotune_pipeline.slides.slide import Level, SlideInfo, SlideSpec

READER = """
import ctypes, os, time
import numpy as np
from pathotune_pipeline.errors import TileReadError, UnreadableSlideError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.slide import Level, SlideInfo

def open_evil(path):
    word = path.read_bytes()[:20].decode("latin-1").strip()
    if word == "segfault":
        ctypes.string_at(0)
    if word == "abort":
        os.abort()
    if word == "exit":
        os._exit(7)
    if word == "hang":
        time.sleep(600)
    if word == "native hang":
        ctypes.CDLL(None).sleep(600)
    if word == "memory":
        blocks = []
        while True:
            blocks.append(np.ones(50_000_000))
    if word == "raise":
        raise RuntimeError("nobody expects " + str(path))
    if word == "noise":
        os.write(1, b"rubbish on standard output\\n")
    if word in ("half", "hang later", "segfault later", "noise"):
        return Evil(word)
    raise UnreadableSlideError("not evil.")

class Evil:
    info = SlideInfo("evil", "evil", (Level(Size(4000, 3000), 1.0),), Mpp(0.5, 0.51), "openslide", None)
    def __init__(self, word):
        self.word = word
    def read_region(self, location, level, size):
        if self.word == "hang later":
            time.sleep(600)
        if self.word == "segfault later":
            ctypes.string_at(0)
        if self.word == "half" and size == (256, 256) and location[0] < 1300:
            raise TileReadError("damaged there.")
        return np.full((size[1], size[0], 3), 200, np.uint8)
    def close(self):
        pass
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive, and an installed plug-in reader that does what a slide's first word says."""
    site = tmp_path / "site"
    info = site / "evil_reader-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "evil_reader.py").write_text(READER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-reader\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pathotune_pipeline.readers]\nevil = evil_reader:open_evil\n")
    monkeypatch.syspath_prepend(site)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def put(folder: Path, *words: str) -> None:
    for word in words:
        (folder / f"{word.replace(' ', '-')}.svs").write_text(word)


def run(folder: Path, **settings: object) -> dict[str, AuditRow]:
    spec = AuditSpec.parse({"jobs": 2, **settings})
    result = audit(read_manifest(folder, rescans="all"), spec, SlideSpec())
    assert len(result.rows) == len({row.item.slide_id for row in result.rows})
    return {row.item.slide_id: row for row in result.rows}


def picture(path: Path, value: int = 200, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, np.full((600, 700, 3), value, np.uint8), tile=(256, 256), photometric="rgb",
        resolution=(20000, 20000), resolutionunit="CENTIMETER", metadata=None, **more,
    )  # fmt: skip
    return path


def test_a_crash_costs_one_file(evil: Path) -> None:
    put(evil, "segfault", "segfault later", "abort", "exit", "raise", "noise")
    picture(evil / "good.tif")
    rows = run(evil)
    told = {name: row.reasons[0] for name, row in rows.items() if row.refusals}
    assert told["segfault.svs"] == "opening it crashed its reader (SIGSEGV)"
    assert told["segfault-later.svs"] == "reading regions of it crashed its reader (SIGSEGV)"
    assert told["abort.svs"] == "opening it crashed its reader (SIGABRT)"
    assert told["exit.svs"] == "opening it crashed its reader (exit code 7)"
    assert told["raise.svs"].startswith("unexpected RuntimeError: nobody expects")
    assert str(evil) not in told["raise.svs"]
    assert rows["good.tif"].verdict == "ok", rows["good.tif"].reasons
    assert rows["noise.svs"].verdict == "warn"
    assert "not quite square" in rows["noise.svs"].reasons[0]


def test_a_hang_costs_one_file_and_its_time(evil: Path) -> None:
    put(evil, "hang", "native hang", "hang later")
    picture(evil / "good.tif")
    began = time.monotonic()
    rows = run(evil, time_limit_s=2.0)
    assert time.monotonic() - began < 60
    assert rows["hang.svs"].reasons == ["opening it took longer than 2 s and was stopped"]
    assert rows["native-hang.svs"].reasons == ["opening it took longer than 2 s and was stopped"]
    assert rows["hang-later.svs"].reasons == ["reading regions of it took longer than 2 s and was stopped"]
    assert rows["good.tif"].verdict == "ok"


def test_memory_costs_one_file(evil: Path) -> None:
    put(evil, "memory")
    picture(evil / "good.tif")
    rows = run(evil, memory_limit_gb=1.0, jobs=1)
    assert rows["memory.svs"].reasons == ["it needs more than 1 GB of memory"]
    assert rows["good.tif"].verdict == "ok"


def test_no_child_outlives_the_audit(evil: Path) -> None:
    import psutil

    put(evil, "hang")
    run(evil, time_limit_s=0.5)
    assert not [child for child in psutil.Process().children(recursive=True) if "audit_child" in str(child.cmdline())]


def test_a_child_ends_itself_where_nobody_kills_it(evil: Path) -> None:
    put(evil, "native hang")
    child = AuditChild()
    request = {
        "op": "look", "path": str(evil / "native-hang.svs"), "mpp": None, "slide": {}, "samples": 1, "seed": 0,
        "time_limit_s": -9.0, "memory_bytes": 4e9,
    }  # fmt: skip
    process = child._running()
    assert process.stdin is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    assert process.wait(timeout=30) < 0
    child.close()


def test_damaged_regions_are_counted_the_same_every_time(evil: Path) -> None:
    put(evil, "half")
    (row,), (again,) = run(evil).values(), run(evil).values()
    assert row.verdict == "warn"
    assert 0 < row.facts["unreadable"] < 16
    assert row.facts == again.facts
    assert any("of 32 regions sampled cannot be read (damaged there)" in reason for reason in row.reasons)


def test_sampled_places_are_seeded_and_inside() -> None:
    info = SlideInfo("x", "x", (Level(Size(1000, 300), 1.0),), None, None, None)
    drawn = list(regions(info, 50, 3))
    assert drawn == list(regions(info, 50, 3))
    assert drawn != list(regions(info, 50, 4))
    assert all(0 <= x <= 744 and 0 <= y <= 44 and size == (256, 256) for (x, y), size in drawn)
    small = SlideInfo("x", "x", (Level(Size(16, 16), 1.0),), None, None, None)
    assert list(regions(small, 50, 3)) == [((0, 0), (16, 16))]


def test_duplicates_pyramids_scales_and_light(tmp_path: Path) -> None:
    first = picture(tmp_path / "a" / "one.tif")
    (tmp_path / "b").mkdir()
    shutil.copy(first, tmp_path / "b" / "two.tif")
    picture(tmp_path / "alike.tif", 201)
    picture(tmp_path / "dark.tif", 5)
    tifffile.imwrite(
        tmp_path / "flat.tif", np.full((300, 9000, 3), 200, np.uint8), tile=(256, 256), photometric="rgb",
        compression="deflate", resolution=(20000, 10000), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere")
    rows = run(tmp_path)
    assert rows["a%2Fone.tif"].reasons == ["the same contents as b%2Ftwo.tif"]
    assert rows["b%2Ftwo.tif"].reasons == ["the same contents as a%2Fone.tif"]
    assert rows["alike.tif"].verdict == "ok"
    assert rows["dark.tif"].facts["light"] == "fluorescence"
    assert "--allow-fluorescence" in rows["dark.tif"].reasons[0]
    assert rows["flat.tif"].verdict == "refuse"
    assert "not square" in rows["flat.tif"].reasons[0]
    assert "no pyramid" in rows["flat.tif"].reasons[1]
    manifest = Manifest((SlideItem("x", tmp_path / "absent.svs"), SlideItem("y", first, mpp=0.25)))
    absent, rescaled = audit(manifest, AuditSpec(jobs=1), SlideSpec()).rows
    assert "no such file" in absent.reasons[0]
    assert rescaled.reasons == ["the mpp given, 0.25, is not the file's own, 0.5"]
    assert rescaled.facts["mpp_source"] == "manifest"


def test_the_written_manifest_leads_back_and_keeps_what_was_known(tmp_path: Path) -> None:
    root = tmp_path / "in"
    picture(root / "sub" / "a b.tif")
    (root / "bad.svs").write_bytes(b"no slide")
    table = tmp_path / "t.csv"
    table.write_text("path,case_id,mpp,stain,label\nsub/a b.tif,007,0.25,HE,x\nbad.svs,008,,,\n")
    result = audit(read_manifest(root, table, rescans="all"), AuditSpec(jobs=1), SlideSpec())
    written = tmp_path / "out.csv"
    written.write_text(manifest_csv(result, root))
    with written.open() as file:
        good, bad = csv.DictReader(file)
    assert (good["slide_id"], good["path"], good["include"], good["audit_mpp"]) == (
        "sub/a b.tif",
        "sub/a b.tif",
        "yes",
        "0.25",
    )
    assert (bad["include"], bad["audit"]) == ("no", "refuse")
    again = read_manifest(root, written)
    assert [(i.slide_id, i.path, i.case_id, i.mpp, i.context) for i in again.items] == [
        (i.slide_id, i.path, i.case_id, i.mpp, i.context) for i in read_manifest(root, table).items
    ]
    assert again.items[0].refused is None
    assert "no reader can open it" in (again.items[1].refused or "")
    assert manifest_csv(audit(again, AuditSpec(jobs=1), SlideSpec()), root) == written.read_text()


def test_a_slide_that_lacks_its_scale_is_taken_once_its_mpp_is_filled_in(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.full((600, 700, 3), 200, np.uint8))
    written = tmp_path / "out.csv"
    written.write_text(
        manifest_csv(audit(read_manifest(tmp_path / "in"), AuditSpec(jobs=1), SlideSpec()), tmp_path / "in")
    )
    assert "a.png,a.png,,,with mpp,refuse" in written.read_text()
    (item,) = read_manifest(tmp_path / "in", written).items
    assert "no mpp" in (item.refused or "")
    written.write_text(written.read_text().replace("a.png,a.png,,,", "a.png,a.png,,0.5,"))
    (item,) = read_manifest(tmp_path / "in", written).items
    assert (item.refused, item.mpp) == (None, 0.5)


def test_real_slides(shared: Path) -> None:
    rows = run(shared / "data" / "slides")
    verdicts = {name: row.verdict for name, row in rows.items()}
    assert verdicts == {
        "crc01.tif": "ok", "cmu-1-small-region.svs": "ok", "cmu-1-dicom": "ok", "two-pieces.tif": "ok",
        "fluorescence-dapi.ndpi": "warn", "tiny-16px.svs": "warn", "absurd-mpp.tiff": "refuse",
        "camelyon-overview-j2k.dcm": "refuse", "flat-kidney.tif": "refuse", "invalid-resolution.tif": "refuse",
        "tcga-cr-7395-01a-01-ts1.svs": "refuse", "unopenable.tiff": "refuse", "unreadable.svs": "refuse",
    }  # fmt: skip
    svs, dicom = rows["cmu-1-small-region.svs"].facts, rows["cmu-1-dicom"].facts
    assert [svs[name] for name in ("width", "height")] == [dicom[name] for name in ("width", "height")]
    assert svs["mpp"] == pytest.approx(dicom["mpp"])
    assert "cannot be read" in rows["unreadable.svs"].reasons[0]
    assert "1.2.826" not in json.dumps([row.as_dict() for row in rows.values()])


def test_an_interrupted_audit_ends_at_once(evil: Path) -> None:
    put(evil, "hang")
    for number in range(4):
        picture(evil / f"{number}.tif", 200 + number)

    def stop(row: AuditRow) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        audit(read_manifest(evil), AuditSpec(jobs=2, time_limit_s=100), SlideSpec(), on_row=stop)
    assert time.monotonic() - began < 60


def test_an_empty_result_is_still_a_table() -> None:
    assert manifest_csv(AuditResult([]), Path(os.sep)).startswith(
        "slide_id,path,case_id,mpp,include,audit,audit_reason"
    )
