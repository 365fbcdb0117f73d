"""Adapters trained from labels of whole slides."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from pathotune_pipeline.adapt.file import read_adapter_card
from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.cli.main import main
from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.errors import ManifestError, SlideChangedError, SpecError, UsageError
from pathotune_pipeline.store import open_store
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tuning.run.slide_pool import SlidePool, SlideSource, read_pools
from pathotune_pipeline.tuning.run.slides import SlideAdaptSpec, SlideBatches, SlideLearner, adapt_slides

QUICK = {"epochs": 8, "warmup_epochs": 1, "lr": 0.003, "patience": 0}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> SlideSource:
    """Eight slides of as many patients, and a store with a set of features of 64-px tiles."""
    root = tmp_path_factory.mktemp("slides")
    lines = ["slide,patient,class"]
    for number in range(8):
        pattern = "planted" if number % 2 else "decoy"
        write_slide(root / "archive" / f"s{number}.tif", size_px=(1024, 1024), seed=number, pattern=pattern)
        lines.append(f"s{number}.tif,p{number},{pattern}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    words = ["extract", "--slides", root / "archive", "--store", root / "store", "--tile-px", 64, "--json"]
    assert main([str(word) for word in words]) == 0
    return SlideSource(root / "archive", root / "store", "stain-texture", root / "labels.csv", "class")


def spec_of(**changes) -> SlideAdaptSpec:
    adapter = {"n_prompts": 4}
    plain = {"method": "vpt-deep", "adapter": adapter, "train": QUICK, "batch": 2, "tiles_per_slide": 6, "head": "mean"}
    return SlideAdaptSpec.parse({**plain, **changes})


def coloured(count: int = 16, tiles: int = 12, *, seed: int = 0) -> list[SlidePool]:
    """Slides of noise; of class "b" a third of the tiles are bluish."""
    rng, pools = np.random.default_rng(seed), []
    for number in range(count):
        pixels = np.array((190, 120, 180)) + rng.normal(0, 40, (tiles, 32, 32, 3))
        if number % 2:
            pixels[::3] += np.array((-70, -20, 20))
        places = np.stack([np.arange(tiles), np.arange(tiles)], 1)
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        pools.append(SlidePool(f"s{number}", f"p{number}", "ab"[number % 2], pixels, places))
    return pools


FOLD = Fold(
    0, tuple(f"s{n}" for n in range(8)), tuple(f"s{n}" for n in range(8, 12)), tuple(f"s{n}" for n in range(12, 16))
)


@pytest.mark.parametrize("method", ["vpt-deep", "pathotune", "lora"])
@pytest.mark.parametrize("head", ["mean", "abmil"])
def test_slides_labels_reach_the_adapter_and_not_the_encoder(encoder, method, head):
    pools, before = coloured(), state_sha256(encoder.module)
    result = adapt_slides(encoder, pools, fold=FOLD, spec=spec_of(method=method, head=head))
    test = [pool for pool in pools if pool.slide_id in FOLD.test]
    assert [result.classes[place] for place in result.predict(test).argmax(1)] == [pool.label for pool in test]
    assert state_sha256(encoder.module) == before
    body = result.learner.body
    assert {id(p) for p in body.network.parameters() if p.requires_grad} == {id(p) for p in body.trained.parameters()}
    fresh = adapt_slides(
        encoder, pools, fold=FOLD, spec=spec_of(method=method, head=head, train={**QUICK, "epochs": 1})
    )
    moved = [
        not torch.equal(a, b)
        for a, b in zip(body.trained.parameters(), fresh.learner.body.trained.parameters(), strict=True)
    ]
    assert all(moved)


def test_the_gradient_of_a_slide_is_that_of_its_tiles_in_one_piece(encoder):
    pools, spec = coloured(4), spec_of(batch=1)
    fold = Fold(0, ("s0", "s1"), ("s2", "s3"), ())
    learner = adapt_slides(encoder, pools, fold=fold, spec=spec).learner.train()
    tiles = torch.from_numpy(pools[1].tiles)
    loss = learner.losses((tiles, 1))["bag"]
    prompts = next(iter(learner.trained.parameters()))
    (gradient,) = torch.autograd.grad(loss, prompts)
    with torch.no_grad():
        step = torch.zeros_like(prompts)
        step.view(-1)[5] = 1e-3
        prompts += step
        up = learner.losses((tiles, 1))["bag"]
        prompts -= 2 * step
        down = learner.losses((tiles, 1))["bag"]
    assert float(gradient.view(-1)[5]) == pytest.approx(float((up - down) / 2e-3), rel=0.05, abs=1e-5)


def test_a_training_that_was_cut_off_goes_on_to_the_same_bits(encoder, tmp_path):
    pools, spec = coloured(), spec_of(head="abmil", method="pathotune", train={**QUICK, "epochs": 4})

    def cut_off(record):
        if record.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt_slides(encoder, pools, fold=FOLD, spec=spec, out=tmp_path, on_epoch=cut_off)
    resumed = adapt_slides(encoder, pools, fold=FOLD, spec=spec, out=tmp_path)
    whole = adapt_slides(encoder, pools, fold=FOLD, spec=spec)
    assert [each.losses for each in resumed.history] == [each.losses for each in whole.history]
    assert np.array_equal(resumed.predict(pools), whole.predict(pools))
    with pytest.raises(UsageError, match="other data or settings"):
        adapt_slides(encoder, coloured(seed=1), fold=FOLD, spec=spec, out=tmp_path)


def test_epochs_hang_on_seed_and_number_alone():
    spec = spec_of()
    batches = SlideBatches(coloured(), [0, 1] * 8, spec)
    first, again, other = (list(batches(epoch)) for epoch in (3, 3, 4))
    assert len(first) == len(batches) == 16
    assert all(len(tiles) == 6 for tiles, _ in first)
    assert all(torch.equal(a, b) and x == y for (a, x), (b, y) in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))


def test_what_slides_cannot_do_is_said(encoder):
    pools = coloured()
    with pytest.raises(SpecError, match="give patches"):
        adapt_slides(encoder, pools, fold=FOLD, spec=spec_of(method="full"))
    alike = Fold(0, ("s0", "s2"), ("s1",), ())
    with pytest.raises(UsageError, match="two are needed"):
        adapt_slides(encoder, pools, fold=alike, spec=spec_of())


def test_pools_hold_the_tiles_of_the_grid(labelled):
    from pathotune_pipeline.features.persist import load_grid
    from pathotune_pipeline.slides.open import open_slide
    from pathotune_pipeline.tiles.read import read_tile

    pools, notes = read_pools(labelled, tiles=9, seed=0)
    assert [pool.slide_id for pool in pools] == [f"s{number}.tif" for number in range(8)]
    assert {pool.label for pool in pools} == {"planted", "decoy"}
    assert notes == []
    store = open_store(labelled.store)
    record = store.records(store.find_set(labelled.features))["s3.tif"]
    grid, slide = load_grid(store, record.made_from("tiles")), open_slide(labelled.slides / "s3.tif")
    assert pools[3].tiles.shape == (9, 64, 64, 3)
    for place, tile in zip(pools[3].coords, pools[3].tiles, strict=True):
        (index,) = np.flatnonzero((grid.coords == place).all(1))
        assert np.array_equal(read_tile(slide, grid, int(index)), tile)
    again, other = read_pools(labelled, tiles=9, seed=0)[0], read_pools(labelled, tiles=9, seed=1)[0]
    assert np.array_equal(pools[5].coords, again[5].coords)
    assert not np.array_equal(pools[5].coords, other[5].coords)


def test_slides_that_are_others_are_refused(labelled, tmp_path):
    archive = tmp_path / "archive"
    shutil.copytree(labelled.slides, archive)
    source = SlideSource(archive, labelled.store, labelled.features, labelled.labels, labelled.target)
    write_slide(archive / "s3.tif", size_px=(1024, 1024), seed=99, pattern="decoy")
    with pytest.raises(SlideChangedError, match=r"s3\.tif: .*Extract it again"):
        read_pools(source, tiles=4, seed=0)
    (archive / "s3.tif").unlink()
    with pytest.raises(ManifestError, match=r"1 labelled slides .* such as s3\.tif"):
        read_pools(source, tiles=4, seed=0)


def test_a_command_leaves_an_adapter_that_extraction_takes(labelled, small_backbone, tmp_path, capsys):
    out, name = tmp_path / "tuned", f"local:{small_backbone}"
    command = [
        "adapt-slides", "--slides", labelled.slides, "--store", labelled.store, "--features", labelled.features,
        "--labels", labelled.labels, "--target", labelled.target, "--encoder", name, "--method", "vpt-deep",
        "--device", "cpu", "--epochs", 3, "--warmup-epochs", 1, "--n-prompts", 4, "--tiles-per-slide", 6,
        "--pool-tiles", 12, "--test-share", 0.25, "--val-share", 0.3, "--out", out, "--json",
    ]  # fmt: skip
    capsys.readouterr()
    assert main([str(word) for word in command]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((out / "adapted.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        "adapted.json", "adapter.safetensors", "head.safetensors", "history.csv", "predictions.csv", "splits.csv",
    }  # fmt: skip
    with (out / "splits.csv").open() as file:
        parts = {row["slide_id"]: row["part"] for row in csv.DictReader(file)}
    assert sorted(parts.values()) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    assert card["scores"]["test"]["images"] == 2
    assert read_adapter_card(out / "adapter.safetensors").training["slides"] == card["slides"]
    extract = ["extract", "--slides", labelled.slides, "--store", tmp_path / "store", "--tile-px", 64, "--device", "cpu",
               "--encoder", name, "--adapter", out / "adapter.safetensors", "--json"]  # fmt: skip
    assert main([str(word) for word in extract]) == 0
    (made,) = open_store(tmp_path / "store").sets("features")
    assert len(open_store(tmp_path / "store").records(made)) == 8
    judge = ["crossval", "--store", tmp_path / "store", "--features", str(made).removeprefix("features-"), "--labels",
             labelled.labels, "--target", labelled.target, "--head", "mean", "--splits", out / "splits.csv", "--out",
             tmp_path / "model", "--device", "cpu", "--json"]  # fmt: skip
    assert main([str(word) for word in judge]) == 0
    with (tmp_path / "model" / "predictions.csv").open() as file:
        assert {row["slide_id"] for row in csv.DictReader(file)} == {name for name in parts if parts[name] == "test"}


def test_a_learner_holds_no_frozen_weights(encoder):
    learner = adapt_slides(encoder, coloured(), fold=FOLD, spec=spec_of(train={**QUICK, "epochs": 1})).learner
    assert isinstance(learner, SlideLearner)
    frozen = {p.data_ptr() for p in encoder.module.parameters()}
    assert not frozen & {tensor.data_ptr() for tensor in learner.state_dict().values()}
