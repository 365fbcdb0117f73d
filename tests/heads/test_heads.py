from __future__ import annotations

import math

import pytest
import torch
from nystrom_attention import NystromAttention as Oracle

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.errors import SpecError, UnknownNameError, UsageError, WeightsError
from pathotune_pipeline.heads.head import HEADS, HeadOutput, HeadSpec, MILHead, create_head
from pathotune_pipeline.heads.losses import balanced_weights, classification_loss
from pathotune_pipeline.heads.nystrom import NystromAttention
from pathotune_pipeline.heads.published import load_published

NAMES = ["mean", "max", "abmil", "abmil-ungated", "transmil"]
SMALL = {"transmil": {"dim": 32, "heads": 4, "landmarks": 8}}


def head(name: str, in_dim: int = 6, n_classes: int = 3, **settings) -> MILHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        made = create_head(name, in_dim=in_dim, n_classes=n_classes, **{**SMALL.get(name, {}), **settings})
    return made.double().eval()


def bags(*lengths: int, dim: int = 6) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(9)
    return [torch.randn(n, dim, generator=rng, dtype=torch.float64) for n in lengths]


@pytest.mark.parametrize("name", NAMES)
def test_a_bag_gives_the_same_alone_and_in_company(name):
    model, each = head(name), bags(1, 2, 40, 7, 65)
    each[2] *= 5  # a loud neighbour
    together = model(BagBatch.of(*each))
    for i, bag in enumerate(each):
        alone = model(BagBatch.of(bag))
        assert (alone.logits[0] - together.logits[i]).abs().max() < 1e-10
        if together.attention is not None:
            assert together.attention[i].shape == (len(bag),)
            assert (alone.attention[0] - together.attention[i]).abs().max() < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    model = head(name).train()
    model(BagBatch.of(*bags(5, 9))).logits.square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ["mean", "max", "abmil", "abmil-ungated"])
def test_the_order_of_tiles_does_not_matter_to_pooling(name):
    model, (bag,) = head(name), bags(30)
    turned = model(BagBatch.of(bag.flip(0))).logits
    assert (model(BagBatch.of(bag)).logits - turned).abs().max() < 1e-10


def test_abmil_attention_sums_to_one_and_survives_huge_scores():
    model, each = head("abmil"), bags(3, 50)
    model.attention_w.weight.data *= 1e4
    output = model(BagBatch.of(*each))
    assert output.logits.isfinite().all()
    assert [float(w.sum()) for w in output.attention] == pytest.approx([1, 1])
    assert not output.attention[0].requires_grad


def test_heads_answer_as_they_did():
    """Golden numbers of our own, float64: equal weights would give equal numbers on any machine."""
    found = {}
    for name in NAMES:
        model = head(name)
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
    "max": [0.33726104074245944, 1.6794925463679626, 1.6794925463679626],
    "mean": [0.33726104074245944, 1.2182155539926005, 0.8971989027854057],
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


def test_transmil_under_bf16_autocast_keeps_its_inverse_in_fp32():
    model, each = head("transmil").float(), [bag.float() for bag in bags(30)]
    exact = model(BagBatch.of(*each)).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(BagBatch.of(*each))
    assert rough.attention[0].dtype == torch.float32
    assert (rough.logits.float() - exact).abs().max() < 0.1


def test_one_logit_is_a_sigmoid():
    output = HeadOutput(torch.tensor([[0.0], [2.0]]))
    assert output.probabilities()[:, 0].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


def test_names_settings_and_features_are_checked():
    with pytest.raises(UnknownNameError, match="Did you mean 'abmil'"):
        create_head("abmill", in_dim=3, n_classes=2)
    with pytest.raises(SpecError, match="Did you mean 'landmarks'"):
        create_head("transmil", in_dim=3, n_classes=2, landmark=3)
    with pytest.raises(SpecError, match=r"dim 30 .* heads 8"):
        create_head("transmil", in_dim=3, n_classes=2, dim=30)
    with pytest.raises(UsageError, match="6-d features; these are 5-d"):
        head("mean")(BagBatch.of(*bags(3, dim=5)))
    with pytest.raises(UsageError, match="no instances"):
        head("mean")(BagBatch.of(*bags(3, 0)))
    with pytest.raises(UsageError, match="at least 1"):
        create_head("mean", in_dim=0, n_classes=2)


def test_a_plug_in_is_created_by_its_name():
    class First(MILHead):
        def __init__(self, in_dim: int, n_classes: int, settings: HeadSpec) -> None:
            super().__init__(in_dim, n_classes, settings)
            self.layer = torch.nn.Linear(in_dim, n_classes)

        def forward(self, batch: BagBatch) -> HeadOutput:
            return HeadOutput(self.layer(batch.features[batch.offsets[:-1]]))

    HEADS.add("first-of-test", First)
    assert create_head("first-of-test", in_dim=6, n_classes=2)(
        BagBatch.of(*(bag.float() for bag in bags(2, 3)))
    ).logits.shape == (2, 2)


def test_published_weights_that_do_not_fit_are_named():
    with pytest.raises(WeightsError, match=r"missing \['attention_u.bias'"):
        load_published(head("abmil", embed=False), {"attention.0.weight": torch.zeros(1)})


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
