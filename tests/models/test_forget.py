"""A case is forgotten to the last byte, wherever the process dies, and nothing else goes; its models are named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli import main
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store import FeatureStore, open_store
from pathotune_pipeline.store.forget import unfinished
from pathotune_pipeline.store.ledger import enter, ledger_faults, read_ledger
from pathotune_pipeline.store.masks import MaskPointer, use_mask
from pathotune_pipeline.store.reviews import Review, add_review, read_reviews
from pathotune_pipeline.store.trained import TrainedModel, trained_models
from pathotune_pipeline.store.verify import verify_store
from pathotune_pipeline.testing.slides import write_slide

CASE = "P-MUSTERMANN"
GONE = "MUSTERMANN_a.tif"
NEAR = "nearMUSTERMANN_a.tif"
"""Of another patient, with a name that holds the other one's."""
SPEC = ExtractSpec.parse({"tiles": {"tile_px": 128}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three slides with all that may lie in one, and outputs beside it."""
    place = tmp_path_factory.mktemp("forget")
    for seed, name in enumerate((GONE, NEAR, "other.tif")):
        write_slide(place / "in" / name, size_px=(1024, 1024), seed=seed)
    table = place / "slides.csv"
    table.write_text(f"path,case_id\n{GONE},{CASE}\n{NEAR},P2\nother.tif,P3\n")
    store = FeatureStore(place / "s")
    extract(read_manifest(place / "in", table), SPEC, store, SerialExecutor())
    (place / "in" / GONE).write_bytes((place / "in" / GONE).read_bytes() + b"\0")  # a second version of it
    table.write_text(table.read_text() + "absent.tif,P4\n")
    extract(read_manifest(place / "in", table), SPEC, store, SerialExecutor())
    for slide in (GONE, NEAR):
        add_review(store, key_of(slide), Review(slide, "comment", "A", f"of {slide}"))
        use_mask(store, slide, key_of(slide), MaskPointer("0" * 64, "1" * 64))
    TrainedModel("ab" * 32, "model-one", "f", {GONE: CASE, NEAR: "P2"}).save(store)
    TrainedModel("cd" * 32, "model-two", "f", {"other.tif": "P3"}).save(store)
    out = place / "out"
    out.mkdir()
    (out / "predictions.csv").write_text(f"slide_id,case_id,status\n{GONE},{CASE},predicted\n{NEAR},P2,predicted\n")
    (out / "cases.csv").write_text(f"case_id,reason\n{CASE},\nP2,{NEAR}: poor\n")
    (out / "report.html").write_text(f"<td>{GONE}</td>")
    (out / "other.html").write_text(f"<td>{NEAR}</td>")
    (out / f"{GONE}.png").write_bytes(b"map")
    (out / f"{GONE}x.png").write_bytes(b"of another slide")
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def command(place: Path, *words: str) -> list[str]:
    return ["forget", "--store", str(place / "s"), *words]


def whole(place: Path, *words: str) -> list[str]:
    return command(place, "--case", CASE, "--output", str(place / "out"), "--models", str(place), *words)


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def naming(place: Path) -> list[Path]:
    """Files that name the slide or the case, in their name or anywhere in their bytes, but for the other patient's."""
    found = []
    for folder in ("s", "out"):
        for path, data in files(place / folder).items():
            said = (str(path).encode() + data).replace(NEAR.encode(), b"").replace(f"{GONE}x.png".encode(), b"")
            if GONE.encode() in said or CASE.encode() in said:
                found.append(path)
    return found


def check_forgotten(place: Path) -> None:
    assert naming(place) == []
    store = open_store(place / "s")
    assert verify_store(store) == []
    for name in store.sets():
        assert set(store.records(name)) == {NEAR, "other.tif"}
    assert (place / "out" / "predictions.csv").read_text().splitlines() == [
        "slide_id,case_id,status",
        f"{NEAR},P2,predicted",
    ]
    assert (place / "out" / "cases.csv").read_text().splitlines() == ["case_id,reason", f"P2,{NEAR}: poor"]
    assert {path.name for path in (place / "out").iterdir()} == {
        "predictions.csv",
        "cases.csv",
        "other.html",
        f"{GONE}x.png",
    }
    assert [(each.name, dict(each.slides), each.forgotten) for each in trained_models(store)] == [
        ("model-one", {NEAR: "P2"}, 1),
        ("model-two", {"other.tif": "P3"}, 0),
    ]
    assert [each.slide_id for each in read_reviews(store)] == [NEAR]
    assert len(json.loads((place / "s" / "cache" / "identity.json").read_text())) == 2
    assert unfinished(store) == []


def test_without_yes_nothing_goes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    assert len(naming(place)) > 15, "the search can find it"
    assert main(whole(place, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["slides"] == [GONE]
    assert told["models"] == [{"name": "model-one", "fingerprint": "ab" * 32, "slides": 1}]
    assert {Path(path).name for path in told["outside"]} == {
        "predictions.csv",
        "cases.csv",
        "report.html",
        f"{GONE}.png",
    }
    assert not told["forgotten"]
    assert files(place) == before


def test_everything_of_the_case_goes_and_nothing_else(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {path: data for path, data in files(place / "s" / "data.zarr").items() if not str(path).startswith(GONE)}
    assert main(whole(place, "--yes")) == 0
    assert "model-one abababababab was trained on 1 of them" in capsys.readouterr().out
    check_forgotten(place)
    assert files(place / "s" / "data.zarr") == kept
    assert read_ledger(open_store(place / "s"))[-1].facts["models"] == ["ab" * 32]
    assert main(whole(place, "--yes")) == 0
    assert "The store has no slide of that case" in capsys.readouterr().out
    assert main(command(place)) == 2
    assert main(command(place, "--slide", "absent.tif", "--yes")) == 0, "a slide that only ever failed"
    assert not [path for path, data in files(place / "s").items() if b"absent.tif" in data]


@pytest.mark.parametrize(
    "where",
    [
        "forget.noted", "forget.record:1", "forget.record:3", "forget.data", "forget.marks", "forget.run:2", "forget.file:1",
        "forget.cleared",
    ],
)  # fmt: skip
def test_a_kill_anywhere_is_told_and_the_next_one_goes_on(
    place: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [sys.executable, "-m", "pathotune_pipeline.cli", *whole(place, "--yes")]
    killed = subprocess.run(words, env={**os.environ, "PATHOTUNE_FAILPOINT": where}, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    told = [each.what for each in verify_store(open_store(place / "s"))]
    assert any("was not forgotten to its end" in what for what in told)
    assert main(command(place, "--yes")) == 0, "without naming anybody again"
    check_forgotten(place)


def test_it_waits_for_no_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pathotune_pipeline.store.leases import take_lease

    lease = take_lease(open_store(place / "s").place, "runs/20260101T000000Z-abcdef", 60.0)
    assert lease is not None
    before = files(place / "s")
    assert main(whole(place, "--yes")) == 1
    assert "a run is at work" in capsys.readouterr().err
    assert files(place / "s") == before
    lease.release()


def test_the_ledger_shows_what_was_changed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    store.initialise()
    assert [enter(store, "extract", slides=number) for number in range(4)] == [0, 1, 2, 3]
    assert [(each.number, each.verb, each.facts["slides"]) for each in read_ledger(store)] == [
        (number, "extract", number) for number in range(4)
    ]
    assert ledger_faults(store) == {}
    second = store.root / "ledger" / "00000001.json"
    text = second.read_text()
    second.write_text(text.replace('"slides": 1', '"slides": 9'))
    assert list(ledger_faults(store)) == ["ledger/00000002.json"]
    second.unlink()
    assert list(ledger_faults(store)) == ["ledger/00000001.json"]
    assert any(found.where == "ledger/00000001.json" for found in verify_store(store))
    second.write_text(text)
    assert enter(store, "gc") == 4
    assert ledger_faults(store) == {}
