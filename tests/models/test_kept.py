"""Answers of an earlier night are taken again where nothing has changed, and never where anything has."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.bags.dataset import read_bag
from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.models import kept, open_model
from pathotune_pipeline.models.folder import Model
from pathotune_pipeline.models.forget import find_case, forget
from pathotune_pipeline.models.inputs import inputs_of_store
from pathotune_pipeline.models.predict import predict_inputs, predict_store
from pathotune_pipeline.models.quality import PredictSpec
from pathotune_pipeline.models.table import PredictionLine, count_new, slide_table, write_table
from pathotune_pipeline.store.ledger import read_ledger
from pathotune_pipeline.store.reviews import Review, add_review
from pathotune_pipeline.store.store import FeatureStore, open_store
from pathotune_pipeline.store.verify import verify_store
from tests.models.conftest import Study, extract

SPEC = PredictSpec(device="cpu")
FIRST = "case-0%2Fs0.tif"


class Reads:
    """Slides whose features a prediction read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slides: list[str] = []
        monkeypatch.setattr("pathotune_pipeline.models.predict.read_bag", self._read)

    def _read(self, store: FeatureStore, record: Any, **more: Any) -> Any:
        self.slides.append(record.slide_id)
        return read_bag(store, record, **more)

    def during(self, predict: Callable[[], list[PredictionLine]]) -> tuple[list[str], list[PredictionLine]]:
        """What a prediction read, and what it said."""
        self.slides = []
        lines = predict()
        assert count_new(lines) == len(self.slides)
        return sorted(self.slides), lines


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def store(study: Study, tmp_path: Path) -> FeatureStore:
    shutil.copytree(study.store, tmp_path / "s")
    for path in answers(tmp_path / "s"):
        path.unlink()
    return open_store(tmp_path / "s")


@pytest.fixture(scope="module")
def model(study: Study) -> Model:
    return open_model(study.model, device="cpu")


def answers(store: Path) -> list[Path]:
    return sorted((store / "cache").glob("answers-*"))


def table(model: Model, lines: list[PredictionLine], folder: Path) -> bytes:
    write_table(folder / "p.csv", slide_table(lines, model.card.targets, model.short), overwrite=True)
    return (folder / "p.csv").read_bytes()


def test_the_second_night_reads_nothing_and_writes_the_same_bytes(
    model: Model, store: FeatureStore, reads: Reads, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, lines = reads.during(lambda: predict_store(model, store, None, SPEC))
    whole = table(model, lines, tmp_path)
    assert len(first) == 6
    second, lines = reads.during(lambda: predict_store(model, store, None, SPEC))
    assert second == []
    assert table(model, lines, tmp_path) == whole
    assert [entry.facts["counts"]["new"] for entry in read_ledger(store) if entry.verb == "predict"][-2:] == [6, 0]
    assert [found for found in verify_store(store, fast=True) if found.kind == "fault"] == []
    answers(Path(store.root))[0].unlink()
    words = ["predict", "--model", str(model.folder), "--store", str(store.root), "--device", "cpu", "--overwrite"]
    for told in ("6 answered now", "0 answered now"):
        assert main([*words, "--out", str(tmp_path / "p.csv")]) == 3
        assert told in capsys.readouterr().out
        assert (tmp_path / "p.csv").read_bytes() == whole


def test_only_a_changed_slide_is_answered_anew(
    study: Study, model: Model, store: FeatureStore, reads: Reads, tmp_path: Path
) -> None:
    reads.during(lambda: predict_store(model, store, None, SPEC))
    shutil.copytree(study.archive, tmp_path / "in")
    changed = tmp_path / "in" / "case-0" / "s0.tif"
    shutil.copy(study.archive / "case-1" / "s3.tif", changed)
    extract(tmp_path / "in", Path(store.root))
    found, lines = reads.during(lambda: predict_store(model, store, None, SPEC))
    assert found == [FIRST]
    by_slide = {line.slide_id: line for line in lines}
    assert by_slide[FIRST].values["grade"].tolist() == by_slide["case-1%2Fs3.tif"].values["grade"].tolist()
    shutil.copy2(
        study.archive / "case-0" / "s0.tif", changed
    )  # it comes back: its older features are the slide's again
    extract(tmp_path / "in", Path(store.root))
    assert reads.during(lambda: predict_store(model, store, None, SPEC))[0] == [FIRST]
    assert reads.during(lambda: predict_store(model, store, None, SPEC))[0] == []


def test_another_model_rule_or_library_answers_for_all(
    model: Model, store: FeatureStore, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(with_model: Model = model, spec: PredictSpec = SPEC) -> int:
        return len(reads.during(lambda: predict_store(with_model, store, None, spec))[0])

    def changed(**facts: Any) -> Model:
        return Model(model.folder, replace(model.card, **facts), model.members)

    assert again() == 6
    assert again(changed(fingerprint="0" * 64)) == 6
    assert again() == 0, "each model has its own answers"
    assert again(changed(fingerprint=model.card.fingerprint[:12] + "0" * 52)) == 6, "in the same file"
    assert again(changed(temperatures=(2.0, 2.0))) == 6
    assert again(Model(model.folder, model.card, model.members[:1])) == 6
    assert again(spec=PredictSpec(device="cpu", min_tiles=9)) == 6
    assert again() == 6
    assert again(spec=PredictSpec(device="cpu", calibrated=True)) == 6
    monkeypatch.setattr(kept, "package_versions", lambda: {"torch": "another"})
    assert again(spec=PredictSpec(device="cpu", calibrated=True)) == 6


def test_slides_that_are_answered_together_are_known_together(
    model: Model, store: FeatureStore, reads: Reads, tmp_path: Path
) -> None:
    fused = Model(model.folder, replace(model.card, training={**model.card.training, "unit": "fuse"}), model.members)
    inputs = [replace(each, case_id="P") for each in inputs_of_store(store, store.find_set("stain-texture"))]

    def predict(slides: slice) -> list[str]:
        return reads.during(lambda: predict_inputs(fused, store, inputs[slides], SPEC))[0]

    assert len(predict(slice(0, 4))) == 3  # one of the four is no slide
    assert predict(slice(0, 4)) == []
    assert len(predict(slice(0, 5))) == 4, "a patient with another slide is another bag"
    assert len(predict(slice(0, 4))) == 3


def test_rejected_and_forgotten_slides_are_gone(model: Model, store: FeatureStore, reads: Reads) -> None:
    reads.during(lambda: predict_store(model, store, None, SPEC))
    add_review(store, key_of(FIRST), Review(FIRST, "reject", "A"))
    found, lines = reads.during(lambda: predict_store(model, store, None, SPEC))
    (line,) = (each for each in lines if each.slide_id == FIRST)
    assert (found, line.status, line.values) == ([], "abstained", {})
    forget(store, find_case(store, None, [FIRST]))
    assert answers(Path(store.root)) == []
    assert FIRST not in {each.slide_id for each in predict_store(model, store, None, SPEC)}


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "edited", "no answers"])
def test_a_damaged_file_is_not_believed(
    model: Model, store: FeatureStore, reads: Reads, tmp_path: Path, damage: str
) -> None:
    whole = table(model, predict_store(model, store, None, SPEC), tmp_path)
    (file,) = answers(Path(store.root))
    data = file.read_bytes()
    body = data.partition(b"\n")[2]
    file.write_bytes({
        "flipped": data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
        "short": data[: len(data) // 2],
        "empty": b"",
        "edited": data.replace(b'"predicted"', b'"abstained"', 1),
        "no answers": hashlib.sha256(body + b" ").hexdigest().encode() + b"\n" + body,
    }[damage])  # fmt: skip
    found, lines = reads.during(lambda: predict_store(model, store, None, SPEC))
    assert len(found) == 6
    assert table(model, lines, tmp_path) == whole
    assert file.read_bytes() == data


def test_what_was_answered_before_a_kill_is_kept(
    model: Model, store: FeatureStore, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "SAVE_EVERY_S", 0.0)
    said: list[str] = []

    def die(line: PredictionLine) -> None:
        said.append(line.slide_id)
        if len(said) == 3:
            monkeypatch.setattr(kept.KeptAnswers, "save", lambda self: None)  # as after SIGKILL
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_store(model, store, None, SPEC, on_line=die)
    monkeypatch.undo()
    again = Reads(monkeypatch)
    assert sorted([*again.during(lambda: predict_store(model, store, None, SPEC))[0], *said[1:]]) == sorted(
        line.slide_id for line in predict_store(model, store, None, SPEC) if line.tiles
    )


def test_a_store_that_cannot_be_written_is_predicted_all_the_same(
    model: Model, store: FeatureStore, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object, **more: object) -> None:
        raise StoreUnwritableError("read-only")

    monkeypatch.setattr(store.place, "replace", refuse)
    assert len(reads.during(lambda: predict_store(model, store, None, SPEC))[0]) == 6
    assert answers(Path(store.root)) == []
