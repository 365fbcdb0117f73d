"""Which parameters learn, and at which pace."""

from __future__ import annotations

import pytest
import torch

from pathotune_pipeline.tuning.run.learner import PatchLearner
from pathotune_pipeline.tuning.run.network import build_body
from pathotune_pipeline.tuning.run.spec import AdaptSpec

CPU = torch.device("cpu")


def learner_of(encoder, **settings) -> PatchLearner:
    spec = AdaptSpec.parse({"adapter": {"ttp": False}, **settings})
    body = build_body(encoder, spec, texts=None, device=CPU, side_px=32)
    return PatchLearner(body, [2], shared_head=False)


def paces(learner: PatchLearner) -> dict[str, float]:
    """The share of the learning rate of each parameter, by its name in the network or the heads."""
    names = {id(p): name for name, p in learner.body.network.named_parameters()}
    names |= {id(p): f"heads.{name}" for name, p in learner.heads.named_parameters()}
    return {names[id(p)]: group.lr_scale for group in learner.groups() for p in group.parameters}


def test_full_fine_tuning_slows_down_towards_the_input(encoder):
    found = paces(learner_of(encoder, method="full", layer_decay=0.5))
    assert found["heads.0.weight"] == found["norm.weight"] == 1
    assert [found[f"blocks.{block}.attn.qkv.weight"] for block in range(3)] == [0.125, 0.25, 0.5]
    assert found["patch_embed.proj.weight"] == found["pos_embed"] == found["cls_token"] == 0.0625
    alike = paces(learner_of(encoder, method="full", layer_decay=1.0))
    assert set(alike.values()) == {1.0}
    assert alike.keys() == found.keys()


def test_the_refine_module_has_a_pace_of_its_own(encoder):
    found = paces(learner_of(encoder, method="pathotune", refine_lr=0.1))
    slow = {name for name, pace in found.items() if pace == 0.1}
    assert slow
    assert slow == {name for name in found if ".instance.refine." in name}
    assert {found[name] for name in found.keys() - slow} == {1.0}


def test_a_cnn_learns_as_a_whole_from_patches_as_they_are(encoder):
    learner = learner_of(encoder, method="cnn", cnn="resnet10t")
    assert set(paces(learner).values()) == {1.0}
    card = learner.body.encoder.card
    assert (card.architecture, card.input_px, card.weights_sha256) == ("resnet10t", 32, None)
    tiles = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    assert learner.body.encoder.prepare(tiles).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("method", ["vpt-deep", "lora", "partial"])
def test_what_is_frozen_stays_in_evaluation_mode(encoder, method):
    learner = learner_of(encoder, method=method, partial_blocks=1).train()
    training = {name for name, module in learner.body.network.named_modules() if module.training}
    if method == "partial":
        assert training
        assert all(name.startswith(("blocks.2", "norm")) for name in training)
    else:
        assert all(name == "" or name.startswith("adapter") for name in training)
    learner.eval()
    assert not any(module.training for module in learner.body.network.modules())
