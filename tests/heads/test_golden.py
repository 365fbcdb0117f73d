"""Our heads give the published models' numbers, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads.head import create_head
from pathotune_pipeline.heads.losses import classification_loss
from pathotune_pipeline.heads.published import load_published

CLAM = {
    "clam_sb": ("clam-sb", {"subtyping": True}),
    "clam_sb_nosub": ("clam-sb", {}),
    "clam_sb_ungated": ("clam-sb", {"gated": False}),
    "clam_mb": ("clam-mb", {"subtyping": True}),
}


def inputs(facts, dim: int) -> dict[str, torch.Tensor]:
    drawn = {n: np.random.default_rng(seed).standard_normal((int(n), dim)) for n, seed in facts["inputs"].items()}
    return {n: torch.from_numpy(each) for n, each in drawn.items()}


@pytest.mark.parametrize(("name", "head"), [("abmil", "abmil-ungated"), ("abmil_gated", "abmil")])
def test_abmil_gives_the_published_probability_and_attention(name, head, golden, recipe):
    facts, values = golden
    model = create_head(head, in_dim=500, n_classes=1, embed=False).double().eval()
    load_published(model, recipe(facts[name]["keys"], facts[name]["weights_seed"]), source="abmil")
    bags = inputs(facts[name], 500)
    output = model(BagBatch.of(*bags.values()))
    for i, n in enumerate(bags):
        assert np.abs(output.probabilities()[i].detach().numpy() - values[f"{name}_prob_{n}"]).max() < 1e-12
        assert np.abs(output.attention[i].numpy() - values[f"{name}_attention_{n}"][0]).max() < 1e-12


@pytest.mark.parametrize("name", list(CLAM))
@torch.no_grad()
def test_clam_gives_the_published_logits_attention_and_instance_loss(name, golden, recipe):
    facts, values = golden
    facts, (head, settings) = facts[name], CLAM[name]
    model = create_head(head, in_dim=1024, n_classes=3, instance_loss="ce", **settings).double().eval()
    load_published(model, recipe(facts["keys"], facts["weights_seed"]), source="clam")
    bags = inputs(facts, 1024)
    targets = torch.tensor([int(n) % 3 for n in bags])
    packed = BagBatch.of(*bags.values())
    output, raw = model(packed), packed.split(model.scores(packed))
    batch = BagBatch(packed.features, packed.offsets, targets=targets)
    for i, n in enumerate(bags):
        assert np.abs(output.logits[i].detach().numpy() - values[f"{name}_logits_{n}"]).max() < 1e-10
        assert np.abs(raw[i].mT.detach().numpy() - values[f"{name}_attention_raw_{n}"]).max() < 1e-10
        column = raw[i][:, int(output.logits[i].argmax()) if head == "clam-mb" else 0].detach()
        assert (output.attention[i] - column.softmax(dim=0)).abs().max() < 1e-12
        alone = BagBatch(bags[n], torch.tensor([0, int(n)]), targets=targets[i : i + 1])
        losses = model.losses(alone, classification_loss)
        assert float(losses["instance"].detach()) / 0.3 == pytest.approx(
            float(values[f"{name}_instance_loss_{n}"]), abs=1e-10
        )
        assert float(losses["bag"].detach()) / 0.7 == pytest.approx(
            float(classification_loss(output.logits[i : i + 1], targets[i : i + 1]).detach()), abs=1e-10
        )
    mean = np.mean([float(values[f"{name}_instance_loss_{n}"]) for n in bags])
    assert float(model.losses(batch, classification_loss)["instance"].detach()) / 0.3 == pytest.approx(mean, abs=1e-10)


def test_transmil_gives_the_published_logits(golden, recipe):
    facts, values = golden
    facts = facts["transmil"]
    model = create_head("transmil", in_dim=1024, n_classes=3).double().eval()
    load_published(model, recipe(facts["keys"], facts["weights_seed"]), source="transmil")
    bags = inputs(facts, 1024)
    with torch.no_grad():
        logits = model(BagBatch.of(*bags.values())).logits.numpy()
    for i, n in enumerate(bags):
        assert np.abs(logits[i] - values[f"transmil_logits_{n}"]).max() < 1e-6
