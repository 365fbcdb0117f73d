"""External tests: a model on slides that it has not seen, and tables of predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.evaluation.result import read_result
from pathotune_pipeline.models import open_model
from pathotune_pipeline.testing.slides import write_slide
from tests.models.conftest import FAST, Study, extract


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four slides of another hospital: store and labels."""
    place = tmp_path_factory.mktemp("external")
    for number in range(4):
        write_slide(place / "slides" / f"e{number}.tif", size_px=(1280, 1280), seed=70 + number)
    extract(place / "slides", place / "store")
    rows = [f"e{n}.tif,E{n},g{n % 2},{5 + n},{n % 2}" for n in range(4)]
    (place / "labels.csv").write_text("\n".join(["slide,patient,Diagnosis,months,dead", *rows]) + "\n")
    return place / "store", place / "labels.csv"


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def test_a_model_on_other_slides(study: Study, external: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    store, labels = external
    words = ("--model", study.model, "--store", store, "--labels", labels, "--target", "Diagnosis")
    assert evaluate(*words, "--out", tmp_path / "ext") == 0
    said = capsys.readouterr().out
    assert {"auroc", "brier_calibrated", "ece"} <= {line.split()[0] for line in said.splitlines()}
    result = read_result(tmp_path / "ext")
    assert result.context["model"] == open_model(study.model).card.fingerprint
    assert (result.context["target"], result.kind, result.context["slides"]) == ("Diagnosis", "binary", 4)
    assert result.scores["auroc"]["low"] is not None
    assert set(result.attention) == {f"e{n}.tif" for n in range(4)}
    # The judged numbers are those that predict gives.
    assert main(["predict", "--model", str(study.model), "--store", str(store), "--out", str(tmp_path / "p.csv")]) == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        probs = {row["slide_id"]: float(row["prob_g1"]) for row in csv.DictReader(file)}
    assert {row.slide_id: row.probs[1] for row in result.pooled()} == pytest.approx(probs)
    # And the table of predict, judged by itself, scores the same.
    table = ("--predictions", tmp_path / "p.csv", "--labels", labels, "--target", "Diagnosis", "--json")
    capsys.readouterr()
    assert evaluate(*table) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    for name in ("auroc", "accuracy", "brier"):
        assert scores[name]["value"] == pytest.approx(result.scores[name]["value"])
    assert main(["report", "--store", str(store), "--model", str(tmp_path / "ext"), "--out", str(tmp_path / "r")]) == 0
    assert evaluate(*words, "--out", tmp_path / "ext") == 2
    assert "not empty" in capsys.readouterr().err


def test_survival_asks_for_its_event(study: Study, external: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    store, labels = external
    target = "months:survival-discrete:dead"
    assert main(study.words("train", *FAST, "--head", "mean", "--out", tmp_path / "m", target=target)) == 0
    words = ("--model", tmp_path / "m", "--store", store, "--labels", labels)
    assert evaluate(*words, "--out", tmp_path / "e") == 0
    result = read_result(tmp_path / "e")
    assert (result.kind, len(result.predictions)) == ("survival-discrete", 8)
    assert result.scores["c_index"]["value"] is not None
    capsys.readouterr()
    assert evaluate(*words, "--target", "months:regression", "--out", tmp_path / "f") == 2
    assert "the model answers months as survival-discrete" in capsys.readouterr().err


def test_what_the_model_has_seen_is_refused(study: Study, tmp_path: Path, capsys, small_archive: Path) -> None:
    seen = sorted(open_model(study.model).seen.slides)
    assert evaluate("--model", study.model, *study.words("", "--out", tmp_path / "e")[1:]) == 2
    said = capsys.readouterr().err
    assert f"4 slides ({', '.join(seen)})" in said
    # Under another name, and as another patient, it is still the same slide; and another slide of a seen patient is leakage.
    unseen = sorted({f"case-{n // 2}%2Fs{n}.tif" for n in range(6)} - set(seen))
    for name, source in (("copy.tif", seen[0]), ("new.tif", unseen[0])):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).symlink_to(small_archive / source.replace("%2F", "/"))
    extract(tmp_path / "a", tmp_path / "s")
    cases = {row: f"P{row[-5]}" for row in seen}
    (tmp_path / "l.csv").write_text(f"slide,patient,grade\ncopy.tif,X,g0\nnew.tif,{cases[seen[1]]},g1\n")
    words = ("--model", study.model, "--store", tmp_path / "s", "--labels", tmp_path / "l.csv", "--out", tmp_path / "e")
    capsys.readouterr()
    assert evaluate(*words) == 2
    said = capsys.readouterr().err
    assert "1 slides under other names (copy.tif)" in said
    assert f"1 patients ({cases[seen[1]]})" in said
    assert not (tmp_path / "e").exists()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_published_table(tmp_path: Path, capsys) -> None:
    rows = ["a,Tumor,0.9,1", "b,Normal,0.2,0", "c,Tumor,0.4,1", "d,Normal,0.5,0", "e,Normal,0.1,0"]
    table = write(tmp_path / "p.csv", "\n".join(["slide_name,truth,score,hit", *rows]) + "\n")
    words = ("--predictions", table, "--id", "slide_name", "--target", "truth", "--json")
    assert evaluate(*words, "--probability", "score", "--out", tmp_path / "e") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["auroc"]["value"] == pytest.approx(5 / 6)  # of six pairs one is the wrong way round
    assert scores["accuracy"]["value"] == pytest.approx(4 / 5)
    assert scores["brier"]["value"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.25 + 0.01) / 5)
    assert read_result(tmp_path / "e").predictions[0].probs == (pytest.approx(0.1), 0.9)
    assert evaluate(*words, "--probability", "score=Normal") == 0
    turned = json.loads(capsys.readouterr().out)["scores"]
    assert turned["auroc"]["value"] == pytest.approx(1 / 6)


def test_a_table_of_numbers_and_of_survival(tmp_path: Path, capsys) -> None:
    rows = ["a,1,1.5,10,1,0.9,0.5", "b,2,2.5,20,1,0.5,0.7", "c,4,3.5,30,0,0.1,0.9"]
    head = "slide,ki67,predicted,months,dead,risk,survival_at_15"
    table = write(tmp_path / "p.csv", "\n".join([head, *rows]) + "\n")
    assert evaluate("--predictions", table, "--target", "ki67:regression", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["mae"]["value"] == pytest.approx(0.5)
    assert evaluate("--predictions", table, "--target", "months:survival-cox:dead", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["c_index"]["value"] == pytest.approx(1)


def test_wrong_calls_are_one_clear_line(study: Study, external: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    store, labels = external
    table = write(tmp_path / "p.csv", "slide,truth,score,prob_a,prob_b\nx,a,0.2,0.5,0.6\ny,b,two,0.4,0.6\n")
    odd = write(tmp_path / "odd.csv", "slide,patient,grade\ne0.tif,E0,g9\n")
    model = ("--model", study.model, "--store", store, "--labels", labels, "--out", tmp_path / "o")
    judged = ("--predictions", table, "--target", "truth")
    for words, message in (
        ((), "one of the arguments --model --predictions is required"),
        (("--model", study.model), "--store is missing"),
        (("--model", study.model, "--store", store, "--labels", labels), "--out is missing"),
        ((*model, "--id", "slide"), "--id goes with --predictions"),
        ((*model,), "no column 'grade'"),
        ((*model, "--target", "Diagnose"), "Did you mean 'Diagnosis'"),
        ((*model[:4], "--labels", odd, "--out", tmp_path / "o"), "Label 'g9' is none of the classes g0, g1"),
        ((*model, "--target", "Diagnosis", "--target", "months"), "the model answers grade"),
        (("--predictions", table), "one --target COLUMN"),
        ((*judged, "--store", store), "--store goes with --model"),
        ((*judged,), "sum to 1.1, not to 1"),
        ((*judged, "--probability", "score"), "'two' is no number"),
        ((*judged, "--probability", "scor"), "Did you mean 'score'"),
        ((*judged, "--probability", "score=c"), "none of the classes a, b"),
        ((*judged, "--id", "name"), "no column 'name'"),
        (("--predictions", tmp_path / "absent.csv", "--target", "x"), "Cannot read the table"),
        ((*judged, "--bootstrap", "10"), "greater than or equal to 1000"),
    ):
        try:
            code = evaluate(*words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr().err
        assert (code, len(told.strip().splitlines())) == (2, 1), told
        assert message in told, told
    assert not (tmp_path / "o").exists()
