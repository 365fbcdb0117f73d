"""STAMP's feature files: `feats` float16 [N, D], `coords` float32 [N, 2] in um, attributes on the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pathotune_pipeline.errors import ForeignFileError
from pathotune_pipeline.exchange.hdf5 import Dataset, write_file
from pathotune_pipeline.exchange.layout import Named, Told
from pathotune_pipeline.exchange.outbox import Write
from pathotune_pipeline.exchange.parcel import OWN, Parcel
from pathotune_pipeline.geometry import Mpp
from pathotune_pipeline.version import VERSION

STAMP_VERSION = "2.5.0"
"""The version whose layout this is; STAMP compares it with its own."""


class StampLayout:
    """One file a slide. Slides without tiles have none, as with STAMP."""

    writes_empty = False

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder

    def slide_files(self, parcel: Parcel, named: Named) -> Mapping[str, Write]:
        """The features of one slide."""
        attributes = {
            "stamp_version": STAMP_VERSION,
            "extractor": self.encoder,
            "unit": "um",
            "tile_size_um": float(parcel.grid.tile_px * parcel.grid.mpp),
            "tile_size_px": parcel.grid.tile_px,
            "code_hash": f"pathotune_pipeline-{VERSION}",
            "feat_type": "tile",
            OWN: parcel.own_facts(),
        }
        with np.errstate(over="ignore"):
            rows = parcel.features.astype(np.float16)
        if not np.isfinite(rows).all():
            raise ForeignFileError("its features are too large for float16, which STAMP's layout asks for.")
        datasets = {
            "coords": Dataset(to_um(parcel.grid.coords, parcel.level0_mpp), {}, None),
            "feats": Dataset(rows, {}, None),
        }

        def write(path: Path) -> None:
            write_file(path, datasets, attributes)

        return {f"{named.name}.h5": write}

    def closing_files(self, told: Sequence[Told], out: Path) -> Mapping[str, Write]:
        """None."""
        return {}


def to_um(coords: np.ndarray, level0_mpp: Mpp) -> np.ndarray:
    """Places in um.

    Args:
        coords: int64 [N, 2] in level-0 pixels.
        level0_mpp: um/px.

    Returns:
        float32 [N, 2].
    """
    return (coords * np.array([level0_mpp.x, level0_mpp.y])).astype(np.float32)


def to_px(coords_um: np.ndarray, level0_mpp: Mpp) -> tuple[np.ndarray, float]:
    """Places in level-0 pixels, the nearest whole ones.

    float32 has 24 binary digits: um in it are off by at most 2^-24 of their size, hence so are pixels. Below 2^22 px
    that is under a quarter of a pixel, so rounding gives back every place that was whole, exactly.

    Args:
        coords_um: [N, 2].
        level0_mpp: um/px.

    Returns:
        int64 [N, 2], and by how many pixels a place was moved at most. Grids that STAMP lays in um are moved by up to
        half a pixel.
    """
    exact = coords_um.astype(np.float64) / np.array([level0_mpp.x, level0_mpp.y])
    nearest = np.rint(exact)
    moved = float(np.abs(exact - nearest).max()) if len(exact) else 0.0
    return nearest.astype(np.int64), moved
