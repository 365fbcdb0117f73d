"""A slide through the engine: order, padding, bad tiles, errors in threads."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

sys.path.insert(0, str(Path(__file__).parent))
from toy import ColourSlide, Mean, part_of, resident

from pathotune_pipeline.errors import SlideError
from pathotune_pipeline.features.engine import Engine
from pathotune_pipeline.features.stream import RowWriter


def run(
    tmp_path: Path,
    slide: ColourSlide,
    *,
    threads: int = 2,
    batch: int = 7,
    rows: int = 40,
    module: torch.nn.Module | None = None,
):
    tiles = slide.grid()
    part, (array,), (writer,) = part_of(tmp_path, tiles, [resident(module, batch=batch)], rows=rows)
    with Engine(torch.device("cpu")) as engine:
        engine.encode(slide, [part], threads=threads)
    for error in (part.error, part.sinks[0].error):
        if error:
            raise error
    return tiles, array[:], part, writer


@pytest.mark.parametrize(("threads", "batch", "rows"), [(1, 7, 40), (3, 7, 40), (2, 64, 8192), (2, 32, 5), (8, 1, 100)])
def test_every_tile_is_encoded_once_and_lies_at_its_place(tmp_path: Path, threads: int, batch: int, rows: int) -> None:
    slide = ColourSlide()
    tiles, features, part, writer = run(tmp_path, slide, threads=threads, batch=batch, rows=rows)
    assert len(features) == slide.reads == 23 * 11
    np.testing.assert_array_equal(features, slide.expected(tiles))
    assert part.valid.all()
    assert writer.digest() == hashlib.sha256(features.tobytes()).hexdigest()


def test_unreadable_tiles_are_marked_and_zero_and_their_neighbours_untouched(tmp_path: Path) -> None:
    bad = frozenset({(0, 0), (5, 3), (22, 10)})
    tiles, features, part, _ = run(tmp_path, ColourSlide(bad))
    is_bad = np.array([(x // 32, y // 32) in bad for x, y in tiles.coords])
    np.testing.assert_array_equal(part.valid, ~is_bad)
    assert not features[is_bad].any()
    assert (features[~is_bad][:, 2] == 7).all()
    assert "damaged" in part.first_problem


def test_a_value_beyond_fp16_fails_the_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="not finite"):
        run(tmp_path, ColourSlide(), module=Mean(1e6))


def test_an_error_in_a_thread_reaches_the_caller_and_closing_ends_all_threads(tmp_path: Path) -> None:
    class Breaks(ColourSlide):
        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
            if location[1] > 5 * 32:
                raise RuntimeError("the reader has a bug")
            return super().read_region(location, level, size)

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="has a bug"):
        run(tmp_path, Breaks(), threads=4)
    assert threading.active_count() == before


def test_missing_rows_are_not_taken_for_whole(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(10, 3), chunks=(5, 3), dtype="float16")
    writer = RowWriter(array)
    writer.add(0, np.ones((7, 3), np.float16))
    with pytest.raises(RuntimeError, match="never written"):
        writer.digest()
