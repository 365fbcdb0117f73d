"""DSMIL against its definition, one instance and one class at a time."""

from __future__ import annotations

import math

import pytest
import torch

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads.losses import classification_loss


def by_definition(model, bag):
    """Bag logits [C], highest instance logits [C], attention [N, C]."""
    scores = model.instance_classifier(bag)
    attention, pooled = [], []
    for c in range(scores.shape[1]):
        critical = model.query(bag[int(scores[:, c].argmax())])
        likeness = torch.stack([model.query(x) @ critical for x in bag]) / math.sqrt(len(critical))
        attention.append(likeness.softmax(dim=0))
        pooled.append(sum(a * model.values(x) for a, x in zip(attention[-1], bag, strict=True)))
    convolution = torch.nn.functional.conv1d(
        torch.stack(pooled)[None], model.classifier.weight.unflatten(1, (scores.shape[1], -1)), model.classifier.bias
    )
    return convolution[0, :, 0], scores.amax(dim=0), torch.stack(attention, dim=1)


@pytest.mark.parametrize("settings", [{}, {"query": "linear", "values": "linear"}, {"values": "relu", "average": True}])
@torch.no_grad()
def test_both_streams_are_as_defined(settings, small_head, some_bags, labelled):
    model, bags = small_head("dsmil", **settings), some_bags(1, 17, 5)
    output = model(BagBatch.of(*bags))
    for i, each in enumerate(bags):
        bag, highest, attention = by_definition(model, each)
        logits = (bag + highest) / 2 if settings.get("average") else bag
        assert (output.logits[i] - logits).abs().max() < 1e-12
        assert (output.attention[i] - attention[:, int(logits.argmax())]).abs().max() < 1e-12
        losses = model.losses(labelled([each], [2]), classification_loss)
        target = torch.tensor([2])
        assert float(losses["bag"]) == pytest.approx(float(classification_loss(bag[None], target)) / 2, abs=1e-12)
        assert float(losses["max"]) == pytest.approx(float(classification_loss(highest[None], target)) / 2, abs=1e-12)


def test_weights_start_orthogonal(small_head):
    model = small_head("dsmil", in_dim=20)
    weight = model.query[2].weight
    assert (weight @ weight.mT - torch.eye(16)).abs().max() < 1e-6
    assert not model.classifier.bias.any()
