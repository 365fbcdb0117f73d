"""`pathotune encode-slides` and its table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.cli.main import SOME_FAILED, WRONG_CALL, main
from pathotune_pipeline.store import FeatureStore
from pathotune_pipeline.store.reviews import Review, add_review
from tests.embeddings.stores import DIM, new_store, put_slide


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return new_store(tmp_path / "store")


def called(store: FeatureStore, *arguments: str) -> int:
    return main(["encode-slides", "--store", str(store.root), "--features", "toy", "--device", "cpu", *arguments])


def test_vectors_into_the_store_and_a_csv_that_reads_back_to_the_same_bits(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "slides.csv"
    assert called(store, "--slide-encoder", "mean-toy", "--out", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["computed"] == 3
    with out.open() as file:
        header, *rows = csv.reader(file)
    assert header == ["slide_id", "case_id", "tiles", *(f"e{i}" for i in range(DIM))]
    vectors = store.embeddings(store.find_set(told["embeddings"], "embeddings"))
    assert [row[:3] for row in rows] == [[f"{x}.svs", f"case of {x}.svs", str(19 + i)] for i, x in enumerate("abc")]
    for row in rows:
        assert np.array_equal(np.array(row[3:], np.float32), vectors[row[0]])
    assert called(store) == 0
    assert "3: all were there already" in capsys.readouterr().out


def test_a_parquet_table(store: FeatureStore, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "slides.parquet"
    settings = "slide_encoder.settings={dim: 8, layers: 1, heads: 2}"
    assert called(store, "--slide-encoder", "longnet", "--set", settings, "--out", str(out)) == 0
    table = parquet.read_table(out)
    (name,) = store.sets("embeddings")
    vectors = store.embeddings(name)
    assert table.schema.metadata[b"embeddings_set"] == str(name).encode()
    assert table.column("slide_id").to_pylist() == list(vectors)
    found = np.stack([table.column(f"e{i}").to_numpy() for i in range(8)], axis=1)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.stack(list(vectors.values())))


def test_a_slide_that_fails_is_told_and_changes_the_exit_code(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_slide(store, "nan.svs", features=np.full((20, DIM), np.nan, np.float16))
    out = tmp_path / "slides.csv"
    assert called(store, "--out", str(out)) == SOME_FAILED
    told = capsys.readouterr().out
    assert "failed      nan.svs: mean made NaN or infinity" in told
    assert "written to" in told
    assert len(out.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--slide-encoder", "mean-uni"), "Give mean-toy, or mean"),
        (("--slide-encoder", "titna"), "Did you mean 'titan'"),
        (("--slide-encoder", "local:absent.safetensors"), "nothing lies at"),
        (("--slide-encoder", "mean", "--weights", "x"), "--weights goes with a published"),
        (("--slide-encoder", "longnet", "--set", "slide_encoder.settings={layer: 1}"), "Did you mean 'layers'"),
        (("--out", "slides.txt"), "ends in .parquet or .csv"),
        (("--threads", "-1"), "at least 1"),
        (("--features", "uni"), "no such set is in the store"),
    ],
)
def test_wrong_calls_say_what_to_do(
    store: FeatureStore, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    code = called(store, *arguments)
    assert told in capsys.readouterr().err
    assert code in (WRONG_CALL, 1)
    assert not store.sets("embeddings")


def test_a_table_that_is_there_is_not_replaced_unasked(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "slides.csv"
    out.write_text("mine")
    assert called(store, "--out", str(out)) == WRONG_CALL
    assert "something is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert not store.sets("embeddings")
    assert called(store, "--out", str(out), "--overwrite") == 0
    assert out.read_text().startswith("slide_id,")


def test_what_reviewers_rejected_is_left_out_and_counted(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "slides.csv"
    assert called(store) == 0  # its vector is there from before the review
    add_review(store, "b.svs", Review("b.svs", "reject", "A. Reader"))
    put_slide(store, "d.svs")
    add_review(store, "d.svs", Review("d.svs", "reject", "A. Reader"))
    capsys.readouterr()
    assert called(store, "--out", str(out)) == 0
    assert "rejected    2 in review, left out: b.svs, d.svs" in capsys.readouterr().out
    with out.open() as file:
        assert [row[0] for row in csv.reader(file)] == ["slide_id", "a.svs", "c.svs"]
    assert "d.svs" not in store.records(store.find_set("mean-toy", "embeddings"))
    add_review(store, "d.svs", Review("d.svs", "accept", "B. Reader"))
    assert called(store, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["counts"]["computed"], told["counts"]["rejected"], told["rejected"]) == (1, 1, ["b.svs"])


def test_status_tells_of_embeddings(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    called(store)
    capsys.readouterr()
    assert main(["status", "--store", str(store.root), "--verify"]) == 0
    told = capsys.readouterr().out
    assert "embeddings-mean-toy-256px-0.5mpp-" in told
    assert "encode-slides: 3 computed of 3, 0 failed" in told
