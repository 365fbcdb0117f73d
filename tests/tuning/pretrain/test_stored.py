"""Feature sets that teach: a tile's feature is that of its own pixels, and what does not fit is told at once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathotune_pipeline.cli import main
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.errors import PathotuneError, SlideError, SpecError, UsageError
from pathotune_pipeline.tuning.pretrain import stored
from pathotune_pipeline.tuning.pretrain.draws import WATCHED_AT_ONCE, Draws
from pathotune_pipeline.tuning.pretrain.network import build_trunk, write_encoder
from pathotune_pipeline.tuning.pretrain.sources import StoredSource, Team
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec, NetworkSpec, PretrainSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from pathotune_pipeline.tuning.pretrain.stored import StoredDraws, StoredTiles, open_stored
from tests.models.conftest import extract
from tests.tuning.pretrain.students import ALONE, SMALL
from tests.tuning.pretrain.toy import SETTINGS

TEXTURE = "store:stain-texture-64px"
VIEWS = {"crop_min": 1, "crop_ratio": 1}


@pytest.fixture(scope="module")
def place(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two sets of one pass, and a third of other tiles; `toy` is the second's encoder."""
    root = tmp_path_factory.mktemp("stored")
    shape = NetworkSpec(input_px=32, patch_px=16, embed_dim=24, depth=1, heads=2)
    write_encoder(build_trunk(shape, 3), root / "toy", {})
    both = ("--encoder", "stain-texture", "--encoder", f"local:{root / 'toy'}")
    extract(small_archive, root / "store", "--tile-px", 64, *both)
    extract(small_archive, root / "store", "--tile-px", 128, "--encoder", "stain-texture")
    return root


def settings(archive: Path, **changes: Any) -> PretrainSpec:
    data = {"slides": str(archive), "held_out": 0.2, **changes.pop("data", {})}
    return PretrainSpec.parse({**SETTINGS, "views": VIEWS, "data": data, **changes})


def method_of(place: Path, *names: str, **changes: Any) -> DistillSpec:
    weights = [0.0] * len(names)
    own = {"teachers": names, "teacher_store": str(place / "store"), "patch_weights": weights}
    return DistillSpec.parse({**SMALL, **own, **changes})


@pytest.fixture
def tiles(place: Path, small_archive: Path) -> StoredTiles:
    found = open_stored(settings(small_archive), method_of(place, TEXTURE, "store:local.toy"))
    assert found is not None
    return found


@pytest.mark.parametrize("watched", [False, True])
def test_a_tiles_feature_is_that_of_its_pixels(place: Path, tiles: StoredTiles, watched: bool) -> None:
    numbers = np.array([0, 5, 17, 3])
    with StoredDraws(tiles, watched=watched) as draws:
        pixels = []
        for number in numbers.tolist():
            draws.number = number
            pixels.append(next(draws).pixels)
    for name, encoder in ((TEXTURE, "stain-texture"), ("store:local.toy", f"local:{place / 'toy'}")):
        said = create_encoder(EncoderSpec(name=encoder, batch_size=4)).encode(np.stack(pixels))
        kept = tiles.features(name, numbers, watched=watched)
        np.testing.assert_allclose(kept, said.numpy(), rtol=2e-3, atol=2e-3)
        assert not np.allclose(kept[::-1], said.numpy(), atol=2e-3)


def test_every_tile_comes_once_an_epoch_and_watched_ones_never(
    tiles: StoredTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(tiles)
    epochs = [[tiles.tile(number) for number in range(epoch * count, (epoch + 1) * count)] for epoch in range(2)]
    assert len(set(epochs[0])) == count
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]
    watched = {tiles.tile(number, watched=True) for number in range(tiles.watched)}
    assert not watched & set(epochs[0])
    assert tiles.watched == round(0.2 * (count + tiles.watched))
    assert tiles.tile(count + 3) == epochs[1][3], "what a number means hangs on nothing that was asked before"
    assert tiles.tile(7) == epochs[0][7]
    monkeypatch.setattr(stored, "WINDOW", 2)
    slides = [place for place, _ in (tiles.tile(number) for number in range(5 * count, 6 * count))]
    parts = [set(slides[begin : begin + 20]) for begin in range(0, count, 20)]
    assert max(map(len, parts)) <= 4, "tiles of some slides are mixed, then those of the next"
    assert len(set(slides)) == 6


def test_batches_are_the_same_for_any_threads_processes_and_start(small_archive: Path, tiles: StoredTiles) -> None:
    def batch(number: int, *, readers: int = 1, team: Team | None = None, start: int = 0) -> np.ndarray:
        source = StoredSource(settings(small_archive, data={"readers": readers}).data, tiles, seed=0)
        with source.batches(6, team=team or Team(), start=start) as batches:
            for _ in range(number - start):
                next(batches)
            return next(batches)

    whole = batch(2)
    assert np.array_equal(batch(2, readers=3, start=1), whole)
    for rank in range(2):
        assert np.array_equal(batch(2, team=Team(rank, 2), start=2), whole[rank::2])
        numbers, watched = Draws(0, 2, rows=6, rank=rank, world=2).image_numbers()
        assert (numbers.tolist(), watched) == ([12 + rank, 14 + rank, 16 + rank], False)
    numbers, watched = Draws(0, -2, rows=3).image_numbers()
    assert (numbers.tolist(), watched) == ([WATCHED_AT_ONCE + each for each in range(3)], True)


def test_a_set_teaches_what_its_encoder_would(place: Path, small_archive: Path, tiles: StoredTiles) -> None:
    whole = {**SETTINGS["network"], "input_px": 64}  # views are the tiles themselves
    run = settings(small_archive, views={**VIEWS, "flips": False}, network=whole)
    kept = build_objective(run, method_of(place, "store:local.toy", **ALONE), stored=tiles)
    asked = build_objective(run, method_of(place, f"local:{place / 'toy'}", **ALONE))
    source = StoredSource(run.data, tiles, seed=0)
    with source.batches(8, team=Team(), start=3) as batches:
        pixels = torch.from_numpy(next(batches))
    losses = []
    for method in (kept, asked):
        draws = Draws(0, 3, rows=8)
        found = method.train()(method.cut(pixels, run.views, draws), draws)
        sum(found.values()).backward()
        losses.append([float(each.detach()) for each in found.values()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    pairs = zip(kept.named_parameters(), asked.named_parameters(), strict=True)
    assert all(
        torch.allclose(one.grad, other.grad, atol=1e-3) for (_, one), (_, other) in pairs if one.grad is not None
    )
    other = Draws(0, 4, rows=8)
    assert float(kept(kept.cut(pixels, run.views, other), other)["store:local.toy.class"].detach()) != losses[0][0]


def test_a_run_from_the_command_line_goes_on_and_writes_its_encoder(
    place: Path, small_archive: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    run = {**SETTINGS, "views": VIEWS, "batch_size": 32, "data": {"slides": str(small_archive), "held_out": 0.2}}
    teachers = {
        "teachers": [TEXTURE, f"local:{place / 'toy'}"],
        "teacher_store": str(place / "store"),
        "patch_weights": [0, 0],
    }
    file.write_text(json.dumps({"pretrain": run, "distill": {**SMALL, **teachers}}))
    words = ["pretrain", "distill", "--config", str(file), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    with (tmp_path / "out" / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {f"{TEXTURE}.class", "local:toy.class", "dino"} <= rows[0].keys()
    with (tmp_path / "out" / "checks.csv").open() as lines:
        assert all(float(row["watched_loss"]) > 0 for row in csv.DictReader(lines))
    record = json.loads((tmp_path / "out" / "out-encoder" / "pretraining.json").read_text())
    assert [each["architecture"] for each in record["teachers"]] == ["stain-texture", "vit_tiny_patch16_224"]
    assert record["recipe"]["pixels"]["slides"] == 6
    assert str(place) not in json.dumps(record)
    assert main(words) == 0, "the same call finds a finished run"


@pytest.mark.parametrize(
    ("names", "run", "method", "says"),
    [
        (["store:texture"], {}, {}, "no such set"),
        (["store:stain-texture"], {}, {}, "could mean 2 sets"),
        ([TEXTURE, "store:stain-texture-128px"], {}, {}, "have other tiles of"),
        ([TEXTURE], {}, {"teacher_store": None}, "Name its store with --teacher-store"),
        ([TEXTURE], {}, {"teacher_store": "/nowhere/at-all"}, "a store is needed"),
        ([TEXTURE], {}, {"patch_weights": [0.25]}, "no patch tokens"),
        ([TEXTURE], {"views": {}}, {}, "give crop_min 1 and crop_ratio 1"),
        ([TEXTURE], {"data": {"images": ["I"]}}, {}, "Leave images out"),
        ([TEXTURE], {"data": {"source_px": 96}}, {}, "tiles of the sets have 64 px"),
        ([TEXTURE], {"data": {"held_out": 0.9999}}, {}, "would be held out"),
        ([TEXTURE], {"data": {"slides": "OTHER"}}, {}, "of 1 slides at hand none"),
    ],
)
def test_what_does_not_fit_is_one_error_before_the_first_step(
    place: Path, small_archive: Path, tmp_path: Path, names: list[str], run: dict, method: dict, says: str
) -> None:
    (tmp_path / "other.tif").write_bytes(next(small_archive.rglob("s0.tif")).read_bytes())
    if run.get("data", {}).get("slides") == "OTHER":
        run = {"data": {"slides": str(tmp_path)}}
    with pytest.raises((SpecError, UsageError), match=says):
        spec, asked = settings(small_archive, **run), method_of(place, *names, **method)
        build_objective(spec, asked, stored=open_stored(spec, asked))


def test_a_slide_that_was_changed_is_named(place: Path, small_archive: Path, tmp_path: Path) -> None:
    copied = tmp_path / "archive"
    for path in small_archive.rglob("*.tif"):
        own = copied / path.relative_to(small_archive)
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_bytes(path.read_bytes())
    (copied / "case-1" / "s2.tif").write_bytes((copied / "case-1" / "s3.tif").read_bytes())
    tiles = open_stored(settings(copied), method_of(place, TEXTURE))
    assert tiles is not None
    with StoredDraws(tiles) as draws, pytest.raises(SlideError, match=r"s2.tif: its file is not the one"):
        for _ in range(len(tiles)):
            next(draws)


def test_a_set_is_asked_with_draws_alone(place: Path, small_archive: Path, tiles: StoredTiles) -> None:
    method = build_objective(settings(small_archive), method_of(place, TEXTURE, **ALONE), stored=tiles)
    with pytest.raises(PathotuneError, match="Give its draws"):
        method.teachers[0].look(torch.zeros(2, 3, 32, 32))
    with pytest.raises(SpecError, match="must be opened first"):
        build_objective(settings(small_archive), method_of(place, TEXTURE))
