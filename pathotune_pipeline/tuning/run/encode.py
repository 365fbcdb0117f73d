"""Features of patches from a frozen encoder: each patch is encoded once, however many probes ask."""

from __future__ import annotations

import weakref

import numpy as np
import torch

from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.tuning.patches.patch_set import PatchSet


class PatchFeatures:
    """An encoder's features of patches, kept in memory for as long as both encoder and patch set are."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def rows(self, patches: PatchSet, index: np.ndarray) -> np.ndarray:
        """Features of some patches, float32 [n, D]; those that nobody asked for before are encoded.

        Args:
            patches: images of one size.
            index: [n] int.
        """
        sets = _KEPT.setdefault(self._encoder, weakref.WeakKeyDictionary())
        kept = sets.get(patches)
        if kept is None:
            kept = sets[patches] = _Rows(len(patches), self._encoder.card.dim)
        missing = np.unique(index[~kept.known[index]])
        size = self._encoder.batch_size
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            pixels = torch.from_numpy(np.ascontiguousarray(patches.images[part]))
            kept.values[part] = self._encoder.encode(pixels).cpu().numpy()
            kept.known[part] = True
        return kept.values[index]


class _Rows:
    def __init__(self, count: int, dim: int) -> None:
        self.values = np.zeros((count, dim), np.float32)
        self.known = np.zeros(count, bool)


_KEPT: weakref.WeakKeyDictionary[Encoder, weakref.WeakKeyDictionary[PatchSet, _Rows]] = weakref.WeakKeyDictionary()
