"""The stream of tiles: order, padding, bad tiles, errors in threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import SlideError, TileReadError
from pathotune_pipeline.features.stream import RowWriter, stream_features
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.slide import Level, SlideInfo
from pathotune_pipeline.tiles.grid import TileGrid

TILE, ACROSS, DOWN = 32, 23, 11
CARD = EncoderCard(name="mean", source="built-in", architecture="mean", dim=3, mean=None, std=None)


class ColourSlide:
    """Each 32 px cell has a colour of its own; some cells cannot be read."""

    def __init__(self, bad: frozenset[tuple[int, int]] = frozenset()) -> None:
        size = Size(ACROSS * TILE, DOWN * TILE)
        self.info = SlideInfo("toy", "toy", (Level(size, 1.0),), Mpp.square(0.5), "toy", None)
        self.bad = bad

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        column, row = location[0] // TILE, location[1] // TILE
        if (column, row) in self.bad:
            raise TileReadError("the JPEG data are damaged")
        return np.full((size[1], size[0], 3), (column * 10, row * 20, 7), dtype=np.uint8)

    def close(self) -> None:
        pass


class Mean(torch.nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.float().mean(dim=(1, 2))


class Overflow(torch.nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.float().mean(dim=(1, 2)) * 1e6


def grid() -> TileGrid:
    from pathotune_pipeline.tiles.grid import TileSpec, tile_slide
    from pathotune_pipeline.tissue.mask import TissueMask

    slide = ColourSlide()
    mask = TissueMask(
        np.ones((DOWN, ACROSS), bool), 16.0, 16.0, Mpp.square(0.5), slide.info.size, np.zeros((8, 8, 3), np.uint8)
    )
    return tile_slide(slide.info, mask, TileSpec(), mpp=0.5, tile_px=TILE)


def run(
    tmp_path: Path,
    slide: ColourSlide,
    *,
    threads: int = 2,
    batch: int = 7,
    rows: int = 40,
    module: torch.nn.Module | None = None,
):
    tiles = grid()
    encoder = Encoder(module or Mean(), CARD, EncoderSpec(batch_size=batch), torch.device("cpu"))
    array = zarr.create_array(
        tmp_path / f"a{threads}{batch}{rows}",
        shape=(len(tiles.coords), 3),
        chunks=(rows, 3),
        dtype="float16",
        compressors=None,
    )
    writer = RowWriter(array)
    stats = stream_features(slide, tiles, encoder, threads=threads, writer=writer)
    return tiles, array[:], stats, writer


@pytest.mark.parametrize(("threads", "batch", "rows"), [(1, 7, 40), (3, 7, 40), (2, 64, 8192), (2, 32, 5), (8, 1, 100)])
def test_every_tile_is_encoded_once_and_lies_at_its_place(tmp_path: Path, threads: int, batch: int, rows: int) -> None:
    tiles, features, stats, writer = run(tmp_path, ColourSlide(), threads=threads, batch=batch, rows=rows)
    assert len(features) == ACROSS * DOWN
    expected = np.column_stack(
        [tiles.coords[:, 0] // TILE * 10, tiles.coords[:, 1] // TILE * 20, np.full(len(tiles.coords), 7)]
    )
    np.testing.assert_array_equal(features, expected.astype(np.float16))
    assert stats.valid.all()
    import hashlib

    assert writer.digest() == hashlib.sha256(features.tobytes()).hexdigest()


def test_unreadable_tiles_are_marked_and_zero_and_their_neighbours_untouched(tmp_path: Path) -> None:
    bad = frozenset({(0, 0), (5, 3), (22, 10)})
    tiles, features, stats, _ = run(tmp_path, ColourSlide(bad))
    is_bad = np.array([(x // TILE, y // TILE) in bad for x, y in tiles.coords])
    np.testing.assert_array_equal(stats.valid, ~is_bad)
    assert not features[is_bad].any()
    assert (features[~is_bad][:, 2] == 7).all()
    assert "damaged" in stats.first_problem


def test_a_value_beyond_fp16_fails_the_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="not finite"):
        run(tmp_path, ColourSlide(), module=Overflow())


def test_an_error_in_a_thread_reaches_the_caller_and_ends_all_threads(tmp_path: Path) -> None:
    import threading

    class Breaks(ColourSlide):
        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
            if location[1] > 5 * TILE:
                raise RuntimeError("the reader has a bug")
            return super().read_region(location, level, size)

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="has a bug"):
        run(tmp_path, Breaks(), threads=4)
    assert threading.active_count() <= before + 1


def test_missing_rows_are_not_taken_for_whole(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(10, 3), chunks=(5, 3), dtype="float16")
    writer = RowWriter(array)
    writer.add(0, np.ones((7, 3), np.float16))
    with pytest.raises(RuntimeError, match="never written"):
        writer.digest()
