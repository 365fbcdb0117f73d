"""The model folder: what train writes, what its card says, and that it is whole or not there."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelRow
from pathotune_pipeline.bags.splits import patient_holdout
from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import CorruptDataError, ManifestError, UsageError
from pathotune_pipeline.evaluation.result import read_result
from pathotune_pipeline.heads.train import predict
from pathotune_pipeline.heads.trained import load_head
from pathotune_pipeline.models import open_model
from pathotune_pipeline.store.store import open_store
from tests.models.conftest import FAST, Study


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_card_says_what_the_model_is(study: Study) -> None:
    told = json.loads((study.model / "card.json").read_text())
    assert (told["format"], told["revision"], told["head"]) == ("pathotune-model", 1, "abmil")
    assert told["members"] == ["models/seed0-fold0", "models/seed1-fold0"]
    assert told["targets"] == [
        {"name": "grade", "kind": "binary", "classes": ["g0", "g1"], "horizons": [], "event": ""}
    ]
    assert told["features"]["name"].startswith("stain-texture-128px-1mpp-")
    assert told["features"]["extraction"]["tiles"]["tile_px"] == 128
    assert "mpp_override" not in told["features"]["extraction"]["slide"]
    assert told["licences"] == {"encoder": "Apache-2.0", "data": "CC0", "code": "Apache-2.0"}
    assert told["intended_use"] == "research use only"
    assert told["data"]["slides"] == {"train": 2, "val": 2, "test": 2}
    assert told["data"]["cases"] == {"train": 2, "val": 2, "test": 2}
    assert "auroc" in told["scores"]["grade"]
    assert str(study.store.parent) not in json.dumps(told)
    page = (study.model / "MODEL_CARD.md").read_text()
    for said in ("Research use only", "g0, g1", "| data | CC0 |", "2 slides of 2 patients", told["fingerprint"][:12]):
        assert said in page


def test_no_patient_is_on_two_sides_and_all_slides_are_listed(study: Study) -> None:
    part = {row["slide_id"]: row["part"] for row in rows_of(study.model / "splits.csv")}
    case = {row["slide_id"]: row["case_id"] for row in rows_of(study.model / "slides.csv")}
    assert part.keys() == case.keys()
    assert len(part) == 6
    sides: dict[str, set[str]] = {}
    for slide, who in case.items():
        sides.setdefault(who, set()).add(part[slide])
    assert all(len(each) == 1 for each in sides.values())
    identities = {row["identity"] for row in rows_of(study.model / "slides.csv")}
    assert all(len(each) == 64 for each in identities)


def test_an_answer_is_the_mean_of_the_members(study: Study) -> None:
    model = open_model(study.model)
    store = open_store(study.store)
    features_set = store.find_set("stain-texture")
    bag = BagDataset(store, features_set, {name: LabelRow("P", "g0") for name in store.records(features_set)})[0]
    said = [predict(load_head(study.model / name), [bag]) for name in model.card.members]
    answer = model.answer(bag)
    assert len(said) == 2
    assert not np.allclose(said[0].probs, said[1].probs)
    np.testing.assert_allclose(answer.values["grade"], (said[0].probs[0] + said[1].probs[0]) / 2, atol=1e-12)
    assert answer.attention is not None
    assert answer.attention.shape == (len(bag),)
    assert answer.attention.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("target", "kind", "columns"),
    [
        ("months:survival-discrete:dead", "survival-discrete", "risk"),
        ("ki67:regression", "regression", "predicted"),
        ("grade:ordinal", "ordinal", "g0"),
    ],
)
def test_other_kinds_of_target(study: Study, tmp_path: Path, target: str, kind: str, columns: str) -> None:
    words = study.words("train", *FAST, "--head", "mean", "--out", tmp_path / "m", target=target)
    assert main(words) == 0
    model = open_model(tmp_path / "m")
    assert model.card.targets[0].kind == kind
    assert model.card.targets[0].columns[0] == columns


def test_nothing_held_out(study: Study, tmp_path: Path) -> None:
    assert main(study.words("train", *FAST, "--head", "mean", "--test-share", 0, "--out", tmp_path / "m")) == 0
    card = open_model(tmp_path / "m").card
    assert card.scores == {}
    assert card.judged_on == "nothing: no slide was held out"
    assert card.data["slides"]["test"] == 0
    assert read_result(tmp_path / "m").predictions == []


def test_a_split_file_says_who_is_held_out(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["test", "test", "val", "val", "train", "train"]
    table = tmp_path / "split.csv"
    table.write_text("case_id,split\n" + "".join(f"P{n},{part}\n" for n, part in enumerate(parts)))
    words = ("--head", "mean", "--splits", table, "--out", tmp_path / "m")
    assert main(study.words("train", *FAST, *words)) == 0
    assert open_model(tmp_path / "m").seen.cases == {"P2", "P3", "P4", "P5"}
    table.write_text("case_id,fold\n" + "".join(f"P{n},{n // 2}\n" for n in range(6)))
    capsys.readouterr()
    assert main(study.words("train", *FAST, "--splits", table, "--out", tmp_path / "n")) == 2
    assert "3 folds, and a model is trained on one cut" in capsys.readouterr().err


def test_a_cross_validation_is_a_model_too(study: Study, tmp_path: Path) -> None:
    fast = ("--set", "crossval.train={epochs: 1, min_epochs: 0}", "--folds", 2, "--seeds", 1, "--head", "mean")
    assert main(study.words("crossval", *fast, "--out", tmp_path / "cv")) == 0
    model = open_model(tmp_path / "cv")
    assert len(model.members) == 2
    assert len(model.seen.slides) == 6
    assert model.seen.cases == {f"P{n}" for n in range(6)}
    (tmp_path / "cv" / "card.json").unlink()  # as an older version wrote it
    (tmp_path / "cv" / "slides.csv").unlink()
    older = open_model(tmp_path / "cv")
    assert older.card.fingerprint == model.card.fingerprint
    assert older.seen.cases == model.seen.cases


def test_a_folder_that_was_changed_is_refused(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.model, tmp_path / "m")
    first, second = (tmp_path / "m" / "models" / f"seed{n}-fold0" for n in (0, 1))
    for name in ("head.safetensors", "head.json"):
        shutil.copy(first / name, second / name)
    with pytest.raises(CorruptDataError, match="not those of its card"):
        open_model(tmp_path / "m")
    shutil.rmtree(second)
    with pytest.raises(CorruptDataError, match="absent"):
        open_model(tmp_path / "m")
    (tmp_path / "m" / "card.json").write_text("{")
    with pytest.raises(CorruptDataError, match="cannot be read"):
        open_model(tmp_path / "m")
    with pytest.raises(UsageError, match="is needed"):
        open_model(tmp_path)


def test_a_failure_leaves_no_folder(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (("--test-share", 1), "less than 1"),
        (("--head", "abml"), "Did you mean 'abmil'"),
        (("--set", "model.folds=3"), "less than or equal to 1"),
        (("--set", "model.site=tcga"), "goes with crossval"),
        (("--splits", tmp_path / "absent"), "no such file or folder"),
        (("--set", "model.train={lr: -1}"), "greater than 0"),
    ):
        assert main(study.words("train", *more, "--out", tmp_path / "m")) == 2, more
        assert message in capsys.readouterr().err
    table = tmp_path / "few.csv"
    table.write_text("slide,patient,grade\n" + "".join(f"s{n}.tif,P{n},{'a' if n else 'b'}\n" for n in range(6)))
    words = study.words("train", "--out", tmp_path / "m")
    words[words.index(str(study.labels))] = str(table)
    assert main(words) == 2
    assert "class 'b' has 1 patients" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.csv"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").touch()
    assert main(study.words("train", "--out", tmp_path / "full")) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_holdout_is_by_patient_stratified_and_the_same_again() -> None:
    labels = {f"s{n}": "ab"[n % 2] for n in range(60)}
    groups = {f"s{n}": f"p{n // 4 * 2 + n % 2}" for n in range(60)}  # two slides of a class each
    fold = patient_holdout(labels, groups, test_share=0.2, val_share=0.25, seed=4)
    parts = fold.parts()
    assert sorted(sum(parts.values(), ())) == sorted(labels)
    assert {name: len({groups[each] for each in ids}) for name, ids in parts.items()} == {
        "train": 18, "val": 6, "test": 6,
    }  # fmt: skip
    for ids in parts.values():
        assert len({labels[each] for each in ids}) == 2
    again = patient_holdout(dict(reversed(labels.items())), groups, test_share=0.2, val_share=0.25, seed=4)
    assert again == fold
    assert patient_holdout(labels, groups, test_share=0.2, val_share=0.25, seed=5) != fold
    assert patient_holdout(labels, groups, test_share=0, val_share=0.25).test == ()
    with pytest.raises(UsageError, match="Shares"):
        patient_holdout(labels, groups, test_share=1, val_share=0.25)
    with pytest.raises(ManifestError, match="two classes"):
        patient_holdout(dict.fromkeys(labels, "a"), groups, test_share=0.2, val_share=0.25)
