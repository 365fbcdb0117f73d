"""Splits, sites, assignments and external test sets from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pathotune_pipeline.cli import main
from tests.cli.conftest import FAST

GRADE = ("--target", "grade")


def rows_of(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def test_an_external_hospital_is_judged_and_not_trained_on(study, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "m"
    words = (*study, "--head", "mean", "--seeds", "1", "--set", "crossval.train={epochs: 1, min_epochs: 0}", *GRADE)
    splits = tmp_path / "splits.csv"
    splits.write_text("case_id,split\nP0,train\nP1,train\nP2,test\nP3,test\n")
    assert main([*words, "--splits", str(splits), "--test-where", "hospital=H2", "--json", "--out", str(out)]) == 2
    assert "no slide of the validation part" in capsys.readouterr().err
    splits.write_text("case_id,split\nP0,train\nP1,train\nP2,val\nP3,test\n")
    assert main([*words, "--splits", str(splits), "--test-where", "hospital=H2", "--json", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scores_external"]["auroc"]["value"] is not None
    assert told["scores_last"].keys() == told["scores"].keys()
    assert {row[0][-6:] for row in rows_of(out / "predictions_external.csv")} == {"s4.tif", "s5.tif"}
    assert {row[3][-6:] for row in rows_of(out / "splits.csv")} == {f"s{n}.tif" for n in range(4)}
    again = tmp_path / "again"
    assert main([*words, "--splits", str(out), "--out", str(again)]) == 0
    text = capsys.readouterr().out
    assert "2 slides of the cohort are in no part of" in text
    assert "auroc, last" in text
    assert rows_of(again / "predictions.csv") == rows_of(out / "predictions.csv")


def test_an_external_table_is_of_patients_of_its_own(study, tmp_path, capsys):
    labels = tmp_path / "away.csv"
    labels.write_text("slide,patient,grade\ns4,Q4,g0\ns5,P0,g1\n")
    words = (*study, *FAST, *GRADE, "--external-labels", str(labels), "--out", str(tmp_path / "m"))
    assert main(words) == 2
    assert "slides are external and to be trained on" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_assignments_are_written_and_kept(study, tmp_path, capsys):
    path = tmp_path / "folds.json"
    words = (*study, *FAST, *GRADE, "--assignments", str(path), "--set", "crossval.val_share=0.4")
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert "0 cases keep their fold, 6 are new" in capsys.readouterr().out
    first = path.read_text()
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    assert "6 cases keep their fold, 0 are new" in capsys.readouterr().out
    assert path.read_text() == first
    assert rows_of(tmp_path / "a" / "splits.csv") == rows_of(tmp_path / "b" / "splits.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--site", "hospitl"), "Did you mean 'hospital'"),
        (("--site", "tcga"), "bears a TCGA barcode"),
        (("--site", "hospital", "--folds", "5"), "5 folds by site were asked for, and there are 3 sites (H0, H1, H2)"),
        (("--site", "hospital", "--splits", "x"), "--splits and --site were both given"),
        (("--splits", "absent"), "no such file or folder"),
        (("--test-where", "hospital"), "give COLUMN=VALUE"),
        (("--test-where", "hospital=H9"), "no slide has 'H9' in column 'hospital'; found H0, H1, H2"),
        (("--test-where", "hospital=H1", "--external-labels", "x.csv"), "both name the external test set"),
        (("--external-store", "x"), "give --external-labels"),
        (("--unit", "patient"), "invalid choice: 'patient'"),
    ],
)
def test_wrong_studies_are_one_clear_line(study, words, message, tmp_path, capsys):
    try:
        code = main([*study, *FAST, *GRADE, *words, "--out", str(tmp_path / "x")])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_features_are_not_read_where_labels_or_splits_are_wrong(study, tmp_path, capsys, monkeypatch):
    def read(*_):
        raise AssertionError("features were read")

    monkeypatch.setattr("pathotune_pipeline.store.store.FeatureStore.read", read)
    assert main([*study, "--target", "ki67:regression", "--folds", "6", "--out", str(tmp_path / "x")]) == 2
    assert "patients" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="features were read"):
        main([*study, *FAST, *GRADE, "--out", str(tmp_path / "x")])
