"""Attributions against differences, and what they must not touch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pathotune_pipeline.adapt.modal import ModalCase, ModalNetwork
from pathotune_pipeline.adapt.modal.attribution import attribute
from pathotune_pipeline.errors import UsageError
from tests.adapt.modal.toys import TABLE, answer, case_of, encoder, network_of

STEP = 1e-5


def exact() -> tuple[ModalNetwork, ModalCase, torch.Tensor]:
    network = network_of(encoder(), opened=True).double()
    case = case_of()
    case = replace(case, features=case.features.double(), genes=case.genes.double(), clinical=case.clinical.double())
    return network, case, torch.randn(32, generator=torch.Generator().manual_seed(0)).double()


def score(network: ModalNetwork, case: ModalCase, direction: torch.Tensor) -> float:
    with torch.no_grad():
        return float(answer(network, case, task=[2])[0] @ direction)


def test_pathways_sum_to_the_slope_along_all_expression() -> None:
    network, case, direction = exact()
    found = attribute(network, case, direction=direction, task=2)
    assert found.score == pytest.approx(score(network, case, direction))
    ends = [score(network, replace(case, genes=case.genes * (1 + step)), direction) for step in (STEP, -STEP)]
    assert found.pathways is not None
    assert found.pathways.shape == (4,)
    assert float(found.pathways.sum()) == pytest.approx((ends[0] - ends[1]) / (2 * STEP), rel=1e-4)


def test_a_pathway_with_genes_of_its_own_has_their_slope_alone() -> None:
    network, case, direction = exact()
    found = attribute(network, case, direction=direction, task=2)
    assert found.pathways is not None
    only = torch.zeros(8, dtype=torch.float64)
    only[TABLE.genes.index("H")] = 1
    ends = [score(network, replace(case, genes=case.genes * (1 + step * only)), direction) for step in (STEP, -STEP)]
    assert float(found.pathways[TABLE.pathways.index("lone")]) == pytest.approx(
        (ends[0] - ends[1]) / (2 * STEP), rel=1e-4
    )


def test_a_tile_has_the_slope_of_moving_it_off_the_mean_tile() -> None:
    network, case, direction = exact()
    found = attribute(network, case, direction=direction, task=2)
    assert found.tiles is not None
    assert found.tiles.shape == (17,)
    for tile in (0, 9):
        ends = []
        for step in (STEP, -STEP):
            features = case.features.clone()
            features[tile] += step * (case.features[tile] - case.features.mean(0))
            ends.append(score(network, replace(case, features=features), direction))
        assert float(found.tiles[tile]) == pytest.approx((ends[0] - ends[1]) / (2 * STEP), rel=1e-3)


def test_a_case_without_a_modality_has_no_attribution_to_it_and_nothing_is_left_behind() -> None:
    network, case, direction = exact()
    with torch.no_grad():
        slides = attribute(network, replace(case, genes=None), direction=direction, task=0)
        genes = attribute(network, replace(case, features=None, coords=None), direction=direction, task=0)
        clinical = attribute(network, ModalCase(clinical=case.clinical), direction=direction, task=0)
    assert slides.pathways is None
    assert slides.tiles is not None
    assert genes.tiles is None
    assert genes.pathways is not None
    assert (clinical.tiles, clinical.pathways) == (None, None)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not case.features.requires_grad


def test_wrong_calls_are_refused() -> None:
    network, case = network_of(encoder()), case_of()
    with pytest.raises(UsageError, match=r"direction must be \[32\]"):
        attribute(network, case, direction=torch.zeros(3), task=0)
    with pytest.raises(UsageError, match="in training mode"):
        attribute(network.train(), case, direction=torch.zeros(32), task=0)
