"""`pathotune export` and `import` as users call them; what comes in serves status, crossval and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pathotune_pipeline.cli.export import LAYOUT_NAMES
from pathotune_pipeline.cli.main import main
from pathotune_pipeline.exchange.send import LAYOUTS


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_flag_names_every_layout() -> None:
    assert set(LAYOUT_NAMES) == set(LAYOUTS)


def test_from_store_to_trident_to_a_trained_model_and_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    one, two, job, model = tmp_path / "one", tmp_path / "two", tmp_path / "job", tmp_path / "m"
    call(capsys, "extract", "--slides", small_archive, "--store", one, "--tile-px", 128, "--executor", "serial")
    export = ("export", "--to", "trident", "--store", one, "--features", "stain-texture", "--out", job)
    code, out, err = call(capsys, *export)
    assert code == 0, err
    assert "6 written" in out
    code, out, _ = call(capsys, *export, "--json")
    assert json.loads(out)["counts"] == {"written": 0, "unchanged": 6, "empty": 0, "failed": 0, "rejected": 0}
    code, out, err = call(capsys, "import", "--from", "trident", "--source", job, "--store", two)
    assert code == 0, err
    assert "6 committed, 0 empty, 0 failed" in out
    code, out, _ = call(capsys, "status", "--store", two, "--verify", "--json")
    assert code == 0
    told = json.loads(out)
    assert [each["slides"] for each in told["sets"]] == [6, 6]
    assert told["runs"][0]["counts"]["committed"] == 6
    table = tmp_path / "labels.csv"
    table.write_text("slide,patient,grade\n" + "".join(f"s{n},P{n},g{n % 2}\n" for n in range(6)))
    words = ("--features", "trident.stain-texture", "--labels", table, "--target", "grade", "--head", "mean")
    fast = ("--set", "crossval.train={epochs: 2, min_epochs: 0}", "--folds", 2, "--seeds", 1, "--val-share", 0.4)
    code, out, err = call(capsys, "crossval", "--store", two, *words, *fast, "--out", model)
    assert code == 0, err
    code, out, err = call(capsys, "report", "--store", two, "--model", model, "--out", tmp_path / "r")
    assert code == 0, err
    page = Path(out.strip()).read_text()
    assert "cannot be read" not in page
    assert "s5.tif" in page


def test_one_bad_file_is_told_with_its_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    one, feats = tmp_path / "one", tmp_path / "feats"
    call(capsys, "extract", "--slides", small_archive, "--store", one, "--tile-px", 128, "--executor", "serial")
    call(capsys, "export", "--to", "stamp", "--store", one, "--features", "stain-texture", "--out", feats)
    (feats / "s3.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    code, out, _ = call(capsys, "import", "--from", "stamp", "--source", feats, "--store", tmp_path / "two")
    assert code == 3
    assert "6: 5 committed, 0 empty, 1 failed" in out
    assert "failed    s3: its HDF5 file cannot be read" in out
    told = json.loads(
        call(capsys, "import", "--from", "stamp", "--source", feats, "--store", tmp_path / "two", "--json")[1]
    )
    assert told["counts"]["computed"] == 0
    assert told["features"][0].startswith("stamp.stain-texture-128px-0.5mpp-")


WRONG = [
    (("export", "--store", "S", "--features", "x", "--out", "O"), "--to"),
    (("export", "--to", "tridnt", "--store", "S", "--features", "x", "--out", "O"), "invalid choice"),
    (("export", "--to", "clam", "--store", "ABSENT", "--features", "x", "--out", "O"), "a store is needed"),
    (("export", "--to", "clam", "--store", "S", "--features", "x", "--out", "O"), "no features are committed yet"),
    (("import", "--source", "EMPTY", "--store", "S"), "--from"),
    (("import", "--from", "lazyslide", "--source", "EMPTY", "--store", "S"), "invalid choice"),
    (("import", "--from", "trident", "--source", "ABSENT", "--store", "S"), "a folder is needed, nothing was found"),
    (("import", "--from", "clam", "--source", "EMPTY", "--store", "S"), "no .h5 file was found"),
    (("import", "--from", "stamp", "--source", "EMPTY", "--store", "S", "--mpp", "0"), "greater than 0"),
    (("import", "--from", "stamp", "--source", "EMPTY", "--store", "S", "--unit", "mm"), "invalid choice"),
    (("import", "--from", "stamp", "--source", "EMPTY", "--store", "S", "--slides", "ABSENT"), "ABSENT"),
    (("import", "--from", "clam", "--source", "EMPTY", "--store", "S", "--coords", "ABSENT"), "no such folder"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words)[:70] for words, _ in WRONG])
def test_a_wrong_call_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    from pathotune_pipeline.store import FeatureStore

    (tmp_path / "EMPTY").mkdir()
    FeatureStore(tmp_path / "S").initialise()
    places = {"ABSENT", "EMPTY", "S", "O"}
    code, out, err = call(capsys, *(str(tmp_path / word) if word in places else word for word in words))
    assert code == 2, (out, err)
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not out
    assert not (tmp_path / "O").exists()


def test_a_missing_library_names_its_extra(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    code, _, err = call(capsys, "import", "--from", "stamp", "--source", tmp_path, "--store", tmp_path / "s")
    assert code == 1
    assert "pip install 'pathotune_pipeline[interchange]'" in err
