"""Large cases: what is kept for the gradients grows by what enters each layer, and the gradients stay the same."""

from __future__ import annotations

import pytest
import torch

from pathotune_pipeline.adapt.modal import ModalNetwork
from tests.adapt.modal.toys import DIM, answer, case_of, encoder, network_of

N_LAYERS, N_BLOCKS, N_EXTRACTORS = 5, 3, 5


def kept_bytes(network: ModalNetwork, n_tiles: int) -> int:
    """Bytes of all tensors that one task's pass keeps for its gradients, each piece of memory once."""
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held = tensor.untyped_storage()
        seen[held.data_ptr()] = held.nbytes()
        return tensor

    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = answer(network, case_of(n_tiles=n_tiles), task=[0])
    assert found.requires_grad
    return sum(size for place, size in seen.items() if place not in own)


def per_tile(monkeypatch: pytest.MonkeyPatch, checkpoint_tiles: int) -> float:
    monkeypatch.setattr("pathotune_pipeline.slide_encoders.encoder.RECOMPUTE_FROM", checkpoint_tiles)
    network = network_of(encoder(n_layers=N_LAYERS), opened=True, checkpoint_tiles=checkpoint_tiles)
    return (kept_bytes(network, 1500) - kept_bytes(network, 500)) / 1000


def test_a_large_case_keeps_one_row_a_tile_for_each_layer_and_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    row = DIM * 4
    sparing, plain = per_tile(monkeypatch, 100), per_tile(monkeypatch, 5000)
    assert sparing <= (N_LAYERS + N_BLOCKS + 2) * row  # what enters, the last layer's answer, and the tiles' own places
    assert plain > 5 * sparing


def test_gradients_are_those_of_a_case_that_keeps_everything() -> None:
    case, slopes = case_of(n_tiles=60), []
    for checkpoint_tiles in (10, 1000):
        network = network_of(encoder(), opened=True, checkpoint_tiles=checkpoint_tiles).train()
        torch.manual_seed(3)  # dropout is drawn again as it was
        answer(network, case).square().sum().backward()
        slopes.append({name: p.grad for name, p in network.adapter.named_parameters() if p.grad is not None})
    assert slopes[0].keys() == slopes[1].keys()
    assert all(torch.allclose(slopes[0][name], slopes[1][name], rtol=1e-4, atol=1e-5) for name in slopes[0])
