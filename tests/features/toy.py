"""A slide whose every tile says where it is, and encoders that pass it on: for tests of the engine and the stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import zarr

from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.features.resident import Resident
from pathotune_pipeline.features.stream import Part, RowWriter, Sink
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.slide import Level, SlideInfo
from pathotune_pipeline.tiles.grid import TileGrid, TileSpec, tile_slide
from pathotune_pipeline.tissue.mask import TissueMask

CELL = 32
CARD = EncoderCard(name="mean", source="built-in", architecture="mean", dim=3, mean=None, std=None)


class ColourSlide:
    """Each 32 px cell has a colour of its own; some cells cannot be read.

    Args:
        across, down: cells.
        bad: cells (column, row) that cannot be read.
        blue: the third channel, which tells slides apart.
    """

    def __init__(
        self, bad: frozenset[tuple[int, int]] = frozenset(), *, across: int = 23, down: int = 11, blue: int = 7
    ) -> None:
        size = Size(across * CELL, down * CELL)
        self.info = SlideInfo("toy", "toy", (Level(size, 1.0),), Mpp.square(0.5), "toy", None)
        self.bad, self.blue = bad, blue
        self.reads = 0

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        self.reads += 1
        column, row = location[0] // CELL, location[1] // CELL
        if (column, row) in self.bad:
            raise TileReadError("the JPEG data are damaged")
        return np.full((size[1], size[0], 3), (column * 10, row * 20, self.blue), dtype=np.uint8)

    def close(self) -> None:
        pass

    def grid(self, tile_px: int = CELL) -> TileGrid:
        """Every tile of the slide."""
        size = self.info.size
        mask = TissueMask(
            np.ones((size.height // CELL, size.width // CELL), bool),
            16.0, 16.0, Mpp.square(0.5), size, np.zeros((8, 8, 3), np.uint8),
        )  # fmt: skip
        return tile_slide(self.info, mask, TileSpec(), mpp=0.5, tile_px=tile_px)

    def expected(self, grid: TileGrid) -> np.ndarray:
        """Mean colours of tiles of one cell: fp16 [N, 3]."""
        cells = grid.coords // CELL
        return np.column_stack([cells[:, 0] * 10, cells[:, 1] * 20, np.full(len(grid), self.blue)]).astype(np.float16)


class Mean(torch.nn.Module):
    """The mean colour; remembers the shapes it saw."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.batches: list[int] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(batch))
        return batch.float().mean(dim=(1, 2)) * self.factor


def resident(module: torch.nn.Module | None = None, *, batch: int = 7) -> Resident:
    return Resident(Encoder(module or Mean(), CARD, EncoderSpec(batch_size=batch), torch.device("cpu")))


def part_of(
    folder: Path, grid: TileGrid, residents: Sequence[Resident], *, rows: int = 40
) -> tuple[Part, list[zarr.Array], list[RowWriter]]:
    """A part with an array and a writer for each encoder."""
    arrays = [
        zarr.create_array(
            folder / f"a{len(list(folder.iterdir()))}", shape=(len(grid), 3), chunks=(rows, 3), dtype="float16",
            compressors=None,
        )
        for _ in residents
    ]  # fmt: skip
    writers = [RowWriter(array) for array in arrays]
    return Part(grid, [Sink(each, writer) for each, writer in zip(residents, writers, strict=True)]), arrays, writers
