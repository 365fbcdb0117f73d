"""Our heads give the published models' numbers, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads.head import create_head
from pathotune_pipeline.heads.published import load_published


@pytest.mark.parametrize(("name", "head"), [("abmil", "abmil-ungated"), ("abmil_gated", "abmil")])
def test_abmil_gives_the_published_probability_and_attention(name, head, golden, recipe):
    facts, values = golden
    model = create_head(head, in_dim=500, n_classes=1, embed=False).double().eval()
    load_published(model, recipe(facts[name]["keys"], facts[name]["weights_seed"]), source="abmil")
    bags = {n: np.random.default_rng(seed).standard_normal((int(n), 500)) for n, seed in facts[name]["inputs"].items()}
    output = model(BagBatch.of(*map(torch.from_numpy, bags.values())))
    for i, n in enumerate(bags):
        assert np.abs(output.probabilities()[i].detach().numpy() - values[f"{name}_prob_{n}"]).max() < 1e-12
        assert np.abs(output.attention[i].numpy() - values[f"{name}_attention_{n}"][0]).max() < 1e-12


def test_transmil_gives_the_published_logits(golden, recipe):
    facts, values = golden
    facts = facts["transmil"]
    model = create_head("transmil", in_dim=1024, n_classes=3).double().eval()
    load_published(model, recipe(facts["keys"], facts["weights_seed"]), source="transmil")
    bags = {n: np.random.default_rng(seed).standard_normal((int(n), 1024)) for n, seed in facts["inputs"].items()}
    with torch.no_grad():
        logits = model(BagBatch.of(*map(torch.from_numpy, bags.values()))).logits.numpy()
    for i, n in enumerate(bags):
        assert np.abs(logits[i] - values[f"transmil_logits_{n}"]).max() < 1e-6
