from __future__ import annotations

import math

import pytest
import torch
from nystrom_attention import NystromAttention as Oracle

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.errors import SpecError, UnknownNameError, UsageError
from pathotune_pipeline.heads.head import HEADS, HeadOutput, HeadSpec, MILHead, create_head
from pathotune_pipeline.heads.losses import balanced_weights, classification_loss, smooth_svm_loss
from pathotune_pipeline.heads.nystrom import NystromAttention

NAMES = [
    "mean",
    "max",
    "abmil",
    "abmil-ungated",
    "clam-sb",
    "clam-mb",
    "transmil",
    "dsmil",
    "dtfd",
    "transformer",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_bag_gives_the_same_alone_and_in_company(name, small_head, some_bags):
    model, each = small_head(name), some_bags(1, 2, 40, 7, 65)
    each[2] *= 5  # a loud neighbour
    together = model(BagBatch.of(*each))
    for i, bag in enumerate(each):
        alone = model(BagBatch.of(bag))
        assert (alone.logits[0] - together.logits[i]).abs().max() < 1e-10
        if together.attention is not None:
            assert together.attention[i].shape == (len(bag),)
            assert (alone.attention[0] - together.attention[i]).abs().max() < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name, small_head, some_bags):
    model, each = small_head(name), some_bags(3, 11, 7)
    features, mask = torch.full((3, 15, 6), math.nan, dtype=torch.float64), torch.zeros(3, 15, dtype=torch.bool)
    for i, (bag, start) in enumerate(zip(each, (0, 4, 8), strict=True)):
        features[i, start : start + len(bag)], mask[i, start : start + len(bag)] = bag, True
    assert torch.equal(model(BagBatch.of_padded(features, mask)).logits, model(BagBatch.of(*each)).logits)


def test_a_mask_must_fit():
    with pytest.raises(UsageError, match=r"mask is \(2, 4\) torch.bool"):
        BagBatch.of_padded(torch.zeros(2, 3, 5), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match="float32"):
        BagBatch.of_padded(torch.zeros(2, 3, 5), torch.ones(2, 3))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_losses_reach_every_parameter(name, n_classes, small_head, some_bags, labelled):
    model = small_head(name, n_classes=n_classes).train()
    losses = model.losses(labelled(some_bags(5, 9), [0, 1]), classification_loss)
    torch.stack(list(losses.values())).sum().backward()
    # A shift of all scores changes no softmax, so the last bias of an attention has a gradient of zero by definition.
    still = [key for key, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 1e-12)]
    assert not [key for key in still if not key.endswith(("attention_w.bias", "attention.w.bias"))]


def test_a_head_without_targets_cannot_learn(small_head, some_bags):
    for name in NAMES:
        with pytest.raises(UsageError, match="no targets"):
            small_head(name).losses(BagBatch.of(*some_bags(3)), classification_loss)


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {"pseudo_bags": 1} if name == "dtfd" else {}) for name in NAMES if name != "transmil"],
)
@torch.no_grad()
def test_the_order_of_tiles_does_not_matter(name, settings, small_head, some_bags, labelled):
    model, (bag,) = small_head(name, **settings), some_bags(30)
    turned = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    said, again = (model(BagBatch.of(each)) for each in (bag, bag[turned]))
    assert (said.logits - again.logits).abs().max() < 1e-10
    if said.attention is not None:
        assert (said.attention[0][turned] - again.attention[0]).abs().max() < 1e-10
    one, two = (model.losses(labelled([each], [2]), classification_loss) for each in (bag, bag[turned]))
    assert {key: float(value) for key, value in one.items()} == pytest.approx({k: float(v) for k, v in two.items()})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mean", "max", "transmil")])
def test_attention_sums_to_one(name, small_head, some_bags):
    for weights, n in zip(small_head(name)(BagBatch.of(*some_bags(1, 3, 50))).attention, (1, 3, 50), strict=True):
        assert weights.shape == (n,)
        assert float(weights.sum()) == pytest.approx(1)
        assert float(weights.min()) >= 0
        assert not weights.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_one_logit_and_five_are_possible(name, small_head, some_bags, labelled):
    for n_classes, targets in ((1, [0, 1]), (5, [4, 0])):
        model = small_head(name, n_classes=n_classes)
        batch = labelled(some_bags(4, 9), targets)
        assert model(batch).logits.shape == (2, n_classes)
        assert all(bool(each.isfinite()) for each in model.losses(batch, classification_loss).values())


def test_max_pooling_learns_from_the_highest_instance_alone(small_head, some_bags):
    model, (bag,) = small_head("max"), some_bags(12)
    bag = torch.cat([bag, bag])  # every instance twice: one of the two has the gradient, whole
    bag.requires_grad_()
    model(BagBatch.of(bag)).logits[0, 1].backward()
    highest = model.classifier(bag)[:, 1].argmax()
    expected = torch.zeros_like(bag)
    expected[highest] = model.classifier.weight[1].detach()
    assert torch.equal(bag.grad, expected)


@pytest.mark.parametrize("name", ["abmil", "clam-mb", "dsmil", "dtfd", "transformer"])
def test_attention_survives_huge_scores(name, small_head, some_bags):
    model, each = small_head(name), some_bags(3, 50)
    for key, p in model.named_parameters():
        if key in ("attention_w.weight", "attention.w.weight", "query.2.weight", "last.to_qkv.weight"):
            p.data *= 1e4
    output = model(BagBatch.of(*each))
    assert output.logits.isfinite().all()
    assert [float(w.sum()) for w in output.attention] == pytest.approx([1, 1])


def test_heads_answer_as_they_did(small_head):
    """Golden numbers of our own, float64: equal weights would give equal numbers on any machine."""
    found = {}
    for name in NAMES:
        model = small_head(name)
        for i, p in enumerate(model.parameters()):
            p.data = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 0.7 + i).reshape(p.shape) / math.sqrt(
                max(1, p.numel() // p.shape[0])
            )
        each = [torch.cos(torch.arange(n * 6, dtype=torch.float64)).reshape(n, 6) for n in (1, 11, 30)]
        found[name] = model(BagBatch.of(*each)).logits[:, 0].tolist()
    assert found == {name: pytest.approx(values, abs=1e-9) for name, values in GOLDEN.items()}


GOLDEN = {
    "abmil": [4.684294234236683, 4.617619617078899, 4.594551158449431],
    "abmil-ungated": [2.174732407917862, 2.278871611290925, 2.2786682482567917],
    "clam-mb": [1.2900837730998493, 1.3549443293013483, 1.344472274160318],
    "clam-sb": [1.2900837730998491, 1.3549443293013483, 1.344472274160318],
    "dsmil": [0.6539915966514345, 0.6899109348170643, 0.7145454404982519],
    "dtfd": [-0.4874852049143005, -0.43068259620694227, -0.4553331582125303],
    "max": [0.33726104074245944, 1.6794925463679626, 1.6794925463679626],
    "mean": [0.33726104074245944, 1.2182155539926005, 0.8971989027854057],
    "transformer": [0.4659139503930204, 0.46580356405934376, 0.46576374036276824],
    "transmil": [0.678288608139401, 0.6741796849516205, 0.6760412097400607],
}


@pytest.mark.parametrize(("n", "landmarks"), [(1, 8), (7, 8), (8, 8), (9, 8), (50, 8), (64, 16), (300, 256)])
@pytest.mark.parametrize("first_only", [False, True])
def test_attention_is_that_of_the_nystrom_attention_package(n, landmarks, first_only):
    ours = NystromAttention(32, heads=4, dim_head=8, landmarks=landmarks).double().eval()
    oracle = Oracle(32, heads=4, dim_head=8, num_landmarks=landmarks).double().eval()
    ours.to_qkv.weight.data *= 4
    names = {"to_out.weight": "to_out.0.weight", "to_out.bias": "to_out.0.bias"}
    oracle.load_state_dict({names.get(key, key): value for key, value in ours.state_dict().items()})
    for x in torch.randn(2, 1, n, 32, dtype=torch.float64):  # one by one: the package couples a batch's bags
        out, weights = ours(x, first_only=first_only)
        wanted, matrix = oracle(x, return_attn=True)
        pad = -n % landmarks
        assert (out - wanted[:, : out.shape[1]]).abs().max() < 1e-10
        assert (weights - matrix[:, :, pad, pad:]).abs().max() < 1e-10


def test_batched_attention_is_that_of_single_bags():
    layer = NystromAttention(32, heads=4, dim_head=8, landmarks=8).double().eval()
    layer.to_qkv.weight.data *= 8
    x = torch.randn(3, 20, 32, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.1])[:, None, None]
    together, _ = layer(x)
    assert (together - torch.cat([layer(each[None])[0] for each in x])).abs().max() < 1e-10


def test_transmil_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in create_head("transmil", in_dim=1024, n_classes=2).parameters()) == 2_672_146


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_bf16_autocast_keeps_softmax_inverse_and_losses_in_fp32(name, small_head, some_bags, labelled):
    model, batch = small_head(name).float(), labelled([bag.float() for bag in some_bags(30, 8)], [0, 2])
    exact, losses = model(batch).logits, model.losses(batch, classification_loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, rough_losses = model(batch), model.losses(batch, classification_loss)
    assert rough.attention is None or rough.attention[0].dtype == torch.float32
    assert (rough.logits.float() - exact).abs().max() < 0.1
    assert {key: value.dtype for key, value in rough_losses.items()} == dict.fromkeys(losses, torch.float32)


def test_one_logit_is_a_sigmoid():
    output = HeadOutput(torch.tensor([[0.0], [2.0]]))
    assert output.probabilities()[:, 0].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


def test_names_settings_and_features_are_checked(small_head, some_bags):
    with pytest.raises(UnknownNameError, match="Did you mean 'abmil'"):
        create_head("abmill", in_dim=3, n_classes=2)
    with pytest.raises(SpecError, match="Did you mean 'landmarks'"):
        create_head("transmil", in_dim=3, n_classes=2, landmark=3)
    for name in ("transmil", "transformer"):
        with pytest.raises(SpecError, match=r"dim 30 .* heads 8"):
            create_head(name, in_dim=3, n_classes=2, dim=30)
    with pytest.raises(UsageError, match="6-d features; these are 5-d"):
        small_head("mean")(BagBatch.of(*some_bags(3, dim=5)))
    with pytest.raises(UsageError, match="no instances"):
        small_head("mean")(BagBatch.of(*some_bags(3, 0)))
    with pytest.raises(UsageError, match="at least 1"):
        create_head("mean", in_dim=0, n_classes=2)


def test_a_plug_in_is_created_by_its_name(some_bags):
    class First(MILHead):
        def __init__(self, in_dim: int, n_classes: int, settings: HeadSpec) -> None:
            super().__init__(in_dim, n_classes, settings)
            self.layer = torch.nn.Linear(in_dim, n_classes)

        def forward(self, batch: BagBatch) -> HeadOutput:
            return HeadOutput(self.layer(batch.features[batch.offsets[:-1]]))

    HEADS.add("first-of-test", First)
    assert create_head("first-of-test", in_dim=6, n_classes=2)(
        BagBatch.of(*(bag.float() for bag in some_bags(2, 3)))
    ).logits.shape == (2, 2)


def test_losses():
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([0, 0, 1])
    weights = balanced_weights(targets, 2)
    assert weights.tolist() == pytest.approx([0.75, 1.5])
    each = [math.log(1 + math.exp(-2)), math.log(1 + math.e), math.log(2)]
    assert float(classification_loss(logits, targets)) == pytest.approx(sum(each) / 3)
    weighted = float(classification_loss(logits, targets, class_weights=weights))
    assert weighted == pytest.approx((0.75 * each[0] + 0.75 * each[1] + 1.5 * each[2]) / 3)
    single = classification_loss(torch.tensor([[0.3], [-0.2]]), torch.tensor([1, 0]))
    assert float(single) == pytest.approx((math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(-0.2))) / 2)
    assert balanced_weights(torch.tensor([1, 1]), 3).tolist() == [0, 1, 0]


def test_smooth_svm():
    logits, targets = torch.tensor([[0.3, -0.2], [1.0, 2.0]], dtype=torch.float64), torch.tensor([0, 0])
    assert float(smooth_svm_loss(logits, targets)) == pytest.approx(1.5505, abs=5e-5)  # the authors' package's value
    by_hand = (math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(2))) / 2
    assert float(smooth_svm_loss(logits, targets)) == pytest.approx(by_hand, abs=1e-12)
    hinge = (max(0, 1 - 0.5) + max(0, 1 + 1)) / 2
    assert float(smooth_svm_loss(logits, targets, temperature=1e-3)) == pytest.approx(hinge, abs=1e-2)
    assert float(smooth_svm_loss(logits, targets, margin=0)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, targets)), abs=1e-12
    )
    large = torch.tensor([[1e4, -1e4]], requires_grad=True)
    smooth_svm_loss(large, torch.tensor([1])).backward()
    assert large.grad.tolist() == [[1, -1]]
    assert smooth_svm_loss(large.half(), torch.tensor([1])).dtype == torch.float32
