"""The night's page and the index: small, escaped, self-contained, whole."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pathotune_pipeline.cli.main import main
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.reports.nights import thumbnails
from pathotune_pipeline.reports.nights.means import FeatureMeans
from pathotune_pipeline.reports.nights.page import render_index, write_night
from pathotune_pipeline.store.forget import Forgetting, purge

NASTY = "b%2F<script>alert(1)<%2Fscript>'\"&ünï"
REASON = "</script><img src=x onerror=alert(2)> http://example.org/x cannot be read"


def blocks(page: Path) -> dict[str, object]:
    """The page's data, by id, as its script reads them."""
    found = re.findall(r'<script type="application/json" id="([^"]+)"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_what_happened_has_pictures_and_what_did_not_has_none(archive: SimpleNamespace, tmp_path: Path) -> None:
    archive.night([archive.fresh("new.svs"), archive.fresh("old-01.svs", identity="other")])
    page = write_night(archive.store.root, tmp_path / "out")
    data = blocks(page)
    rows = {row[0]: row for row in data["rows"]}  # type: ignore[attr-defined]
    assert len(rows) == 23
    assert {row[0] for row in rows.values() if row[14] >= 0} == {"new.svs", "old-01.svs"}
    pictures = data["pictures-0"]
    assert len(pictures) == 2  # type: ignore[arg-type]
    for picture in pictures:  # type: ignore[attr-defined]
        jpeg = base64.b64decode(picture)
        assert jpeg.startswith(b"\xff\xd8")
        assert len(jpeg) <= 4000
    plain, drawn = (_decoded(pictures[rows[name][14]]) for name in ("old-01.svs", "new.svs"))  # type: ignore[index]
    green = [np.count_nonzero((image[..., 1].astype(int) - image[..., 0]) > 40) for image in (plain, drawn)]
    assert green[0] == 0 < green[1]  # the outline of the tissue, on new slides alone


def _decoded(text: str) -> np.ndarray:
    import cv2

    return cv2.cvtColor(cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1), cv2.COLOR_BGR2RGB)


def test_nothing_from_a_file_becomes_markup(archive: SimpleNamespace, fake: SimpleNamespace, tmp_path: Path) -> None:
    flagged = archive.fresh(NASTY, case_id="<i>case", flags=["<u>flag</u>"])
    archive.night([flagged, fake.FakeSlide("bad.svs", "failed", REASON)], passed_over=[["x", "<s>no slide"]])
    page = write_night(archive.store.root, tmp_path / "out")
    source = page.read_text()
    for raw in ("<script>alert", "<img src=x", "<i>case", "<u>", "<s>no", "AT2 <b>", "</script><"):
        assert raw not in source
    rows = {row[0]: row for row in blocks(page)["rows"]}  # type: ignore[attr-defined]
    assert rows[NASTY][1] == "<i>case"
    assert rows["bad.svs"][3].startswith(REASON)
    assert source.count("<script>") == 1
    assert "http" not in source.replace("http-equiv", "").replace("http://example.org/x cannot", "")
    assert "default-src 'none'" in source
    assert "unsafe" not in source


def test_the_script_writes_text_and_never_markup() -> None:
    script = (Path(thumbnails.__file__).parents[1] / "templates" / "night.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|fetch|XMLHttp", script)


def test_drift_is_told_at_the_top_and_in_the_index(archive: SimpleNamespace, tmp_path: Path) -> None:
    archive.night([archive.fresh(f"new-{index}.svs", redder=0.3, mean=8.0) for index in range(8)])
    page = write_night(archive.store.root, tmp_path / "out")
    source = page.read_text()
    assert source.count('<p class="note alert">') == 3  # red, blue, features
    assert "Haematoxylin, share of red absorbed went from" in source
    index = (tmp_path / "out" / "index.html").read_text()
    assert 'data-status="alerts"' in index
    assert f'href="{page.name}"' in index
    assert (archive.store.root / "cache").glob("means-*.npz")


def test_an_archive_that_stays_as_it_is_is_quiet(archive: SimpleNamespace, tmp_path: Path) -> None:
    archive.night([])
    source = write_night(archive.store.root, tmp_path / "out").read_text()
    assert "Nothing failed, and nothing drifted: nothing was new." in source
    assert 'data-status="quiet"' in (tmp_path / "out" / "index.html").read_text()


def test_means_are_read_once(archive: SimpleNamespace, fake: SimpleNamespace) -> None:
    records = archive.store.records(fake.FEATURES)
    names = sorted(records)[:5]
    means = FeatureMeans(archive.store, fake.FEATURES, records)
    first = means.of(names)
    assert first.shape == (5, 4)
    np.testing.assert_allclose(first[:, 0], [slide.mean for slide in archive.old[:5]], atol=2e-3)
    means.save()
    for name in names:  # what is remembered is not read again
        for file in (archive.store.data / records[name].group / "features").glob("c*"):
            file.write_bytes(b"")
    again = FeatureMeans(archive.store, fake.FEATURES, records)
    np.testing.assert_array_equal(again.of(names), first)
    (cache,) = (archive.store.root / "cache").glob("means-*.npz")
    assert b"old-00" not in cache.read_bytes()
    cache.write_bytes(b"rubbish")
    assert np.isnan(FeatureMeans(archive.store, fake.FEATURES, records).of(names)).all()


def test_means_of_a_forgotten_slide_go_too(archive: SimpleNamespace, tmp_path: Path) -> None:
    archive.night([archive.fresh(f"new-{index}.svs") for index in range(5)])
    write_night(archive.store.root, tmp_path / "out")
    assert list((archive.store.root / "cache").glob("means-*"))
    purge(archive.store, Forgetting({"old-01.svs": "old-01.svs"}).write(archive.store), outside=lambda what: None)
    assert not list((archive.store.root / "cache").glob("means-*"))


def test_pictures_of_a_huge_night_share_the_room(
    archive: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.night([archive.fresh(f"new-{index}.svs", seed=index) for index in range(3)])
    monkeypatch.setattr(thumbnails, "ALL_BYTES", 3 * 900)
    pictures = blocks(write_night(archive.store.root, tmp_path / "out"))["pictures-0"]
    assert len(pictures) == 3  # type: ignore[arg-type]
    assert all(len(base64.b64decode(each)) <= 900 for each in pictures)  # type: ignore[attr-defined]


def test_damaged_pictures_do_not_stop_the_page(archive: SimpleNamespace, fake: SimpleNamespace, tmp_path: Path) -> None:
    archive.night([archive.fresh("new.svs")])
    record = archive.store.records(fake.FEATURES)["new.svs"]
    for file in (archive.store.data / record.facts["tissue_group"] / "thumbnail_jpeg").glob("c*"):
        file.write_bytes(b"rubbish")
    rows = {row[0]: row for row in blocks(write_night(archive.store.root, tmp_path / "out"))["rows"]}  # type: ignore[attr-defined]
    assert rows["new.svs"][14] == -1
    assert "its picture cannot be made" in rows["new.svs"][3]


def test_the_index_leaves_out_what_is_no_night(archive: SimpleNamespace, tmp_path: Path) -> None:
    page = write_night(archive.store.root, tmp_path / "out")
    (page.parent / "night-half.json").write_text("{")
    (page.parent / "night-list.json").write_text("[]")
    stray = json.loads(page.with_suffix(".json").read_text()) | {"page": "../../etc/passwd"}
    (page.parent / "night-stray.json").write_text(json.dumps(stray))
    index = render_index(page.parent)
    assert index.count("<tr data-status=") == 1
    assert "passwd" not in index


def test_the_verb(archive: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive.night([archive.fresh("new.svs")])
    store, out = str(archive.store.root), str(tmp_path / "out")
    assert main(["report", "--store", store, "--night", "--out", out, "--drift-alpha", "0.05"]) == 0
    assert capsys.readouterr().out.strip().endswith(".html")
    assert main(["report", "--store", store, "--night", "--model", out, "--out", out]) == 2
    assert main(["report", "--store", store, "--night", "1999", "--out", out]) == 2
    with pytest.raises(UsageError, match="a file was found"):
        write_night(store, _file(tmp_path))


def _file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"
