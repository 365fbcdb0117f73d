"""slide-tune and slide-eval end to end."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.cli.main import main
from pathotune_pipeline.store.store import open_store
from pathotune_pipeline.store.trained import trained_models
from pathotune_pipeline.testing.cohort import FEATURES, CohortFiles, CohortSpec, DrawnCohort, draw_cohort, write_cohort
from tests.tuning.cases.conftest import write

ENCODER = ["--slide-encoder", "longnet", "--set", "slide_encoder.settings={dim: 24, layers: 2, heads: 3}"]
SMALL = [
    "--epochs", "1", "--warmup-epochs", "0", "--n-blocks", "2", "--n-heads", "3", "--n-gene-tokens", "4",
    "--pathway-dim", "12", "--n-mixers", "1", "--out-dim", "24",
]  # fmt: skip


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The card that a command prints."""
    assert main([*map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([*map(str, words)]) == 2
    return capsys.readouterr().err


def slides(cohort: CohortFiles) -> list[object]:
    return ["--store", cohort.store, "--features", FEATURES, "--cases", cohort.cases]


def expression(cohort: CohortFiles) -> list[object]:
    return ["--genes", cohort.genes, "--pathways", cohort.pathways]


@pytest.fixture(scope="module")
def tuned(cohort: CohortFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "out"
    words = ["slide-tune", *slides(cohort), *expression(cohort), *ENCODER, *SMALL, "--clinical", "age", "stage"]
    assert main([str(word) for word in [*words, "--hold-out", "beta", "--test-share", "0.4", "--out", out]]) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_cohort_goes_through_to_a_report(tuned: Path, drawn: DrawnCohort) -> None:
    card = json.loads((tuned / "tuned.json").read_text())
    assert card["cohorts"] == ["alpha", "beta"]
    assert card["unseen_cohorts"] == ["beta"]
    assert any("no language" in note and "label semantics" in note for note in card["notes"])
    assert "no language" in card["text"]["note"]
    cases = rows(tuned / "cases.csv")
    assert {row["cohort"] for row in cases if row["seen"] == "0"} == {"beta"}
    assert {row["part"] for row in cases if row["seen"] == "1"} == {"train", "val", "test"}
    assert all(bool(row["general"]) == (row["seen"] == "1" and row["part"] != "test") for row in cases)
    with np.load(tuned / "embeddings.npz") as held:
        assert held["embeddings"].shape == (len(held["cases"]), 3, 24)
        assert sorted(held["cases"]) == sorted(row["case_id"] for row in cases)
        assert held["tasks"].tolist() == card["tasks"] == ["general", "diagnosis", "survival"]
    judged = {row["case_id"] for row in rows(tuned / "predictions.csv")}
    assert judged == {row["case_id"] for row in cases if row["part"] == "test"}
    scores = {(row["task"], row["cohort"], row["score"]) for row in rows(tuned / "scores.csv")}
    assert {
        ("survival", "beta", "c_index"),
        ("survival", "overall", "c_index"),
        ("general", "overall", "cohort"),
    } <= scores
    assert {row["pathway"] for row in rows(tuned / "pathways.csv")} == set(drawn.sets)
    page = (tuned / "report.html").read_text()
    for part in (
        "Scores",
        "Survival by predicted risk: alpha",
        "Pathways: beta",
        drawn.planted,
        "highest risk",
        "data:image/jpeg",
    ):
        assert part in page
    assert "<script" not in page
    assert not (tuned / "course.safetensors").exists()


def test_the_store_knows_what_the_network_learnt_from(tuned: Path, cohort: CohortFiles) -> None:
    assert cohort.store is not None
    card = json.loads((tuned / "tuned.json").read_text())
    own = next(each for each in trained_models(open_store(cohort.store)) if each.fingerprint == card["fingerprint"])
    learnt = {
        row["case_id"] for row in rows(tuned / "cases.csv") if row["part"] != "test" and "image" in row["modalities"]
    }
    assert set(own.slides.values()) == learnt


def test_other_cases_are_judged_by_the_judges_of_the_training_and_those_it_knew_are_not(
    tuned: Path, cohort: CohortFiles, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    same = ["slide-eval", tuned, *slides(cohort), "--genes", cohort.genes]
    card = told(capsys, *same, "--out", tmp_path / "again")
    before = {(row["case_id"], row["task"]): row for row in rows(tuned / "predictions.csv")}
    after = {(row["case_id"], row["task"]): row for row in rows(tmp_path / "again" / "predictions.csv")}
    assert before == after  # the same test cases, the same judges, the same bits
    assert {each["value"] for each in card["scores"]} == {
        each["value"] for each in json.loads((tuned / "tuned.json").read_text())["scores"]
    }
    with np.load(tuned / "embeddings.npz") as one, np.load(tmp_path / "again" / "embeddings.npz") as two:
        np.testing.assert_array_equal(one["embeddings"], two["embeddings"])


def test_a_subset_of_modalities_gets_judges_of_its_own(
    tuned: Path, cohort: CohortFiles, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    card = told(capsys, "slide-eval", tuned, *slides(cohort), "--modalities", "image", "--out", tmp_path / "image")
    assert card["modalities"]["genes"] == card["modalities"]["clinical"] == 0
    assert any("Without genes, clinical: judges are fitted anew" in note for note in card["notes"])
    with np.load(tuned / "embeddings.npz") as one, np.load(tmp_path / "image" / "embeddings.npz") as two:
        assert not np.allclose(one["embeddings"][:2], two["embeddings"][:2])
    genes = ["slide-eval", tuned, "--cases", cohort.cases, "--genes", cohort.genes, "--out", tmp_path / "genes"]
    assert told(capsys, *genes)["modalities"]["image"] == 0
    assert "lies there already" in refused(capsys, *genes)


def test_an_unseen_cohort_is_judged_with_the_network_frozen(
    tuned: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = CohortSpec(cases=30, cohorts=3, tiles=(6, 12), dim=8, pathways=4, genes=5, seed=9)
    other = write_cohort(draw_cohort(spec), tmp_path)
    words = [
        "slide-eval",
        tuned,
        *slides(other),
        "--genes",
        other.genes,
        "--test-share",
        "0.4",
        "--out",
        tmp_path / "new",
    ]
    card = told(capsys, *words)
    assert any("gamma: judges fitted here" in note for note in card["notes"])
    assert any(note.startswith("alpha: judged by the judges of the training") for note in card["notes"])
    assert {each["cohort"] for each in card["scores"]} >= {"gamma"}


def test_genes_and_clinical_fields_alone_make_a_network_and_that_is_said(
    cohort: CohortFiles, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["slide-tune", "--cases", cohort.cases, *expression(cohort), *SMALL, "--dim", 24, "--clinical", "age"]
    card = told(capsys, *words, "--out", tmp_path / "out")
    assert card["slide_encoder"] is None
    assert any("No slides" in note for note in card["notes"])
    assert told(
        capsys,
        "slide-eval",
        tmp_path / "out",
        "--cases",
        cohort.cases,
        "--genes",
        cohort.genes,
        "--out",
        tmp_path / "e",
    )


def test_wrong_calls_are_told(
    cohort: CohortFiles, tuned: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--out", tmp_path / "out"]
    tune = ["slide-tune", *ENCODER, *SMALL, *out]
    assert "--pathways" in refused(capsys, *tune, *slides(cohort), "--genes", cohort.genes)
    assert "--store was given without --features" in refused(
        capsys, *tune, "--cases", cohort.cases, "--store", cohort.store
    )
    assert "nothing to learn from" in refused(capsys, *tune, "--cases", cohort.cases)
    assert "no column 'grde'" in refused(capsys, *tune, *slides(cohort), "--clinical", "grde")
    assert "no such cohort" in refused(capsys, *tune, *slides(cohort), "--hold-out", "delta")
    strangers = write(tmp_path / "s.csv", "case_id,slide_id,subtype", "Q1,q.svs,A")
    assert "no case has a slide in the store" in refused(
        capsys, *tune, "--store", cohort.store, "--features", FEATURES, "--cases", strangers
    )
    assert "neither rows nor columns are cases" in refused(
        capsys,
        *tune,
        *slides(cohort),
        "--genes",
        write(tmp_path / "g.csv", "id,X", "Q,1"),
        "--pathways",
        cohort.pathways,
    )
    lines = cohort.genes.read_text().splitlines()
    fewer = write(tmp_path / "fewer.csv", *(line.rpartition(",")[0] for line in lines))
    assert "lacks 1 of the 20 genes" in refused(capsys, "slide-eval", tuned, *slides(cohort), "--genes", fewer, *out)
    staged = write(
        tmp_path / "staged.csv", *(line.replace(",IIB,", ",nine,") for line in cohort.cases.read_text().splitlines())
    )
    words = [*tune, "--store", cohort.store, "--features", FEATURES, "--cases", staged]
    assert "stage 'nine' cannot be read" in refused(capsys, *words)
    assert "no tuned.json" in refused(capsys, "slide-eval", tmp_path, *slides(cohort), *out)
    assert "holds a finished" in refused(capsys, "slide-tune", *slides(cohort), *ENCODER, *SMALL, "--out", tuned)
