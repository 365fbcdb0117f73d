"""Targets of other kinds than a class, from the command line to the page."""

from __future__ import annotations

import json
from pathlib import Path

from pathotune_pipeline.cli import main
from tests.cli.conftest import FAST


def test_survival_several_targets_and_a_comparison(study, tmp_path, capsys):
    capsys.readouterr()
    survival = str(tmp_path / "os")
    assert main([*study, *FAST, "--target", "months:survival-discrete:dead", "--out", survival]) == 0
    assert "c_index" in capsys.readouterr().out
    assert (
        main([*study, *FAST, "--target", "grade", "--target", "ki67:regression", "--json", "--out", f"{tmp_path}/m"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)["targets"]
    assert list(told) == ["grade", "ki67"]
    assert {"auroc", "brier_calibrated"} <= told["grade"].keys()
    assert list(told["ki67"]) == ["r2", "mae", "pearson"]
    rows = (tmp_path / "m" / "ki67" / "predictions.csv").read_text().splitlines()
    assert rows[0] == "slide_id,case_id,label,seed,fold,predicted"
    assert len(rows) == 6  # one slide has no value
    assert main(["report", "--store", study[2], "--model", survival, "--out", str(tmp_path / "r")]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert "C-index (IPCW)" in page
    grade = str(tmp_path / "m" / "grade")
    assert main(["compare", grade, grade, "--score", "auroc", "--score", "brier", "--draws", "1000", "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["comparisons"]
    assert [(each["score"], each["difference"], each["p_holm"]) for each in pairs] == [("auroc", 0, 1), ("brier", 0, 1)]
    assert main(["compare", survival, survival, "--draws", "1000"]) == 0
    assert capsys.readouterr().out.startswith("c_index ")


def test_wrong_targets_are_one_clear_line(study, tmp_path, capsys):
    out = ("--out", str(tmp_path / "x"))
    for target, message in (
        ("months:survival-cox", "needs its event's column"),
        ("months:survival-cox:deed", "Did you mean 'dead'"),
        ("grade:regression", "'g0' is no number"),
        ("ki67:binary", "two classes; found"),
    ):
        assert main([*study, *FAST, "--target", target, *out]) == 2, target
        assert message in capsys.readouterr().err, target
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "holds no crossval.json" in capsys.readouterr().err


def test_a_cache_changes_no_number(study, tmp_path, capsys):
    words = (*study, *FAST, "--target", "grade", "--out")
    assert main([*words, str(tmp_path / "plain")]) == 0
    for name in ("first", "second"):
        assert main([*words, str(tmp_path / name), "--cache", str(tmp_path / "cache")]) == 0
        assert (tmp_path / name / "predictions.csv").read_bytes() == (
            tmp_path / "plain" / "predictions.csv"
        ).read_bytes()
    assert len(list((tmp_path / "cache").rglob("features.bin"))) == 1
    (tmp_path / "file").write_text("")
    assert main([*words, str(tmp_path / "none"), "--cache", str(tmp_path / "file" / "cache")]) == 2
    assert "cannot be made" in capsys.readouterr().err
