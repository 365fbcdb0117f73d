"""CLAM's loss on instances, against its definition; its numbers are in test_golden."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.heads.losses import classification_loss, smooth_svm_loss


def instance_loss(model, batch) -> Tensor:
    share = 1 - model.settings.bag_share
    return model.losses(batch, classification_loss)["instance"].detach() / share


def judged(model, bag: Tensor, c: int) -> Tensor:
    """What class c's classifier says of each tile, [N, 2]."""
    return model.instance_classifiers(model.embed(bag))[:, 2 * c : 2 * c + 2].detach()


@pytest.mark.parametrize(("n", "few"), [(1, 1), (2, 1), (3, 1), (5, 2), (7, 3), (8, 4), (20, 4)])
@pytest.mark.parametrize("kind", ["svm", "ce"])
@pytest.mark.parametrize("name", ["clam-sb", "clam-mb"])
@torch.no_grad()
def test_no_tile_of_a_short_bag_is_called_both(name, kind, n, few, small_head, some_bags, labelled):
    model, (bag,) = small_head(name, instance_loss=kind), some_bags(n)
    loss = {"svm": smooth_svm_loss, "ce": F.cross_entropy}[kind]
    raw = model.scores(BagBatch.of(bag)).detach()[:, 1 if name == "clam-mb" else 0]
    order = raw.argsort(descending=True)
    rows = torch.cat([order[:few], order[-few:] if n > 1 else order[:0]])
    labels = torch.tensor(([1] * few + [0] * few)[: len(rows)])
    assert len(set(rows.tolist())) == len(rows)
    expected = loss(judged(model, bag, 1)[rows], labels)
    assert float(instance_loss(model, labelled([bag], [1]))) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("n", [2, 20])
@torch.no_grad()
def test_with_subtyping_the_other_classes_speak_too(n, small_head, some_bags, labelled):
    model, (bag,) = small_head("clam-mb", subtyping=True, instance_loss="ce"), some_bags(n)
    raw = model.scores(BagBatch.of(bag)).detach()
    few, most, total = min(4, n // 2), min(4, n), 0.0
    for c in range(3):
        order = raw[:, c].argsort(descending=True)
        rows, labels = (
            (torch.cat([order[:few], order[-few:]]), [1] * few + [0] * few) if c == 2 else (order[:most], [0] * most)
        )
        total += float(F.cross_entropy(judged(model, bag, c)[rows], torch.tensor(labels)))
    assert float(instance_loss(model, labelled([bag], [2]))) == pytest.approx(total / 3, abs=1e-12)


@torch.no_grad()
def test_equal_tiles_are_not_called_both(small_head, labelled):
    model = small_head("clam-sb", instance_loss="ce")
    bag = torch.ones(8, 6, dtype=torch.float64)
    says = judged(model, bag, 1)
    expected = F.cross_entropy(says, torch.tensor([1] * 4 + [0] * 4))
    assert float(instance_loss(model, labelled([bag], [1]))) == pytest.approx(float(expected), abs=1e-12)


def test_the_instance_loss_can_be_off(small_head, some_bags, labelled):
    batch = labelled(some_bags(9), [1])
    for settings in ({"instances": 0}, {"bag_share": 1.0}):
        assert set(small_head("clam-sb", **settings).losses(batch, classification_loss)) == {"bag"}


def test_the_instance_loss_leaves_the_attention_alone(small_head, some_bags, labelled):
    model = small_head("clam-sb")
    model.losses(labelled(some_bags(9), [1]), classification_loss)["instance"].backward()
    assert all(p.grad is None for p in model.attention.parameters())
    assert float(model.embed[0].weight.grad.abs().max()) > 0


def test_targets_that_are_no_classes_are_refused(small_head, some_bags, labelled):
    model, bags = small_head("clam-sb"), some_bags(9)
    for targets in ([3], [-1], [0.5]):
        with pytest.raises(UsageError, match="one class index below 3"):
            model.losses(labelled(bags, targets), lambda logits, _: logits.sum())


def test_the_attention_of_many_branches_is_the_predicted_class_s(small_head, some_bags):
    model, bags = small_head("clam-mb"), some_bags(9, 30)
    batch = BagBatch.of(*bags)
    output = model(batch)
    for i, raw in enumerate(batch.split(model.scores(batch).detach())):
        weights, c = raw.softmax(dim=0), int(output.logits[i].argmax())
        assert torch.equal(output.attention[i], weights[:, c])
        pooled = weights.mT @ model.embed(bags[i]).detach()  # [C, M]
        logits = torch.stack([pooled[k] @ model.classifier.weight[k] + model.classifier.bias[k] for k in range(3)])
        assert (output.logits[i] - logits).abs().max() < 1e-12
