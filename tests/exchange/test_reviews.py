"""Reviews: kept for good, the newest verdict counts, and extraction, training and prediction obey it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import ManifestError, StoreError, UsageError
from pathotune_pipeline.exchange.reviews import bring_reviews, read_review_table
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.reviewed import without_rejected
from pathotune_pipeline.store import FeatureStore, open_store
from pathotune_pipeline.store.ledger import read_ledger
from pathotune_pipeline.store.reviews import Review, add_review, current_verdicts, read_reviews, rejected_keys
from pathotune_pipeline.store.trained import trained_models

SPEC = ExtractSpec.parse({"tiles": {"tile_px": 128}})
FAST = (
    "--set",
    "model.train={epochs: 1, min_epochs: 0}",
    "--test-share",
    "0",
    "--val-share",
    "0.4",
    "--seeds",
    "1",
    "--head",
    "mean",
)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "empty")
    store.initialise()
    return store


def test_the_newest_verdict_counts_and_nothing_is_changed(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add_review(store, "a.svs", Review("a.svs", "reject", "A"))
    before = {path: path.read_bytes() for path in (store.root / "reviews").iterdir()}
    monkeypatch.setattr("time.time_ns", lambda: 5)  # the clock was set back
    add_review(store, "a.svs", Review("a.svs", "comment", "B", "why?"))
    add_review(store, "a@b-reject.svs", Review("a@b-reject.svs", "accept", "A"))
    assert rejected_keys(store) == {"a.svs"}
    add_review(store, "a.svs", Review("a.svs", "accept", "B", "it is good"))
    assert current_verdicts(store) == {"a.svs": "accept", "a@b-reject.svs": "accept"}
    assert [(each.verdict, each.by) for each in read_reviews(store, "a.svs")] == [
        ("reject", "A"), ("comment", "B"), ("accept", "B"),
    ]  # fmt: skip
    assert all(path.read_bytes() == data for path, data in before.items())
    assert all(each.at.endswith("Z") for each in read_reviews(store))


@pytest.mark.parametrize(
    ("review", "told"),
    [
        (Review("a", "reject", " "), "nobody is named"),
        (Review("a", "comment", "A"), "comment is empty"),
        (Review("a", "maybe", "A"), "verdict is 'maybe'"),  # type: ignore[arg-type]
        (Review("a", "reject", "A", "x" * 5000), "Shorten it"),
    ],
)
def test_what_cannot_be_kept(store: FeatureStore, review: Review, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        add_review(store, "a", review)
    assert read_reviews(store) == []


def test_a_record_cut_short_still_counts_by_its_name(store: FeatureStore) -> None:
    add_review(store, "a.svs", Review("a.svs", "reject", "A"))
    next((store.root / "reviews").iterdir()).write_bytes(b'{"slide')
    assert rejected_keys(store) == {"a.svs"}
    with pytest.raises(StoreError, match="no whole review"):
        read_reviews(store)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, small_archive: Path) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("reviewed") / "s")
    extract(read_manifest(small_archive), SPEC, store, SerialExecutor())
    return store


def test_a_table_is_kept_whole_or_not_at_all_and_once(extracted: FeatureStore, tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("Slide,Verdict,Comment,by\ns0,ok,,\ncase-1/s2.tif,Rejected,blurred,B\ns3.tif,,pen,\ns4,,,\n")
    asked = read_review_table(table, "A")
    kept = bring_reviews(extracted, asked)
    assert [(each.slide_id, each.verdict, each.by, each.comment) for each in kept] == [
        ("case-0%2Fs0.tif", "accept", "A", ""),
        ("case-1%2Fs2.tif", "reject", "B", "blurred"),
        ("case-1%2Fs3.tif", "comment", "A", "pen"),
    ]
    assert bring_reviews(extracted, asked) == [], "a table that is brought in again says nothing new"
    with pytest.raises(UsageError, match="knows no slide 's9'"):
        bring_reviews(extracted, [Review("s1", "reject", "A"), Review("s9", "reject", "A")])
    assert rejected_keys(extracted) == {"case-1%2Fs2.tif"}
    bring_reviews(extracted, [Review("broken.svs", "comment", "A", "a slide that failed is known too")])
    table.write_text("slide,verdict\ns0,perhaps\n")
    with pytest.raises(ManifestError, match="line 2: the verdict is 'perhaps'"):
        read_review_table(table)
    bring_reviews(extracted, [Review("s2", "accept", "B", "it is not")])


def test_extraction_training_and_prediction_obey(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, store, model, table = tmp_path / "in", str(tmp_path / "s"), str(tmp_path / "m"), tmp_path / "labels.csv"
    shutil.copytree(small_archive, archive)
    shutil.copy(archive / "case-1" / "s2.tif", archive / "case-2" / "s6.tif")
    slides = ("extract", "--slides", str(archive), "--store", store, "--tile-px", "128", "--executor", "serial")
    table.write_text("slide,patient,grade\n" + "".join(f"s{n},P{n},g{n % 2}\n" for n in range(7)))
    assert main([*slides, "--json"]) == 3
    words = ("review", "--store", store)
    assert main([*words, "--slide", "s0", "broken", "--reject", "--by", "A", "--comment", "no"]) == 0
    assert main([*words, "--slide", "s1"]) == 2, "a review has somebody"
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert [each["slide_id"] for each in json.loads(capsys.readouterr().out)] == [
        "case-0%2Fbroken.svs",
        "case-0%2Fs0.tif",
    ]
    assert main([*slides, "--dry-run"]) == 0
    assert "passed over 2, rejected in review: case-0%2Fbroken.svs, case-0%2Fs0.tif" in capsys.readouterr().out
    assert main([*slides, "--json"]) == 0, "what was rejected fails no more"
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["slides"] == 6
    assert ["case-0%2Fs0.tif", "rejected in review"] in told["passed_over"]
    assert told["removed"] == []

    study = ("train", "--store", store, "--features", "stain-texture", "--labels", str(table), "--target", "grade")
    assert main([*study, *FAST, "--out", model]) == 0
    assert "1 slides are rejected in review and left out (case-0%2Fs0.tif)." in capsys.readouterr().out
    with (Path(model) / "slides.csv").open() as file:
        assert {row["slide_id"].rpartition("F")[2] for row in csv.DictReader(file)} == {
            f"s{n}.tif" for n in range(1, 7)
        }

    (kept,) = trained_models(open_store(store))
    assert (kept.name, len(kept.slides)) == ("m", 6)
    assert "train" in {entry.verb for entry in read_ledger(open_store(store))}

    for source in ((), ("--slides", str(archive), "--executor", "serial")):
        out = tmp_path / f"p{len(source)}.csv"
        assert main(["predict", "--model", model, "--store", store, *source, "--out", str(out)]) == 0
        with out.open() as file:
            rows = {row["slide_id"]: row for row in csv.DictReader(file)}
        assert len(rows) == 8
        assert [rows["case-0%2Fs0.tif"][name] for name in ("status", "reason")] == ["abstained", "rejected in review"]
        assert sum(row["status"] == "predicted" for row in rows.values()) == 6
    assert main(["status", "--store", store, "--ledger"]) == 0
    assert " train: features stain-texture" in capsys.readouterr().out
    assert main([*words, "--slide", "s0", "--accept", "--by", "B"]) == 0
    assert len(without_rejected(read_manifest(archive), open_store(store))) == 7
