"""Where a tile is: its cell in the slide's grid, and what encoders make of that."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WAVELENGTH = 10_000.0


def grid_cells(coords: Tensor, stride_px: float) -> Tensor:
    """The cell (x, y) of each tile, float64 [N, 2], whole numbers.

    Tiles of a grid lie at round(i * stride); half a pixel is added, so that a stride that is no whole number of pixels
    puts no two of them into one cell.

    Args:
        coords: [N, 2], (x, y), level-0 pixels.
        stride_px: level-0 pixels from one tile to the next.
    """
    return ((coords.double() + 0.5) / stride_px).floor()


def sincos_2d(cells: Tensor, dim: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sines and cosines of a cell's place, [N, dim]: the first half tells y, the second x.

    Of each half the first half are sines, of wavelengths from 2 pi to 2 pi * 10,000 (MAE's, as GigaPath takes them).
    Computed in float64 for the rows and columns that there are: GigaPath's table of 1000 x 1000 cells takes 3 GB.

    Args:
        cells: [N, 2], (x, y).
        dim: a multiple of 4.
        dtype: of the result.
    """
    steps = torch.arange(dim // 4, dtype=torch.float64, device=cells.device) / (dim // 4)
    halves = []
    for column in (1, 0):
        there, which = cells[:, column].double().unique(return_inverse=True)
        angles = there[:, None] * _WAVELENGTH**-steps
        halves.append(torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)[which])
    return torch.cat(halves, dim=1)


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head (Press et al. 2022, "Train short, test long"): powers of 2^(-8 / heads).

    Where the number of heads is no power of two, those of the power below it, and then every other one of the power above.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / below) for i in range(below)]
    return slopes + [2.0 ** (-8 * (i + 1) / (2 * below)) for i in range(0, 2 * (heads - below), 2)]
