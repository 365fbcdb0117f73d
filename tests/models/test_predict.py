"""Predictions: a row for each slide, the model's own features and no others, and silence on poor slides."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.bags.dataset import read_bag
from pathotune_pipeline.cli import main
from pathotune_pipeline.models import open_model
from pathotune_pipeline.models.quality import PredictSpec, objections
from pathotune_pipeline.store.store import open_store
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tissue.quality import Quality
from tests.models.conftest import FAST, Study, extract

GOOD = Quality(10.0, 0.5, 0.1, 0.0, 0.0, None, None, (240.0, 240.0, 240.0), 16.0)


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def from_store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    out = tmp_path_factory.mktemp("table") / "p.csv"
    assert predict("--model", study.model, "--store", study.store, "--out", out) == 3
    return rows_of(out)


def test_every_slide_has_a_row(from_store: dict[str, dict[str, str]]) -> None:
    assert len(from_store) == 7
    assert list(from_store["case-0%2Fs0.tif"]) == [
        "slide_id", "case_id", "status", "reason", "predicted", "prob_g0", "prob_g1", "tiles", "model",
    ]  # fmt: skip
    broken = from_store["case-0%2Fbroken.svs"]
    assert broken["status"] == "failed"
    assert "no reader can open it" in broken["reason"]
    assert broken["predicted"] == broken["prob_g0"] == ""
    for row in (row for row in from_store.values() if row is not broken):
        assert row["status"] == "predicted"
        probs = [float(row["prob_g0"]), float(row["prob_g1"])]
        assert sum(probs) == pytest.approx(1)
        assert row["predicted"] == f"g{int(np.argmax(probs))}"
        assert len(row["model"]) == 12


def test_from_slides_end_to_end_says_the_same(
    study: Study, from_store: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    words = ("--model", study.model, "--slides", study.archive, "--executor", "serial", "--out", out)
    assert predict(*words) == 3
    assert rows_of(out) == from_store
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv"]  # the temporary store is gone
    assert predict(*words, "--overwrite", "--store", tmp_path / "kept") == 3
    assert rows_of(out) == from_store
    assert (tmp_path / "kept" / "store.json").exists()


def test_by_case_and_calibrated(study: Study, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    lines = [f"case-{n // 2}/s{n}.tif,C{n // 4}" for n in range(6)]
    manifest.write_text("\n".join(["path,case_id", *lines, "case-0/broken.svs,C9"]) + "\n")
    source = ("--slides", study.archive, "--manifest", manifest, "--store", tmp_path / "s", "--executor", "serial")
    assert predict("--model", study.model, *source, "--out", tmp_path / "slides.csv") == 3
    assert predict("--model", study.model, *source, "--by", "case", "--out", tmp_path / "cases.csv") == 3
    slides, cases = rows_of(tmp_path / "slides.csv"), rows_of(tmp_path / "cases.csv")
    assert list(cases) == ["C0", "C1", "C9"]
    assert (cases["C0"]["slides"], cases["C0"]["slides_predicted"], cases["C9"]["status"]) == ("4", "4", "failed")
    mean = np.mean([float(row["prob_g1"]) for row in slides.values() if row["case_id"] == "C0"])
    assert float(cases["C0"]["prob_g1"]) == pytest.approx(mean)
    calibrated = tmp_path / "calibrated.csv"
    assert predict("--model", study.model, "--store", study.store, "--calibrated", "--out", calibrated) == 3
    name = "case-1%2Fs3.tif"
    assert rows_of(calibrated)[name]["prob_g1"] != slides[name]["prob_g1"]


def test_features_of_another_recipe_are_refused(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    extract(study.archive / "case-1", store, "--mpp", 2)
    capsys.readouterr()
    assert (
        predict("--model", study.model, "--store", store, "--features", "stain-texture", "--out", tmp_path / "p") == 2
    )
    said = capsys.readouterr().err
    assert "mpp: 1.0 / 2.0" in said
    assert "takes no other" in said
    assert predict("--model", study.model, "--store", store, "--out", tmp_path / "p") == 2
    assert "no such set" in capsys.readouterr().err
    slides = ("--model", study.model, "--slides", study.archive, "--out", tmp_path / "p")
    assert predict(*slides, "--set", "tiles.min_tissue=0.6") == 2
    assert "tiles.min_tissue: 0.25 / 0.6" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
    assert not (tmp_path / ".p.store").exists()


def test_it_abstains_and_says_why(study: Study, tmp_path: Path) -> None:
    write_slide(tmp_path / "a" / "small.tif", size_px=(512, 512), seed=3)
    write_slide(tmp_path / "a" / "blank.tif", size_px=(256, 256), seed=5)
    out = tmp_path / "p.csv"
    words = ("--model", study.model, "--slides", tmp_path / "a", "--executor", "serial", "--out", out)
    assert predict(*words, "--min-tiles", 17) == 0
    rows = rows_of(out)
    assert rows["blank.tif"]["reason"] == "no tissue was found"
    assert "readable tiles, under 17" in rows["small.tif"]["reason"]
    assert {(row["status"], row["prob_g0"]) for row in rows.values()} == {("abstained", "")}
    assert predict("--model", study.model, "--store", study.store, "--abstain-flagged", "--out", tmp_path / "q") == 3
    assert {row["status"] for row in rows_of(tmp_path / "q").values()} == {"abstained", "failed"}


def test_the_rules_of_quality() -> None:
    spec = PredictSpec()

    def said(quality: Quality | None = GOOD, tiles: int = 100, invalid: int = 0, flags: tuple[str, ...] = ()) -> str:
        return "; ".join(objections(spec, tiles=tiles, invalid=invalid, quality=quality, flags=flags))

    assert said() == said(None) == said(flags=("only 0.5 mm2 of tissue",)) == ""
    assert said(tiles=7) == "7 readable tiles, under 8"
    assert said(tiles=20, invalid=2) == "2 of 20 tiles cannot be read"
    values = GOOD.as_dict()
    bad = Quality.from_dict({**values, "blur_share": 0.6, "fold_share": 0.4, "pen_share": 0.3})
    assert said(bad) == (
        "60% of the tissue is blurred, over 50%; 40% of the tissue is folded, over 30%; 30% of the slide is under pen, over 20%"
    )
    strict = PredictSpec(abstain_flagged=True)
    assert objections(strict, tiles=100, invalid=0, quality=GOOD, flags=["pen"]) == ["flagged: pen"]


def test_several_targets_stand_side_by_side(study: Study, tmp_path: Path) -> None:
    words = study.words("train", *FAST, "--head", "mean", "--target", "ki67:regression", "--out", tmp_path / "m")
    assert main(words) == 0
    out = tmp_path / "p.csv"
    assert predict("--model", tmp_path / "m" / "ki67", "--store", study.store, "--out", out) == 3
    row = rows_of(out)["case-1%2Fs2.tif"]
    assert {"grade.predicted", "grade.prob_g0", "grade.prob_g1", "ki67.predicted"} <= row.keys()
    assert np.isfinite(float(row["ki67.predicted"]))


def test_a_model_of_patients_answers_for_all_slides_of_one(study: Study, tmp_path: Path) -> None:
    words = study.words("train", *FAST, "--unit", "fuse", "--head", "abmil", "--out", tmp_path / "m")
    assert main(words) == 0
    model = open_model(tmp_path / "m")
    assert model.fused
    assert model.card.data["cases"] == {"train": 2, "val": 2, "test": 2}
    assert len(model.seen.slides) == len(model.seen.cases) == 4
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,case_id\n" + "".join(f"case-1/s{n}.tif,C{n // 4}\n" for n in (2, 3)))
    source = ("--slides", study.archive, "--manifest", manifest, "--executor", "serial", "--store", tmp_path / "s")
    assert predict("--model", tmp_path / "m", *source, "--out", tmp_path / "p.csv") == 0
    one, other = rows_of(tmp_path / "p.csv").values()
    assert one["prob_g1"] == other["prob_g1"]
    store = open_store(tmp_path / "s")
    bags = [read_bag(store, record, case_id="C0") for record in store.records(store.find_set("stain-texture")).values()]
    both = replace(
        bags[0],
        features=np.concatenate([bag.features for bag in bags]),
        coords=np.concatenate([bag.coords for bag in bags]),
    )
    assert float(one["prob_g1"]) == pytest.approx(float(model.answer(both).values["grade"][1]), abs=1e-12)


def test_wrong_calls_are_one_clear_line(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.csv").touch()
    shutil.copytree(study.model, tmp_path / "m")
    (tmp_path / "m" / "models" / "seed0-fold0" / "head.safetensors").write_bytes(b"")
    model, store = ("--model", study.model), ("--store", study.store)
    for words, code, message in (
        ((*model,), 2, "Nothing to predict"),
        ((*model, *store, "--slides", study.archive, "--features", "x"), 2, "goes without --slides"),
        ((*model, "--slides", tmp_path / "absent"), 2, "absent"),
        ((*model, "--store", tmp_path / "absent"), 2, "a store is needed"),
        (("--model", tmp_path, *store), 2, "a folder that `pathotune train`"),
        (("--model", tmp_path / "m", *store), 1, "Train or copy it again"),
        ((*model, *store, "--out", tmp_path / "there.csv"), 2, "there already"),
        ((*model, *store, "--out", tmp_path), 2, "this is a folder"),
        ((*model, *store, "--min-tiles", "0"), 2, "greater than or equal to 1"),
    ):
        found = predict(*words, *(() if "--out" in words else ("--out", tmp_path / "p.csv")))
        told = capsys.readouterr().err
        assert (found, len(told.strip().splitlines())) == (code, 1), told
        assert message in told
    assert not (tmp_path / "p.csv").exists()
