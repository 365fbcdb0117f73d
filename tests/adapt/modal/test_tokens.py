"""Pathway, clinical and task tokens: equal to networks built one by one, blind to what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pathotune_pipeline.adapt.modal.pathways import PathwayTable
from pathotune_pipeline.adapt.modal.tokens import ClinicalTokens, PathwayTokens, Standardise, TaskTokens
from pathotune_pipeline.errors import UsageError
from tests.adapt.modal.toys import CLINICAL, TABLE, case_of, spec_of


def fresh(table: PathwayTable = TABLE) -> PathwayTokens:
    torch.manual_seed(4)
    tokens = PathwayTokens(spec_of(), table, 64).eval()
    with torch.no_grad():
        tokens.first_bias.normal_()
        tokens.second_bias.normal_()
    return tokens


def one_by_one(tokens: PathwayTokens, genes: torch.Tensor) -> torch.Tensor:
    """Every pathway's network by itself, then the mixers as the words of the paper have them."""
    hidden, start = [], 0
    for number, held in enumerate(TABLE.members):
        rows = tokens.first[start : start + len(held)]
        first = F.elu(genes[torch.from_numpy(held)] @ rows + tokens.first_bias[number])
        hidden.append(F.elu(first @ tokens.second[number] + tokens.second_bias[number]))
        start += len(held)
    x = torch.stack(hidden)
    for mixer in tokens.mixers:
        x = x + mixer.tokens(mixer.norm_tokens(x).T).T
        x = x + mixer.channels(mixer.norm_channels(x))
    return tokens.gather.weight @ tokens.widen(x) + tokens.gather.bias[:, None]


def test_pathways_at_once_are_pathways_one_by_one_in_values_and_gradients() -> None:
    tokens, genes = fresh(), case_of().genes.requires_grad_(True)
    weight = torch.randn(6, 64)
    found, slopes = [], []
    for made in (tokens(tokens.memberships(genes))[0], one_by_one(tokens, genes)):
        found.append(made)
        slopes.append(torch.autograd.grad((made * weight).sum(), [genes, tokens.first, tokens.first_bias]))
    assert torch.allclose(*found, atol=1e-5)
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(*slopes, strict=True))


def test_a_gene_reaches_its_own_pathways_alone() -> None:
    tokens = fresh()
    genes = case_of().genes
    seen = []
    tokens.mixers.register_forward_pre_hook(lambda module, given: seen.append(given[0][0].detach()))
    tokens(tokens.memberships(genes))
    genes[TABLE.genes.index("C")] += 1
    tokens(tokens.memberships(genes))
    moved = (seen[0] != seen[1]).any(1).tolist()
    assert dict(zip(TABLE.pathways, moved, strict=True)) == {
        "growth": True,
        "repair": True,
        "death": False,
        "lone": False,
    }


def test_the_first_layers_begin_with_unit_variance_whatever_a_pathway_holds() -> None:
    torch.manual_seed(0)
    table = PathwayTable.of_sets({"large": [f"g{n}" for n in range(400)], "small": ["g0", "g1"]})
    tokens = PathwayTokens(spec_of(pathway_dim=256), table, 64)
    genes = torch.randn(200, 400)
    sums = torch.stack([F.embedding_bag(tokens._order, tokens.first, tokens.starts, mode="sum",
                                        per_sample_weights=tokens.memberships(row)) for row in genes])  # fmt: skip
    assert torch.allclose(sums.detach().std((0, 2)), torch.ones(2), atol=0.1)


def test_an_unknown_expression_value_is_the_training_mean() -> None:
    tokens, genes = fresh(), case_of().genes
    mean = np.linspace(-1, 1, len(genes))
    tokens.standardise.set(mean, np.full(len(genes), 2.0))
    genes[2] = float("nan")
    unknown = tokens(tokens.memberships(genes))
    genes[2] = float(np.float32(mean[2]))
    assert torch.equal(tokens(tokens.memberships(genes)), unknown)


def test_standardising_takes_fitted_numbers_and_nothing_else() -> None:
    standard = Standardise(2)
    assert torch.equal(standard(torch.tensor([3.0, 5.0])), torch.tensor([3.0, 5.0]))
    standard.set([1.0, 2.0], [2.0, 0.5])
    assert torch.equal(standard(torch.tensor([3.0, 5.0])), torch.tensor([1.0, 6.0]))
    for mean, scale, said in (([1.0], [1.0, 1.0], "mean must be 2"), ([0.0, 0.0], [1.0, float("nan")], "scale must be 2"),
                              ([0.0, 0.0], [1.0, 0.0], "not above 0")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            standard.set(mean, scale)


def test_a_missing_clinical_value_is_told_from_an_average_one() -> None:
    torch.manual_seed(0)
    tokens = ClinicalTokens(len(CLINICAL), 64)
    average, missing = torch.tensor([0.5, 0.0, 1.0]), torch.tensor([0.5, float("nan"), 1.0])
    assert not torch.allclose(tokens(average), tokens(missing), atol=1e-3)
    assert torch.isfinite(tokens(missing)).all()
    assert sum(parameter.numel() for parameter in tokens.parameters()) == 6 * 32 + 32 + 32 * 64 + 64 + 2 * 64


def test_a_task_is_a_column_of_one_layer() -> None:
    tokens = TaskTokens(3, 64)
    for number in range(3):
        assert torch.allclose(
            tokens(number)[0, 0], tokens.norm(tokens.linear.weight[:, number] + tokens.linear.bias), atol=1e-6
        )
