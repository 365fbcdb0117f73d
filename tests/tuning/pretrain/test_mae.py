"""The masked autoencoder: it never sees what it restores, learns, and becomes an encoder like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.mae import MaskedAutoencoder, contrast_loss
from pathotune_pipeline.tuning.pretrain.run import pretrain
from pathotune_pipeline.tuning.pretrain.spec import DecoderSpec, MaeSpec, NetworkSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from tests.tuning.pretrain.toy import source_of, spec_of, textures, write_images


def autoencoder(tmp_path, *, mask_share: float = 0.75, **network) -> MaskedAutoencoder:
    spec = spec_of(tmp_path, **({"network": network} if network else {}))
    made = build_objective(spec, MaeSpec(mask_share=mask_share))
    assert isinstance(made, MaskedAutoencoder)
    return made


def views(count: int = 4) -> torch.Tensor:
    return torch.from_numpy(textures(count)).permute(0, 3, 1, 2) / 255


def test_hidden_pixels_change_nothing_and_seen_ones_do(tmp_path):
    mae = autoencoder(tmp_path).eval()
    before = mae.restore(views(), Draws(0, 0, rows=4))
    assert before.taken.sum(1).tolist() == [12] * 4
    hidden = before.taken.view(4, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = mae.restore(views() + 0.3 * hidden, Draws(0, 0, rows=4))
    assert torch.equal(other.patches, before.patches)
    assert not torch.equal(other.target[other.taken > 0], before.target[before.taken > 0])
    seen = mae.restore(views() + 0.3 * (1 - hidden), Draws(0, 0, rows=4))
    assert not torch.allclose(seen.patches, before.patches)


def test_masks_are_drawn_for_each_image_and_shared_out_by_rows(tmp_path):
    mae = autoencoder(tmp_path).eval()
    whole = mae.restore(views(8), Draws(0, 5, rows=8))
    assert len({tuple(row) for row in whole.taken.tolist()}) == 8
    part = mae.restore(views(8)[1::2], Draws(0, 5, rows=8, rank=1, world=2))
    assert torch.equal(part.taken, whole.taken[1::2])
    torch.testing.assert_close(part.patches, whole.patches[1::2])


def test_every_trained_weight_gets_a_gradient_and_positions_stay(tmp_path):
    mae = autoencoder(tmp_path)
    sum(mae(views(), Draws(0, 0, rows=4)).values()).backward()
    still = [name for name, p in mae.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still
    assert [name for name, p in mae.named_parameters() if not p.requires_grad] == ["encoder.pos_embed"]


def test_the_same_settings_give_the_same_weights(tmp_path):
    torch.manual_seed(1)
    first = autoencoder(tmp_path).state_dict()
    torch.manual_seed(2)
    second = autoencoder(tmp_path).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_views_are_told_apart_as_numpy_has_it():
    rng = np.random.default_rng(0)
    projected = rng.normal(size=(8, 5)).astype(np.float32)  # four images, two views each
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    cosines = np.exp(unit @ unit.T / 0.2)
    np.fill_diagonal(cosines, 0)
    expected = -np.mean([np.log(cosines[i, (i + 4) % 8] / cosines[i].sum()) for i in range(8)])
    assert float(contrast_loss(torch.from_numpy(projected), 0.2)) == pytest.approx(expected, rel=1e-5)
    same = torch.eye(4).repeat(2, 1)
    assert float(contrast_loss(same, 0.01)) == pytest.approx(0, abs=1e-6)


def test_contrast_asks_for_two_views_and_nothing_of_it_is_there_at_weight_zero(tmp_path):
    plain, both = (build_objective(spec_of(tmp_path), MaeSpec(contrast=weight)) for weight in (0.0, 0.5))
    assert (plain.views_per_image, both.views_per_image) == (1, 2)
    assert not [name for name in plain.state_dict() if "project" in name]
    two = torch.cat([views(), views().flip(3)])
    losses = both(two, Draws(0, 0, rows=4))
    assert set(losses) == {"restoration", "contrast"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for name, p in both.named_parameters() if p.requires_grad)
    torch.testing.assert_close(plain(two, Draws(0, 0, rows=4))["restoration"], losses["restoration"])


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({"patch_px": 7}, "does not divide input_px"),
        ({"heads": 5}, "does not divide embed_dim"),
        ({"architecture": "resnet18"}, "cannot build it|only timm's VisionTransformer"),
        ({"base": "stain-texture"}, "only timm's VisionTransformer"),
    ],
)
def test_networks_that_cannot_be_are_refused(tmp_path, network, says):
    with pytest.raises(SpecError, match=says):
        autoencoder(tmp_path, **{"input_px": 32, "patch_px": 8, "embed_dim": 32, "heads": 2, "depth": 1, **network})


def test_a_share_that_hides_nothing_is_refused(tmp_path):
    with pytest.raises(SpecError, match="hides 16 of 16"):
        autoencoder(tmp_path, mask_share=0.99)


def test_a_base_that_could_not_be_written_again_is_refused(tmp_path):
    trunk = replace(autoencoder(tmp_path).trunk, config=None)
    with pytest.raises(SpecError, match="Prompts take any base"):
        MaskedAutoencoder(trunk, MaeSpec(), DecoderSpec(width=16, heads=2))


def test_it_learns_to_restore_and_becomes_an_encoder(tmp_path):
    folder = write_images(tmp_path / "images", 64)
    spec = spec_of(
        folder, epochs=60, batch_size=16, warmup_epochs=4, base_lr=0.04, check_steps=1000, views={"flips": False}
    )
    objective = build_objective(spec, MaeSpec(patch_norm=False))
    result = pretrain(objective, source_of(spec), spec, tmp_path / "run")
    assert result.checks["watched_loss"] < 0.7 * result.checks["constant_loss"]
    encoder = create_encoder(EncoderSpec(name=f"local:{result.artefact}", batch_size=8))
    assert (encoder.card.dim, encoder.card.input_px, encoder.card.mean) == (32, 32, (0.5, 0.5, 0.5))
    assert encoder.card.name == "local:run-encoder"
    torch.testing.assert_close(
        encoder.encode(textures(8)), objective.eval().embed(views(8)).detach(), atol=1e-5, rtol=1e-4
    )


def test_a_run_may_begin_from_another_runs_encoder(tmp_path):
    folder = write_images(tmp_path / "images", 16)
    spec = spec_of(folder, epochs=3)
    first = pretrain(build_objective(spec, MaeSpec()), source_of(spec), spec, tmp_path / "first")
    again = spec.with_values(network=NetworkSpec(base=f"local:{first.artefact}").model_dump())
    objective = build_objective(again, MaeSpec())
    encoder = create_encoder(EncoderSpec(name=f"local:{first.artefact}", batch_size=4))
    np.testing.assert_allclose(objective.eval().embed(views()).detach(), encoder.encode(textures(4)), atol=1e-5)
    second = pretrain(objective, source_of(spec), again, tmp_path / "second")
    moved = create_encoder(EncoderSpec(name=f"local:{second.artefact}", batch_size=4))
    assert moved.card.weights_sha256 != encoder.card.weights_sha256
    said = (second.artefact / "pretraining.json").read_text()
    assert encoder.card.weights_sha256 in said
    assert str(tmp_path) not in said
