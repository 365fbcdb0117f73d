"""What each head's definition says of its gradients."""

from __future__ import annotations

import pytest
import torch

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads.losses import classification_loss

NAMES = ["mean", "max", "abmil", "abmil-ungated", "clam-sb", "clam-mb", "transmil", "dsmil", "dtfd", "transformer"]
STEP = 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_slopes_of_the_losses(name, small_head, some_bags, labelled):
    """Central differences in float64 along random directions of the features and of every parameter.

    DTFD-MIL's second tier teaches itself alone: the bag's loss stops there, as published.
    """
    model, batch = small_head(name), labelled(some_bags(5, 17), [0, 2])
    leaves = {"features": batch.features.requires_grad_(), **dict(model.named_parameters())}

    def loss(key: str) -> torch.Tensor:
        losses = model.losses(batch, classification_loss)
        stopped = {"bag"} if name == "dtfd" and not key.startswith("second") else set()
        return torch.stack([value for term, value in losses.items() if term not in stopped]).sum()

    rng = torch.Generator().manual_seed(3)
    for key, leaf in leaves.items():
        (gradient,) = torch.autograd.grad(loss(key), [leaf], allow_unused=True)
        way = torch.randn(leaf.shape, generator=rng, dtype=torch.float64)
        with torch.no_grad():
            ends = []
            for side in (1, -2):  # there, and then as far to the other side
                leaf += side * STEP * way
                ends.append(float(loss(key)))
            leaf += STEP * way
        slope = (ends[0] - ends[1]) / (2 * STEP)
        found = 0.0 if gradient is None else float((gradient * way).sum())
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-7), key


def test_mean_pooling_learns_from_every_instance_alike(small_head, some_bags):
    model, (bag,) = small_head("mean"), some_bags(9)
    bag.requires_grad_()
    model(BagBatch.of(bag)).logits[0, 1].backward()
    assert torch.allclose(bag.grad, (model.classifier.weight[1].detach() / 9).expand(9, -1), atol=1e-15)


@pytest.mark.parametrize(
    "name", ["mean", "max", "abmil", "abmil-ungated", "clam-sb", "transmil", "dsmil", "transformer"]
)
def test_a_bags_gradient_is_its_own(name, small_head, some_bags):
    """No instance learns from the answer to another bag."""
    model, (one, other) = small_head(name), some_bags(6, 11)
    packed = BagBatch.of(one, other)
    packed.features.requires_grad_()
    model(packed).logits[0].sum().backward()
    assert packed.features.grad[6:].abs().max() == 0
    assert packed.features.grad[:6].abs().max() > 0


def test_dsmils_first_stream_learns_from_each_classs_highest_instance(small_head, some_bags, labelled):
    model, batch = small_head("dsmil"), labelled(some_bags(12), [1])
    batch.features.requires_grad_()
    model.losses(batch, classification_loss)["max"].backward()
    touched = (batch.features.grad.abs().sum(dim=1) > 0).nonzero()[:, 0]
    assert set(touched.tolist()) == set(model.instance_classifier(batch.features).argmax(dim=0).tolist())
