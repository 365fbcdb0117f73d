"""Cells, sines and slopes against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pathotune_pipeline.slide_encoders.positions import alibi_slopes, grid_cells, sincos_2d


def test_cells_of_a_whole_stride() -> None:
    coords = torch.tensor([[0, 0], [255, 256], [512, 511], [256000, 7]])
    assert grid_cells(coords, 256).tolist() == [[0, 0], [0, 1], [2, 1], [1000, 0]]


@pytest.mark.parametrize("stride_px", [448.6, 497.3333, 1015.873, 2.5])
def test_a_stride_that_is_no_whole_number_puts_each_tile_into_its_own_cell(stride_px: float) -> None:
    steps = torch.arange(5000, dtype=torch.float64)
    coords = (steps * stride_px).round()[:, None].expand(-1, 2)
    assert torch.equal(grid_cells(coords, stride_px), steps[:, None].expand(-1, 2))


def test_sines_and_cosines_of_y_then_x() -> None:
    found = sincos_2d(torch.tensor([[9.0, 2.0], [3.0, 2.0]]), 8, dtype=torch.float64)[1].tolist()
    slow = 10_000**-0.5
    y = [math.sin(2), math.sin(2 * slow), math.cos(2), math.cos(2 * slow)]
    x = [math.sin(3), math.sin(3 * slow), math.cos(3), math.cos(3 * slow)]
    assert found == pytest.approx(y + x, abs=1e-15)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [1 / 256]),
        (4, [1 / 4, 1 / 16, 1 / 64, 1 / 256]),
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
        (12, [*(2.0**-i for i in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),  # TITAN's
    ],
)
def test_slopes(heads: int, slopes: list[float]) -> None:
    assert alibi_slopes(heads) == pytest.approx(slopes, rel=1e-12)
