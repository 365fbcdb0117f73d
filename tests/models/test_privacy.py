"""A patient's name in a slide's path reaches no file of a model made with pseudonyms."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.store.store import open_store
from tests.models.conftest import FAST, Study

NAME = "Mustermann"


def test_no_file_names_the_patient(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, key, out = tmp_path / "archive", tmp_path / "key", tmp_path / "out"
    for number in range(6):
        place = archive / f"{NAME}-{number}"
        place.mkdir(parents=True)
        (place / f"{NAME}.tif").symlink_to(study.archive / f"case-{number // 2}" / f"s{number}.tif")
    (archive / f"{NAME}.svs").write_bytes(b"no slide")
    key.write_text("0123456789abcdef0123456789abcdef")
    out.mkdir()
    hidden = ("--pseudonymise", key)
    source = ("--slides", archive, *hidden)
    extract = ("extract", *source, "--store", out / "store", "--tile-px", 128, "--mpp", 1, "--executor", "serial")
    assert main([str(word) for word in extract]) == 3
    store = open_store(out / "store")
    slides = list(store.records(store.find_set("stain-texture")))
    labels = out / "labels.csv"
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([("slide", "grade"), *((name, f"g{n % 2}") for n, name in enumerate(slides))])
    model, learn = out / "model", ("--features", "stain-texture", "--labels", labels, "--target", "grade")
    for words, code in (
        (("train", "--store", out / "store", *learn, *FAST, "--head", "abmil", "--out", model), 0),
        (
            (
                "predict",
                "--model",
                model,
                *source,
                "--store",
                out / "store",
                "--executor",
                "serial",
                "--out",
                out / "p.csv",
            ),
            3,
        ),
        (
            (
                "heatmap",
                "--model",
                model,
                "--store",
                out / "store",
                *source,
                "--picture-px",
                200,
                "--out",
                out / "maps",
            ),
            3,
        ),
    ):
        assert main([str(word) for word in words]) == code, words
    assert len(list((out / "maps").glob("*.tiles.png"))) == 6
    said = capsys.readouterr()
    assert NAME not in said.out.replace(str(tmp_path), "")
    searched = [path for path in out.rglob("*") if path.is_file()]
    assert len(searched) > 40
    assert not [path for path in searched if NAME in str(path) or NAME.encode() in path.read_bytes()]
