"""DICOM series: one slide each, named without a UID, whatever else lies in the folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pathotune_pipeline.archive import content_hash, discover, read_manifest
from pathotune_pipeline.archive.companions import companion_files
from pathotune_pipeline.slides.dicom_header import FIRST_BYTES, read_header
from pathotune_pipeline.slides.open import open_slide

sys.path.insert(0, str(Path(__file__).parent))
from dicom_files import BIG, DEFLATED, EXPLICIT, IMPLICIT, write_dicom  # type: ignore[import-not-found]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("pad", [0, 3 * FIRST_BYTES])
def test_headers_of_every_walked_syntax(tmp_path: Path, syntax: str, pad: int) -> None:
    if pad and syntax == BIG:
        pytest.skip("one long header is enough")
    header = read_header(write_dicom(tmp_path / "a.dcm", "1.2.3", "LABEL", (70000, 300), syntax, pad))
    assert header is not None
    assert (header.series, header.image_type[2], header.matrix) == ("1.2.3", "LABEL", (70000, 300))
    assert "1.2.3" not in repr(header)


def test_damaged_headers_are_no_series_and_never_raise(tmp_path: Path) -> None:
    whole = write_dicom(tmp_path / "a.dcm", "1.2.3").read_bytes()
    for cut in range(len(whole)):
        (tmp_path / f"{cut}.dcm").write_bytes(whole[:cut])
        read_header(tmp_path / f"{cut}.dcm")
    for at in range(132, len(whole)):
        (tmp_path / "f.dcm").write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        read_header(tmp_path / "f.dcm")
    assert read_header(write_dicom(tmp_path / "deflated.dcm", "1.2.3", syntax=DEFLATED)) is None
    assert read_header(tmp_path / "absent.dcm") is None


def test_a_folder_of_one_series_is_one_slide_named_by_the_folder(tmp_path: Path) -> None:
    write_dicom(tmp_path / "case" / "0.dcm", "1.2.3", size=(100, 100))
    write_dicom(tmp_path / "case" / "1.dcm", "1.2.3", size=(400, 400))
    write_dicom(tmp_path / "case" / "2.dcm", "1.2.3", "LABEL", (900, 900))
    manifest = read_manifest(tmp_path)
    (item,) = manifest.items
    assert (item.slide_id, item.path.name) == ("case", "1.dcm")
    assert dict(manifest.passed_over) == {
        "case%2F0.dcm": "a further part of a DICOM series: case",
        "case%2F2.dcm": "the LABEL image of a DICOM series: case",
    }


def test_several_series_in_a_folder_keep_their_names_when_others_come(tmp_path: Path) -> None:
    for number, series in enumerate(("1.2.3", "1.2.3", "1.2.4", "1.2.4", "1.2.5")):
        write_dicom(tmp_path / "x" / f"{number}.dcm", series, size=(100 + number, 100))
    ids = {item.path.name: item.slide_id for item in read_manifest(tmp_path).items}
    assert set(ids) == {"1.dcm", "3.dcm", "4.dcm"}
    assert ids["4.dcm"] == "x%2F4.dcm", "a series of one file is named by it"
    assert ids["1.dcm"].startswith("x%2Fseries-")
    assert "1.2.3" not in ids["1.dcm"]
    write_dicom(tmp_path / "x" / "5.dcm", "1.2.6")
    write_dicom(tmp_path / "x" / "6.dcm", "1.2.6")
    again = {item.path.name: item.slide_id for item in read_manifest(tmp_path).items}
    assert ids.items() <= again.items()


def test_a_series_at_the_root_and_one_without_a_volume(tmp_path: Path) -> None:
    write_dicom(tmp_path / "0.dcm", "1.2.3", "LABEL")
    write_dicom(tmp_path / "1.dcm", "1.2.3", "OVERVIEW", (500, 500))
    (item,) = read_manifest(tmp_path).items
    assert item.slide_id == "1.dcm"
    assert discover(tmp_path).passed_over[0][1] == "the LABEL image of a DICOM series: 1.dcm"


def test_only_the_series_own_files_are_its_contents(tmp_path: Path) -> None:
    mine = [write_dicom(tmp_path / f"{number}.dcm", "1.2.3") for number in range(2)]
    write_dicom(tmp_path / "9.dcm", "1.2.9")
    assert sorted(companion_files(mine[0])) == mine
    before = content_hash(mine[0])
    assert content_hash(mine[1]) == before
    write_dicom(tmp_path / "9.dcm", "1.2.9", size=(5, 5))
    assert content_hash(mine[0]) == before
    write_dicom(mine[1], "1.2.3", size=(5, 5))
    assert content_hash(mine[0]) != before


def test_the_real_series_is_the_slide_it_was_made_from(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "data" / "slides" / "cmu-1-dicom", tmp_path / "in" / "cmu-1-dicom")
    manifest = read_manifest(tmp_path / "in")
    (item,) = manifest.items
    assert item.slide_id == "cmu-1-dicom"
    assert sorted(reason for _, reason in manifest.passed_over) == [
        f"the {kind} image of a DICOM series: cmu-1-dicom" for kind in ("LABEL", "OVERVIEW", "THUMBNAIL")
    ]
    dicom = open_slide(item.path)
    svs = open_slide(shared / "data" / "slides" / "cmu-1-small-region.svs")
    assert dicom.info.size == svs.info.size
    assert dicom.info.mpp is not None
    assert svs.info.mpp is not None
    assert dicom.info.mpp.x == pytest.approx(svs.info.mpp.x, rel=1e-6)
    assert dicom.info.mpp.y == pytest.approx(svs.info.mpp.y, rel=1e-6)
    dicom.close()
    svs.close()


def test_a_lone_dicom_file_is_a_slide_by_its_own_name(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "data" / "slides" / "camelyon-overview-j2k.dcm", tmp_path)
    (item,) = read_manifest(tmp_path).items
    assert item.slide_id == "camelyon-overview-j2k.dcm"
    assert companion_files(item.path) == [item.path]
