"""Features of patches from a frozen encoder: each patch is encoded once, however many probes ask."""

from __future__ import annotations

import weakref
from typing import Protocol

import numpy as np
import torch

from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.tuning.patches.patch_set import PatchSet


class FeatureSource(Protocol):
    """Gives features of patches."""

    def rows(self, patches: PatchSet, index: np.ndarray) -> np.ndarray:
        """float32 [n, D] of the patches at `index`."""


class PatchFeatures:
    """An encoder's features of patch sets, kept in memory for as long as the patch set is.

    Attributes:
        encoded: patches that the encoder has been given so far.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.encoded = 0
        self._kept: weakref.WeakKeyDictionary[PatchSet, _Rows] = weakref.WeakKeyDictionary()

    def rows(self, patches: PatchSet, index: np.ndarray) -> np.ndarray:
        """Features of some patches, float32 [n, D]; those not seen yet are encoded.

        Args:
            patches: images of one size.
            index: [n] int.
        """
        kept = self._kept.get(patches)
        if kept is None:
            kept = self._kept[patches] = _Rows(len(patches), self.encoder.card.dim)
        missing = np.unique(index[~kept.known[index]])
        size = self.encoder.batch_size
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            pixels = torch.from_numpy(np.ascontiguousarray(patches.images[part]))
            kept.values[part] = self.encoder.encode(pixels).cpu().numpy()
            kept.known[part] = True
            self.encoded += len(part)
        return kept.values[index]


class _Rows:
    def __init__(self, count: int, dim: int) -> None:
        self.values = np.zeros((count, dim), np.float32)
        self.known = np.zeros(count, bool)
