"""PuzzleTuning: what the loss and the gradients see, prompts that learn on a base that does not move, and their file."""

from __future__ import annotations

import copy
import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pathotune_pipeline.adapt.file import load_adapter, read_adapter_card
from pathotune_pipeline.cli.main import main
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.network import TokenPool
from pathotune_pipeline.errors import PathotuneError, SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.puzzle_tuning import PuzzleTuning
from pathotune_pipeline.tuning.pretrain.run import pretrain
from pathotune_pipeline.tuning.pretrain.spec import MaeSpec, PuzzleSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from tests.tuning.pretrain.toy import SETTINGS, source_of, spec_of, textures, write_images

VIEWS = torch.from_numpy(textures(8)).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("puzzle") / "images", 64)


@pytest.fixture(scope="module")
def base(images):
    """A small encoder that a masked autoencoder trained."""
    spec = spec_of(images, epochs=20, batch_size=16, base_lr=0.04)
    return pretrain(build_objective(spec, MaeSpec()), source_of(spec), spec, images.parent / "base").artefact


def tuning(images, base=None, **settings) -> PuzzleTuning:
    network = {"base": f"local:{base}"} if base else SETTINGS["network"]
    made = build_objective(spec_of(images, network=network), PuzzleSpec(**{"prompts": 4, **settings}))
    assert isinstance(made, PuzzleTuning)
    return made


def test_explicit_mode_asks_for_a_trained_base(images, base):
    with pytest.raises(SpecError, match="--untrained-base"):
        tuning(images)
    assert tuning(images, untrained_base=True).adapted is not None
    assert tuning(images, mode="implicit").adapted is None
    assert tuning(images, base).adapted is not None


def test_only_prompts_and_decoder_learn_in_explicit_mode(images, base):
    explicit = tuning(images, base)
    sum(explicit(VIEWS, Draws(0, 0, rows=8)).values()).backward()
    trained = {name.partition(".")[0] for name, p in explicit.named_parameters() if p.requires_grad}
    prompts = [name for name, p in explicit.named_parameters() if p.requires_grad and not name.startswith("decoder")]
    assert trained == {"adapted", "decoder"}
    assert len(prompts) == 1
    for name, p in explicit.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == p.requires_grad, name


def test_everything_learns_in_implicit_mode(images, base):
    implicit = tuning(images, base, mode="implicit")
    sum(implicit(VIEWS, Draws(0, 0, rows=8)).values()).backward()
    for name, p in implicit.named_parameters():
        assert p.requires_grad, name
        assert p.grad is not None, name
        assert p.grad.any(), name


@pytest.mark.parametrize("hint", [True, False])
def test_the_encoder_hears_of_moved_places_alone_where_there_is_a_hint(images, hint):
    implicit = tuning(images, mode="implicit", hint=hint).train()
    implicit.begin_epoch(0, None)
    kept: list[torch.Tensor] = []
    implicit.trunk.module.norm.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.enable_grad():
        restored = implicit.restore(VIEWS, Draws(0, 0, rows=8))
        kept[0].retain_grad()
        (restored.patches - restored.target).square().mean().backward()
    gradient = kept[0].grad[:, 1:].abs().amax(-1)
    assert (gradient[restored.taken > 0] > 0).all()
    assert (gradient[restored.taken == 0] > 0).any() != hint


def test_restoring_aims_at_the_images_and_not_at_the_puzzle(images):
    implicit = tuning(images, mode="implicit", fix_share=0.25).eval()
    restored = implicit.restore(VIEWS, Draws(0, 0, rows=8))
    blocks = ((VIEWS - 0.5) / 0.5).unflatten(2, (4, 8)).unflatten(4, (4, 8)).permute(0, 2, 4, 3, 5, 1)
    torch.testing.assert_close(restored.target, blocks.flatten(3).flatten(1, 2))
    assert not torch.equal(restored.given, VIEWS)
    assert restored.taken.sum(1).tolist() == [12] * 8
    same = (restored.given == VIEWS).all(1).unflatten(1, (4, 8)).unflatten(3, (4, 8)).permute(0, 1, 3, 2, 4)
    assert same.flatten(3).all(-1).flatten(1)[restored.taken == 0].all()


def test_a_base_with_a_pooling_around_it_takes_prompts_and_cannot_be_trained_whole(images, base):
    bare = tuning(images, base).base
    pooled = replace(bare, encoder=TokenPool(bare.module, "cls+mean"), config=None)
    run = spec_of(images)
    explicit = PuzzleTuning(pooled, PuzzleSpec(prompts=4), run).eval()
    assert explicit.embed(VIEWS).shape == (8, 64)
    before = explicit.restore(VIEWS, Draws(0, 0, rows=8)).patches
    with torch.no_grad():
        explicit.adapted.adapter["visual"].prompts.add_(0.5)
    assert not torch.allclose(explicit.restore(VIEWS, Draws(0, 0, rows=8)).patches, before)
    with pytest.raises(SpecError, match="Prompts take any base"):
        PuzzleTuning(pooled, PuzzleSpec(mode="implicit"), run)


def test_a_run_of_prompts(images, base, tmp_path):
    spec = spec_of(
        images,
        network={"base": f"local:{base}"},
        epochs=40,
        batch_size=16,
        base_lr=0.04,
        warmup_epochs=4,
        check_steps=50,
        watch_images=32,
    )
    objective = build_objective(spec, PuzzleSpec(prompts=4, strategy="fixed", fix_share=0.5))
    assert isinstance(objective, PuzzleTuning)
    assert objective.adapted is not None
    before = state_sha256(objective.adapted.network)
    start = copy.deepcopy(objective.adapted.adapter["visual"].prompts.detach())
    result = pretrain(objective, source_of(spec), spec, tmp_path / "run")

    assert result.checks["watched_loss"] < 0.7 * result.checks["constant_loss"]
    assert state_sha256(objective.adapted.network) == before
    prompts = objective.adapted.adapter["visual"].prompts.detach()
    assert ((prompts - start).abs().amax((1, 2)) > 1e-3).all()
    for layer in prompts:
        distances = torch.cdist(layer, layer) + torch.eye(len(layer))
        assert distances.min() > 1e-3

    encoder = create_encoder(EncoderSpec(name=f"local:{base}", batch_size=8))
    again = load_adapter(result.artefact, encoder.module, encoder.card)
    objective.eval()
    with torch.no_grad():
        torch.testing.assert_close(again((VIEWS - 0.5) / 0.5), objective.embed(VIEWS), atol=1e-6, rtol=0)
        assert not torch.allclose(again((VIEWS - 0.5) / 0.5), encoder.module((VIEWS - 0.5) / 0.5), atol=1e-3)
    card = read_adapter_card(result.artefact)
    assert card.backbone.weights_sha256 == encoder.card.weights_sha256
    assert card.training["recipe"]["strategy"] == "fixed"
    assert card.training["base"]["weights_sha256"] == encoder.card.weights_sha256
    assert result.artefact.stat().st_size < 100_000
    assert list((tmp_path / "run" / "triptychs").glob("*.png"))


def test_zeros_stay_together_and_are_the_published_option(images, base, tmp_path):
    spec = spec_of(images, network={"base": f"local:{base}"}, base_lr=0.04, epochs=4)
    objective = build_objective(spec, PuzzleSpec(prompts=3, prompt_init="zeros"))
    pretrain(objective, source_of(spec), spec, tmp_path / "run")
    assert isinstance(objective, PuzzleTuning)
    assert objective.adapted is not None
    prompts = objective.adapted.adapter["visual"].prompts.detach()
    assert prompts.abs().max() > 1e-4
    assert torch.cdist(prompts, prompts).max() < 1e-3


def test_prompts_of_an_untrained_base_have_it_beside_them(images, tmp_path):
    spec = spec_of(images)
    result = pretrain(
        build_objective(spec, PuzzleSpec(prompts=2, untrained_base=True)), source_of(spec), spec, tmp_path / "run"
    )
    encoder = create_encoder(EncoderSpec(name=f"local:{tmp_path}/run/run-untrained-base", batch_size=8))
    assert load_adapter(result.artefact, encoder.module, encoder.card) is not None


def test_a_file_of_prompts_for_another_network_is_an_error(images, base, tmp_path):
    spec = spec_of(images, network={"base": f"local:{base}"})
    result = pretrain(build_objective(spec, PuzzleSpec(prompts=2)), source_of(spec), spec, tmp_path / "run")
    small = {**SETTINGS["network"], "depth": 1}
    other = spec_of(images, network=small)
    folder = pretrain(build_objective(other, MaeSpec()), source_of(other), other, tmp_path / "other").artefact
    encoder = create_encoder(EncoderSpec(name=f"local:{folder}", batch_size=4))
    with pytest.raises(PathotuneError):
        load_adapter(result.artefact, encoder.module, encoder.card)


@pytest.mark.parametrize("strategy", ["loss-hold", "loop"])
def test_a_driven_course_goes_on_where_it_stood(images, tmp_path, strategy):
    spec = spec_of(images, epochs=8, check_steps=5, log_steps=1, batch_size=16)
    method = PuzzleSpec(mode="implicit", strategy=strategy, group=4)
    whole = build_objective(spec, method)
    pretrain(whole, source_of(spec), spec, tmp_path / "whole")
    stopped = build_objective(spec, method)
    with pytest.raises(KeyboardInterrupt):
        pretrain(stopped, source_of(spec), spec, tmp_path / "parts", on_row=_interrupt_at(18))
    resumed = build_objective(spec, method)
    pretrain(resumed, source_of(spec), spec, tmp_path / "parts")
    with (tmp_path / "parts" / "metrics.csv").open() as file:
        rows = [(int(row["epoch"]), int(row["piece_px"]), float(row["fix_share"])) for row in csv.DictReader(file)]
    assert [epoch for epoch, _, _ in rows] == sorted(epoch for epoch in range(8) for _ in range(len(rows) // 8))
    sides = {epoch: side for epoch, side, _ in rows}
    assert sides[0] == 16
    assert sides[1] == (8 if strategy == "loop" else 16)
    first, second = whole.state_dict(), resumed.state_dict()
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


def _interrupt_at(step):
    def on_row(row):
        if row["step"] == step:
            raise KeyboardInterrupt

    return on_row


def test_the_command(images, base, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    run = {key: value for key, value in SETTINGS.items() if key != "network"}
    config.write_text(json.dumps({"pretrain": {**run, "data": {"images": [str(images)]}}}))
    words = ["pretrain", "puzzle", "--config", str(config), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "needs a trained one" in capsys.readouterr().err
    assert main([*words, "--base", f"local:{base}"]) == 0
    assert "--adapter" in capsys.readouterr().out
