"""Plain tensors: `<slide>.pt`, float32 [N, D], and beside it `<slide>.coords.npy`, int64 [N, 2] in level-0 pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pathotune_pipeline.exchange.layout import Named, Told
from pathotune_pipeline.exchange.outbox import Write
from pathotune_pipeline.exchange.parcel import Parcel


class TensorLayout:
    """Two files a slide; none for a slide without tiles."""

    writes_empty = False

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder

    def slide_files(self, parcel: Parcel, named: Named) -> Mapping[str, Write]:
        """Features and places of one slide."""

        def write_features(path: Path) -> None:
            write_tensor(path, parcel.features.astype(np.float32))

        def write_coords(path: Path) -> None:
            np.save(path, parcel.grid.coords)

        return {f"{named.name}.coords.npy": write_coords, f"{named.name}.pt": write_features}

    def closing_files(self, told: Sequence[Told], out: Path) -> Mapping[str, Write]:
        """None."""
        return {}


def write_tensor(path: Path, values: np.ndarray) -> None:
    """Write an array as `torch.load(path, weights_only=True)` reads it. The same input gives the same bytes."""
    import torch

    buffer = io.BytesIO()  # a path's name would go into the file
    torch.save(torch.from_numpy(np.ascontiguousarray(values)), buffer)
    path.write_bytes(buffer.getvalue())
