"""DTFD-MIL against its definition."""

from __future__ import annotations

import pytest
import torch

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads.losses import classification_loss


def parts_of(n: int, seed: int = 0, pseudo_bags: int = 4) -> list[list[int]]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return [part.tolist() for part in order.tensor_split(min(n, pseudo_bags))]


def by_definition(model, bag, n_classes: int):
    """Second tier's logits [C], first tier's [G, C], and the tiles each part hands on."""
    embedded = model.embed(bag).detach()
    distilled, firsts, handed = [], [], []
    for part in parts_of(len(bag)):
        h = embedded[part]
        weights = model.first.attention(h).softmax(dim=0)
        pooled = (weights * h).sum(dim=0, keepdim=True)
        logits = model.first.classifier(pooled)
        firsts.append(logits[0])
        activations = torch.stack([model.first.classifier.weight @ (w * x) for w, x in zip(weights, h, strict=True)])
        kind = int(logits.argmax()) if n_classes > 2 else n_classes - 1
        order = activations.softmax(dim=1)[:, kind].argsort(descending=True).tolist()
        few = model.settings.instances
        chosen = {
            "AFS": [],
            "MaxS": order[:few],
            "MaxMinS": order[:few] + [k for k in order[-few:] if k not in order[:few]],
        }
        rows = chosen[model.settings.distill]
        handed.append([part[k] for k in rows])
        distilled.append(pooled if model.settings.distill == "AFS" else h[rows])
    second = torch.cat(distilled)
    weights = model.second.attention(second).softmax(dim=0)
    return (
        model.second.classifier((weights * second).sum(dim=0)),
        torch.stack(firsts),
        [k for each in handed for k in each],
        weights[:, 0],
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    ("distill", "instances"), [("AFS", 1), ("MaxS", 1), ("MaxS", 3), ("MaxMinS", 1), ("MaxMinS", 2)]
)
@torch.no_grad()
def test_both_tiers_are_as_defined(distill, instances, n_classes, small_head, some_bags, labelled):
    model = small_head("dtfd", n_classes=n_classes, distill=distill, instances=instances)
    for bag in some_bags(1, 3, 6, 33):
        second, firsts, handed, weights = by_definition(model, bag, n_classes)
        output = model(BagBatch.of(bag))
        assert (output.logits[0] - second).abs().max() < 1e-12
        if handed:
            assert (output.attention[0][handed] - weights).abs().max() < 1e-12
            assert int((output.attention[0] > 0).sum()) == len(set(handed)) == len(handed)
        losses = model.losses(labelled([bag], [1]), classification_loss)
        repeated = torch.ones(len(firsts), dtype=torch.int64)
        assert float(losses["bag"]) == pytest.approx(float(classification_loss(second[None], repeated[:1])), abs=1e-12)
        assert float(losses["pseudo"]) == pytest.approx(float(classification_loss(firsts, repeated)), abs=1e-12)


def test_a_part_of_its_pseudo_bag_is_a_part_of_the_bag(small_head, some_bags):
    model, (bag,) = small_head("dtfd"), some_bags(10)
    output, (_, _, _, outside) = model(BagBatch.of(bag)), by_definition(model, bag, 3)
    for part, weight in zip(parts_of(10), outside, strict=True):
        inside = model.first.attention(model.embed(bag[part])).softmax(dim=0)[:, 0]
        assert (output.attention[0][part] - weight * inside).abs().max() < 1e-12


def test_the_second_tier_s_loss_stops_at_its_input(small_head, some_bags, labelled):
    model = small_head("dtfd")
    losses = model.losses(labelled(some_bags(9), [1]), classification_loss)
    losses["bag"].backward()
    assert all(p.grad is None for p in [*model.embed.parameters(), *model.first.parameters()])
    losses["pseudo"].backward()
    assert float(model.embed[0].weight.grad.abs().max()) > 0


def test_parts_are_drawn_anew_in_training_and_stay_outside_it(small_head, some_bags):
    model, (bag,) = small_head("dtfd"), some_bags(40)
    once, again = (model(BagBatch.of(bag)).logits for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, small_head("dtfd", seed=1)(BagBatch.of(bag)).logits)
    before = torch.get_rng_state()
    model(BagBatch.of(bag))
    assert torch.equal(before, torch.get_rng_state())
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = (model(BagBatch.of(bag)).logits for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(first, model(BagBatch.of(bag)).logits)
    assert not torch.equal(first, second)
