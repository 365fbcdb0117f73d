"""`pathotune study` from its file to its page, on images whose classes are colours."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pathotune_pipeline.cli import main
from tests.encoders.checkpoints import write_checkpoint
from tests.models.conftest import extract

FILE = """
title: Pink against violet
patches: {{source: {folder}/labels.csv}}
encoders: {{texture: {{name: stain-texture}}}}
methods:
  linear: {{method: linear}}
  neighbours: {{method: knn, knn_k: [3]}}
scaling: {{train_domains: [a], fractions: [0.5, 1.0], seeds: 2}}
domains: {{seeds: 1}}
protocol: {{steps: 60, batch: 16, lr: 0.01, runs: 2}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 px images of two colours: domain a by slide, domain b without slides, and parts of both."""
    place = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    lines = ["path,label,slide,domain,split"]
    for number in range(72):
        kind, domain = number % 2, "a" if number < 48 else "b"
        colour = np.array([200, 120, 190] if kind else [150, 90, 180])
        image = np.clip(colour + rng.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(place / f"{number}.png"), image[:, :, ::-1])
        slide = f"s{number // 4}" if domain == "a" else ""
        part = ("train", "train", "val", "test")[number // 4 % 4]
        lines.append(f"{number}.png,{'pink' if kind else 'violet'},{slide},{domain},{part}")
    (place / "labels.csv").write_text("\n".join(lines) + "\n")
    (place / "study.yaml").write_text(FILE.format(folder=place))
    return place


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def call(kind: str, folder: Path, out: Path, *more: object) -> int:
    return main(["study", kind, "--study", str(folder / "study.yaml"), "--out", str(out), *map(str, more)])


def test_scaling_from_file_to_page_and_nothing_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("scaling", folder, tmp_path) == 0
    told = capsys.readouterr().out
    assert "texture, linear" in told
    summary = table(tmp_path / "summary.csv")
    known = {(row["test"], row["resampled"], row["in_domain"]) for row in summary}
    assert known == {("a", "group", "yes"), ("b", "image", "no")}
    best = [row for row in summary if (row["method"], row["fraction"], row["score"]) == ("linear", "1.0", "auroc")]
    assert [float(row["mean"]) > 0.95 for row in best] == [True, True]
    page = (tmp_path / "study.html").read_text()
    for said in ("Pink against violet", "intervals by group", "intervals by image", "<svg", "±"):
        assert said in page
    assert "<script" not in page
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(before) == 2 * 2 * 2
    assert call("scaling", folder, tmp_path, "--json") == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == before
    assert json.loads(capsys.readouterr().out)["summary"][0]["score"] == "balanced_accuracy"
    assert call("scaling", folder, tmp_path, "--seeds", 3) == 0
    assert len(list((tmp_path / "cells").iterdir())) == 2 * 2 * 3, "a flag goes over the file; two seeds are there"


def test_domains_train_on_each_and_test_on_all(folder: Path, tmp_path: Path) -> None:
    assert call("domains", folder, tmp_path) == 0
    pairs = {(row["train_domain"], row["test"], row["in_domain"]) for row in table(tmp_path / "summary.csv")}
    assert pairs == {("a", "a", "yes"), ("a", "b", "no"), ("b", "a", "no"), ("b", "b", "yes")}
    assert "24 training images of b name no slide" in (tmp_path / "study.html").read_text()


def test_the_protocol_uses_the_parts_that_the_data_name(folder: Path, tmp_path: Path) -> None:
    assert call("protocol", folder, tmp_path) == 0
    cells = table(tmp_path / "cells.csv")
    assert [
        (row["method"], row["test"], row["train_images"], row["val_images"], row["test_images"]) for row in cells
    ] == [("linear head", "test", "40", "16", "16")] * 2
    assert len({row["auroc"] for row in cells} | {row["seed"] for row in cells}) > 2
    (kept,) = (tmp_path / "embeddings").glob("*.npy")
    assert np.load(kept).shape == (72, 171)
    stamp = kept.stat().st_mtime_ns
    assert call("protocol", folder, tmp_path, "--runs", 3) == 0
    assert kept.stat().st_mtime_ns == stamp, "images are encoded once"
    assert len(table(tmp_path / "cells.csv")) == 3


def test_kept_features_are_known_by_what_made_them_and_made_anew_where_torn(folder: Path, tmp_path: Path) -> None:
    text, own = (folder / "study.yaml").read_text(), tmp_path / "file"
    own.mkdir()

    def kept(patches: str, *more: object) -> dict[str, bytes]:
        (own / "study.yaml").write_text(text.replace("labels.csv}", patches))
        assert call("protocol", own, tmp_path, *more) == 0
        return {path.name: path.read_bytes() for path in (tmp_path / "embeddings").glob("*.npy")}

    (name,) = kept("labels.csv}")
    whole = kept("labels.csv, side_px: 40}")
    assert len(whole) == 2
    (tmp_path / "embeddings" / name).write_bytes(whole[name][:500])
    assert kept("labels.csv}", "--runs", 3) == whole


def test_slides_of_a_store_by_the_protocol(small_archive: Path, tmp_path: Path) -> None:
    extract(small_archive, tmp_path / "store")
    lines = [f"s{n}.tif,P{n},g{n % 2},{('train', 'train', 'val')[n // 2]}" for n in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["slide_id,case_id,grade,split", *lines]) + "\n")
    (tmp_path / "study.yaml").write_text(
        f"slides: {{store: {tmp_path}/store, features: {{texture: stain-texture}}, labels: {tmp_path}/labels.csv, "
        f"target: grade, splits: {tmp_path}/labels.csv}}\nprotocol: {{runs: 2, max_epochs: 2, max_tiles: 5}}\n"
    )
    assert call("protocol", tmp_path, tmp_path / "out") == 0
    cells = table(tmp_path / "out" / "cells.csv")
    assert [(row["method"], row["test"], row["status"], row["epochs"]) for row in cells] == [
        ("attention head", "val", "done", "2")
    ] * 2
    assert "also chose the epoch" in (tmp_path / "out" / "study.html").read_text()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("method: linear", "method: lineal", "methods.linear"),
        ("{method: linear}", "{method: linear, encoders: [textures]}", "texture"),
        ("methods:", "mehtods:", "methods"),
        ("train_domains: [a]", "train_domains: [c]", "'c'"),
        ("labels.csv}", "nothing.csv}", "nothing.csv"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    (tmp_path / "study.yaml").write_text((folder / "study.yaml").read_text().replace(old, new))
    assert call("scaling", tmp_path, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


def test_a_failed_cell_is_on_the_page_and_in_the_exit_code(folder: Path, tmp_path: Path) -> None:
    text = (folder / "study.yaml").read_text().replace("{method: knn, knn_k: [3]}", "{method: vpt-deep}")
    (tmp_path / "study.yaml").write_text(text)
    assert call("domains", tmp_path, tmp_path / "out") == 3
    rows = table(tmp_path / "out" / "cells.csv")
    assert {row["status"] for row in rows if row["method"] == "neighbours"} == {"failed"}
    assert {row["status"] for row in rows if row["method"] == "linear"} == {"done"}
    assert "stain-texture" in next(row["reason"] for row in rows if row["status"] == "failed")


def test_cells_of_one_encoder_do_not_disturb_each_other(folder: Path, tmp_path: Path) -> None:
    """What is tuned by one cell, weights and all, leaves no trace in the next; every kind of method is computed."""
    write_checkpoint(tmp_path / "vit")
    kinds = {
        "tuned": "full",
        "prompts": "vpt-deep",
        "both": "pathotune",
        "low rank": "lora",
        "net": "cnn",
        "probe": "linear",
    }

    def compute(methods: dict[str, str], out: Path) -> None:
        settings = {name: {"method": kind, "cnn": "resnet10t"} for name, kind in methods.items()}
        text = {
            "patches": {"source": str(folder / "labels.csv")},
            "encoders": {"vit": {"name": f"local:{tmp_path / 'vit'}"}},
            "adapt": {"batch": 16, "adapter": {"n_prompts": 2, "rank": 2}},
            "methods": settings,
            "scaling": {"train_domains": ["a"], "fractions": [1.0], "seeds": 1, "steps": 2},
        }
        (tmp_path / "study.yaml").write_text(json.dumps(text))  # which is YAML
        assert call("scaling", tmp_path, out) == 0

    compute(kinds, tmp_path / "all")
    rows = table(tmp_path / "all" / "cells.csv")
    assert {row["method"]: row["status"] for row in rows} == dict.fromkeys(kinds, "done")
    assert {row["encoder"] for row in rows if row["method"] == "net"} == {""}
    trainable = {row["method"]: int(row["trainable"]) for row in rows}
    assert 0 < trainable["probe"] < trainable["prompts"] < min(trainable["both"], trainable["tuned"])
    compute({"probe": "linear", "low rank": "lora"}, tmp_path / "two")
    for path in (tmp_path / "two" / "cells").iterdir():
        one, other = (json.loads((tmp_path / out / "cells" / path.name).read_bytes()) for out in ("all", "two"))
        assert one["probabilities"] == other["probabilities"]
