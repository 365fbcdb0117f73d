"""Manifests as labs, Excel, TRIDENT and CLAM write them; re-scans; what is known of a slide beside its pixels."""

from __future__ import annotations

import builtins
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.archive import Pseudonymiser, read_manifest
from pathotune_pipeline.archive.manifest import Part
from pathotune_pipeline.archive.rescans import scan_date
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.errors import ManifestError, MissingExtraError, UsageError

KEY = b"0123456789abcdef0123456789abcdef"


def archive(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def table(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


def ids(root: Path, listed: Path, **more: Any) -> list[str]:
    return [item.slide_id for item in read_manifest(root, listed, **more).items]


def test_every_other_column_is_kept_as_context(tmp_path: Path) -> None:
    listed = table(
        tmp_path,
        "path,case_id,MPP,Stain,organ,scanner,site,block,scan_date,split,MSI status\n"
        "a.svs,P1,0.5,H&E,colon,GT450,Ulm,A1,2024-03-31,train,MSI-H\nb.svs,P2,,,,,,,,,\n",
    )
    first, second = read_manifest(tmp_path, listed).items
    assert dict(first.context) == {
        "stain": "H&E", "organ": "colon", "scanner": "GT450", "site": "Ulm", "block": "A1", "scan_date": "2024-03-31",
        "split": "train", "MSI status": "MSI-H",
    }  # fmt: skip
    assert second.context == ()
    assert "colon" not in repr(first)
    (pseudo, _) = read_manifest(tmp_path, listed).pseudonymised(Pseudonymiser(KEY)).items
    assert dict(pseudo.context) == {"stain": "H&E", "organ": "colon", "scanner": "GT450", "split": "train"}


def test_excels_csv_with_everything_at_once(tmp_path: Path) -> None:
    archive(tmp_path, "sub/ü 1.svs")
    text = 'slide_id;path;case_id;mpp;stain;scan_date;note\r\n007;"sub\\ü 1.svs";0012;0,25;HE;31.03.2024;"a; b"\r\n;;;;;;\r\n'
    for encoding in ("utf-8-sig", "cp1252", "utf-16"):
        (item,) = read_manifest(tmp_path, table(tmp_path, text, encoding)).items
        assert (item.slide_id, item.case_id, item.mpp, item.path) == ("007", "0012", 0.25, tmp_path / "sub/ü 1.svs")
        assert dict(item.context)["note"] == "a; b"


def test_a_name_with_a_real_backslash_is_found(tmp_path: Path) -> None:
    archive(tmp_path, "a\\b.svs")
    (item,) = read_manifest(tmp_path, table(tmp_path, "path\na\\b.svs\n")).items
    assert item.path.exists()


def test_a_newer_scan_that_names_the_older_takes_its_place(tmp_path: Path) -> None:
    listed = table(tmp_path, "path,supersedes\na.svs,\nb.svs,a.svs\nc.svs,b; gone\nx/d.svs,\n")
    manifest = read_manifest(tmp_path, listed)
    assert [item.slide_id for item in manifest.items] == ["c.svs", "x%2Fd.svs"]
    assert dict(manifest.passed_over) == {
        "a.svs": "superseded by a scan that the manifest names: b.svs",
        "b.svs": "superseded by a scan that the manifest names: c.svs",
        "gone": "superseded by a scan, and not in the manifest: c.svs",
    }
    assert len(read_manifest(tmp_path, listed, rescans="all").items) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,supersedes\na.svs,b.svs\nb.svs,a.svs\n", "supersedes itself"),
        ("path,supersedes\na.svs,a.svs\n", "supersedes itself"),
        ("path,supersedes\nx/a.svs,\ny/a.svs,\nb.svs,a\n", "fits 2 slides"),
        ("path,scan_date\na.svs,03/04/2024\n", "line 2: the date '03/04/2024' is ambiguous"),
        ("path,scan_date\n\na.svs,31.02.2024\n", "line 3"),
        ("path,keep\na.svs,perhaps\n", "yes or no"),
        ("path,include\na.svs,no\n", "every slide is left out"),
        ("slide_id,label\nnone,1\n", "none of its 1 slides"),
        ("path;x\na.xlsx;1;2\n", "3 cells"),
    ],
)
def test_what_cannot_be_understood_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path, table(tmp_path, text))


RESCANS = "path,case_id,block,stain,scan_date,keep\n"


def test_of_the_same_block_and_stain_the_newest_scan_wins(tmp_path: Path) -> None:
    listed = table(
        tmp_path,
        RESCANS
        + "old.svs,P1,A1,HE,01.02.2024,\nnew.svs,P1,A1,he,2024-02-02 08:00,\nother.svs,P1,A2,HE,2020-01-01,\n"
        + "undated.svs,P1,A1,HE,,\nnoblock.svs,P1,,HE,2019-01-01,\nserial.svs,P1,A1,HE,2024-02-02 08:00,\n",
    )
    manifest = read_manifest(tmp_path, listed)
    assert manifest.passed_over == (("old.svs", "a newer scan of the same case, block and stain is kept: new.svs"),)
    assert len(manifest.items) == 5
    assert "new" not in str(manifest.pseudonymised(Pseudonymiser(KEY)).passed_over).replace("newer", "")


def test_a_scan_marked_keep_wins_over_the_newest(tmp_path: Path) -> None:
    rows = "old.svs,P1,A1,HE,2023-01-01,{}\nnew.svs,P1,A1,HE,2024-01-01,{}\n"
    assert ids(tmp_path, table(tmp_path, RESCANS + rows.format("yes", ""))) == ["old.svs"]
    assert ids(tmp_path, table(tmp_path, RESCANS + rows.format("yes", "yes"))) == ["old.svs", "new.svs"]
    assert ids(tmp_path, table(tmp_path, RESCANS + rows.format("", "no"))) == ["old.svs"]


def test_a_refused_scan_takes_no_others_place(tmp_path: Path) -> None:
    listed = table(
        tmp_path,
        "path,case_id,block,stain,scan_date,supersedes,include,audit,audit_reason\n"
        "old.svs,P1,A1,HE,2023-01-01,,yes,ok,\nnew.svs,P1,A1,HE,2024-01-01,old.svs,no,refuse,broken\n",
    )
    old, new = read_manifest(tmp_path, listed).items
    assert (old.refused, new.refused) == (None, "broken")
    assert "audit" not in dict(new.context)


def test_left_out_by_hand_is_passed_over_and_not_failed(tmp_path: Path) -> None:
    manifest = read_manifest(tmp_path, table(tmp_path, "path,include\na.svs,yes\nb.svs,no\n"))
    assert [item.slide_id for item in manifest.items] == ["a.svs"]
    assert manifest.passed_over == (("b.svs", "left out by the manifest's include column"),)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2024-03-31", datetime(2024, 3, 31)),
        ("20240331", datetime(2024, 3, 31)),
        ("31.03.2024", datetime(2024, 3, 31)),
        ("1.3.2024 9:05", datetime(2024, 3, 1, 9, 5)),
        ("2024-03-31T10:00:00+02:00", datetime(2024, 3, 31, 8)),
        ("", None),
    ],
)
def test_dates(text: str, found: datetime | None) -> None:
    assert scan_date(text, "x") == found


@pytest.mark.parametrize("text", ["03/04/2024", "3-4-2024", "01.02.24", "2024", "2024-13-01", "yesterday", "45000"])
def test_dates_that_could_mean_two_things_are_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"2024-03-31 or 31\.03\.2024"):
        scan_date(text, "t.csv: line 2: scan_date")


def test_clams_process_list(tmp_path: Path) -> None:
    archive(tmp_path, "a.svs", "sub/b.svs", "c.svs", "d.svs")
    listed = table(
        tmp_path,
        "slide_id,process,status,seg_level,a_t\na.svs,1,tbp,-1,100\nb.svs,0,processed,-1,100\n"
        "c.svs,0,failed_seg,-1,100\nd.svs,0,tbp,-1,100\n",
    )
    manifest = read_manifest(tmp_path, listed)
    assert [(item.slide_id, item.path.exists(), item.context) for item in manifest.items] == [
        ("a.svs", True, ()), ("b.svs", True, ()),
    ]  # fmt: skip
    assert [reason for _, reason in manifest.passed_over] == [
        "process is 0 in the list, its status failed_seg", "process is 0 in the list, its status tbp",
    ]  # fmt: skip


def test_clams_labels_name_slides_by_their_stem(tmp_path: Path) -> None:
    archive(tmp_path, "x/a.svs", "b.v2.svs")
    manifest = read_manifest(
        tmp_path, table(tmp_path, "case_id,slide_id,label\nP1,a,tumour\nP2,b.v2,normal\nP3,gone,x\n")
    )
    assert [item.path.exists() for item in manifest.items] == [True, True, False]
    assert manifest.items[0].path == tmp_path / "x/a.svs"
    assert (manifest.items[0].slide_id, manifest.items[0].case_id) == ("a", "P1")
    assert manifest.items[0].context == (("label", "tumour"),)


def test_a_stem_that_fits_two_slides_is_an_error(tmp_path: Path) -> None:
    archive(tmp_path, "x/a.svs", "y/a.svs")
    with pytest.raises(ManifestError, match=r"'a' fits 2 slides: x/a\.svs, y/a\.svs"):
        read_manifest(tmp_path, table(tmp_path, "case_id,slide_id,label\nP1,a,1\n"))
    listed = table(tmp_path, "slide_id,label\nx/a.svs,1\ny%2Fa.svs,2\n")
    assert ids(tmp_path, listed) == ["x%2Fa.svs", "y%2Fa.svs"], "ids copied from a report are taken as they are"


def test_tridents_list_with_a_scale(tmp_path: Path) -> None:
    (item,) = read_manifest(tmp_path, table(tmp_path, "wsi,mpp\nsub/a.ndpi,0.2204\n")).items
    assert (item.slide_id, item.mpp, item.context) == ("sub%2Fa.ndpi", 0.2204, ())


def test_parquet_is_a_table_too(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = {
        "slide_id": ["007", "8"], "path": ["a.svs", "b.svs"], "mpp": [0.25, None], "grade": [3, None],
        "scan_date": [date(2024, 3, 31), None], "score": [float("nan"), 1.5],
    }  # fmt: skip
    parquet.write_table(pyarrow.table(values), tmp_path / "t.parquet")
    first, second = read_manifest(tmp_path, tmp_path / "t.parquet").items
    assert (first.slide_id, first.mpp, dict(first.context)) == ("007", 0.25, {"grade": "3", "scan_date": "2024-03-31"})
    assert (second.mpp, dict(second.context)) == (None, {"score": "1.5"})
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ManifestError, match="no sound Parquet"):
        read_table(tmp_path / "bad.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    (tmp_path / "t.parquet").write_bytes(b"PAR1....PAR1")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pathotune_pipeline\[parquet\]"):
        read_table(tmp_path / "t.parquet")


def test_an_excel_workbook_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(ManifestError, match="Save it as CSV"):
        read_table(tmp_path / "t.xlsx")


def test_a_dicom_series_may_be_named_by_its_folder_or_its_volume(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "slides"
    (found,) = [item for item in read_manifest(root).items if item.slide_id == "cmu-1-dicom"]
    for cell in ("cmu-1-dicom", found.path.relative_to(root).as_posix()):
        (item,) = read_manifest(root, table(tmp_path, f"path\n{cell}\n")).items
        assert (item.slide_id, item.path) == ("cmu-1-dicom", found.path)
    assert not any("1.2.826" in name for name, _ in read_manifest(root).passed_over)


def test_every_slide_is_in_one_part_whatever_else_there_is(tmp_path: Path) -> None:
    names = [f"case-{number}/s.svs" for number in range(60)]
    listed = read_manifest(archive(tmp_path, *names, "notes.txt"))
    parts = [listed.of_part(Part(number, 7)) for number in range(1, 8)]
    assert sorted(item.slide_id for part in parts for item in part.items) == sorted(i.slide_id for i in listed.items)
    assert all(part.items for part in parts)
    assert sorted(each for part in parts for each in part.passed_over) == sorted(listed.passed_over) != []
    (tmp_path / "case-61").mkdir()
    (tmp_path / "case-61" / "s.svs").write_bytes(b"new")
    grown = read_manifest(tmp_path)
    for number, part in enumerate(parts, 1):
        assert {*part.items} <= {*grown.of_part(Part(number, 7)).items}


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="K/N"):
        Part.parse(text)
    assert str(Part.parse("3/8")) == "3/8"
