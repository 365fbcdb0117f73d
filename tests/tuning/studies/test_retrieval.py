"""Retrieval: nearest patches by hand, parts, scores, and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import PathotuneError, SpecError
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.studies import retrieval
from pathotune_pipeline.tuning.studies.retrieval import divide, found_within, nearest_patches
from pathotune_pipeline.tuning.studies.spec import RetrievalSpec


def by_hand(gallery: np.ndarray, queries: np.ndarray, count: int) -> list[list[int]]:
    mean, std = gallery.mean(axis=0), gallery.std(axis=0)
    std[std == 0] = 1
    found = []
    for query in (queries - mean) / std:
        apart = np.sqrt((((gallery - mean) / std - query) ** 2).sum(axis=1))
        found.append(sorted(range(len(gallery)), key=lambda place: (apart[place], place))[:count])
    return found


@pytest.mark.parametrize("at_once", [(512, 8192), (3, 7)])
def test_the_nearest_by_standardised_features(at_once: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_QUERIES_AT_ONCE", at_once[0])
    monkeypatch.setattr(retrieval, "_GALLERY_AT_ONCE", at_once[1])
    rng = np.random.default_rng(0)
    scales = np.array([1, 100, 0.01, 1, 0])
    gallery, queries = (rng.normal(3, 1, (count, 5)) * scales for count in (40, 11))
    assert nearest_patches(gallery, queries, 6).tolist() == by_hand(gallery, queries, 6)
    assert nearest_patches(gallery * 7 + 2, queries * 7 + 2, 6).tolist() == by_hand(gallery, queries, 6)
    plain = [np.linalg.norm(gallery - query, axis=1).argsort()[:6].tolist() for query in queries]
    assert plain != by_hand(gallery, queries, 6), "without standardising others would be found"
    assert nearest_patches(gallery[:4], queries, 6).shape == (11, 4)


def test_of_equally_near_patches_the_first_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_GALLERY_AT_ONCE", 4)
    gallery = np.tile(np.array([[0.0, 1], [1, 0]]), (5, 1))
    assert nearest_patches(gallery, np.array([[1.0, 0]]), 6).tolist() == [[1, 3, 5, 7, 9, 0]]


def test_a_query_is_found_where_one_of_the_first_is_of_its_class() -> None:
    retrieved = np.array([[0, 1, 2], [1, 1, 0], [2, 2, 2]])
    assert found_within(retrieved, np.array([0, 0, 0]), (1, 3)).tolist() == [
        [True, True],
        [False, True],
        [False, False],
    ]
    assert found_within(retrieved, np.array([1, 1, 2]), (1, 2, 5)).tolist() == [
        [False, True, True],
        [True] * 3,
        [True] * 3,
    ]


def parted(patches: PatchSet, splits: tuple[str, ...]) -> PatchSet:
    names = ("images", "labels", "classes", "groups", "domains", "names")
    return PatchSet(**{name: getattr(patches, name) for name in names}, splits=splits)


def test_who_asks_and_who_is_asked(patches: PatchSet) -> None:
    spec = RetrievalSpec()
    cut = divide(patches, spec)
    assert cut.part == "test"
    assert not {patches.groups[place] for place in cut.gallery} & {patches.groups[place] for place in cut.queries}
    assert len(cut.gallery) + len(cut.queries) == len(patches)
    parts = {"lab-a": "train", "lab-b": "val", "lab-c": "test"}
    named = divide(parted(patches, tuple(parts[domain] for domain in patches.domains)), spec)
    assert named.gallery.tolist() == patches.where(domain="lab-a").tolist(), "the validation part stays out"
    assert named.queries.tolist() == patches.where(domain="lab-c").tolist()
    parts["lab-c"] = ""
    without = divide(parted(patches, tuple(parts[domain] for domain in patches.domains)), spec)
    assert (without.part, len(without.queries)) == ("val", len(patches.where(domain="lab-b")))
    assert any("validation part asks" in note for note in without.notes)
    alone = divide(parted(patches, ("train",) * len(patches)), spec)
    assert alone.part == "test"
    assert len(alone.queries)
    torn = tuple("train" if place % 2 else "test" for place in range(len(patches)))
    with pytest.raises(PathotuneError, match="retrieval"):
        divide(parted(patches, torn), spec)
    half = patches.subset(np.array([0, 1, 5, 6]))  # of two groups, each class in both
    lacking = PatchSet(
        half.images,
        np.array([0, 0, 0, 1]),
        half.classes,
        half.groups,
        half.domains,
        ("train",) * 2 + ("test",) * 2,
        half.names,
    )
    assert any("1 queries are of classes that the gallery lacks" in note for note in divide(lacking, spec).notes)


@pytest.mark.parametrize("tops", [(), (0, 1), (1, 1)])
def test_numbers_that_make_no_sense_are_refused(tops: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="tops are 1 or more"):
        RetrievalSpec.parse({"tops": tops})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two colours, told well by `stain-texture`; of one slide in five the class is wrong."""
    rng = np.random.default_rng(0)
    lines = ["path,label,slide,split"]
    for number in range(80):
        kind, slide = number % 2, number // 4
        colour = np.array([200, 120, 190] if kind else [150, 90, 180])
        image = np.clip(colour + rng.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[:, :, ::-1])
        said = kind ^ (slide % 5 == 4)
        lines.append(f"{number}.png,{'pink' if said else 'violet'},s{slide},{'train' if slide < 10 else 'test'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    encoders = {"texture": {"name": "stain-texture"}, "again": {"name": "stain-texture", "batch_size": 8}}
    text = {"patches": {"source": str(tmp_path / "labels.csv")}, "encoders": encoders}
    (tmp_path / "study.yaml").write_text(json.dumps(text))
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_scores_and_what_was_found(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "retrieval", "--study", str(study / "study.yaml"), "--out", str(study / "out")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "top_1: share of 40 queries, of a gallery of 40" in told
    queries = [row for row in rows_of(study / "out" / "queries.csv") if row["encoder"] == "texture"]
    assert len(queries) == 40
    right = [[row[f"class_{rank}"] == row["class"] for rank in range(1, 6)] for row in queries]
    summary = {(row["encoder"], row["score"]): row for row in rows_of(study / "out" / "summary.csv")}
    for top in (1, 3, 5):
        row = summary["texture", f"top_{top}"]
        assert float(row["mean"]) == pytest.approx(np.mean([any(each[:top]) for each in right]))
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert (row["resampled"], row["groups"], row["images"]) == ("group", "10", "40")
        again = summary["again", f"top_{top}"]
        assert [again[name] for name in ("against", "difference", "difference_low")] == ["texture", "0.0", "0.0"]
    assert 0.5 < float(summary["texture", "top_1"]["mean"]) < float(summary["texture", "top_5"]["mean"])
    assert {row["query"] for row in queries}.isdisjoint(row["nearest_1"] for row in queries)
    kept = {path.name: path.stat().st_mtime_ns for path in (study / "out" / "embeddings").glob("*.npy")}
    assert len(kept) == 1, "how many images at once decides no feature"
    assert main([*words, "--tops", "1", "2", "--json"]) == 0
    assert {row["score"] for row in json.loads(capsys.readouterr().out)["summary"]} == {"top_1", "top_2"}
    assert {path.name: path.stat().st_mtime_ns for path in (study / "out" / "embeddings").glob("*.npy")} == kept
    assert main(["rank", str(study / "out" / "summary.csv"), "--json"]) == 0
    assert [each["mean_rank"] for each in json.loads(capsys.readouterr().out)["models"]] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"encoders"', '"baseline": "uni", "encoders"', "baseline: 'uni' is none of the encoders texture, again"),
        ('"encoders"', '"retrieval": {"top": 1}, "encoders"', "tops"),
        ('{"name": "stain-texture"}', '{"name": "stain-textures"}', "stain-texture"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    (study / "study.yaml").write_text((study / "study.yaml").read_text().replace(old, new))
    assert main(["study", "retrieval", "--study", str(study / "study.yaml"), "--out", str(study / "out")]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1
