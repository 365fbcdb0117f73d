"""The seam at which another way to tell tissue plugs in.

A segmenter is registered as `name = "module:function"` under the entry point group `pathotune_pipeline.segmenters`,
where function(argument, device) returns an object as `Segmenter` describes, and argument is what follows the name and a
colon in `--segmenter name:argument`. Making it must be cheap: weights are loaded when it is first called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from pathotune_pipeline.registry import Registry
from pathotune_pipeline.tissue.mask import TissueSpec

CLASSIC = "classic"
"""The built-in way: colour, density, texture (`segment.py`)."""


class Segmenter(Protocol):
    """Tells tissue in an overview."""

    @property
    def mpp(self) -> float | None:
        """um/px at which it wants to see the slide; None where any will do (`TissueSpec.mpp` is taken)."""
        ...

    def recipe(self) -> dict[str, Any]:
        """What decides its masks, in plain values, weights by their hash; enters the tissue's fingerprint."""
        ...

    def __call__(self, rgb: np.ndarray, mpp: float) -> np.ndarray:
        """Tissue in an overview.

        Args:
            rgb: uint8 [h, w, 3].
            mpp: its um/px.

        Returns:
            bool [h, w], or float [h, w] with the probability of tissue, of which 0.5 and more is.
        """
        ...


SegmenterMaker = Callable[[str, str], Segmenter]

SEGMENTERS: Registry[SegmenterMaker] = Registry(
    "segmenter",
    "pathotune_pipeline.segmenters",
    {"network": "pathotune_pipeline.encoders.segmenter:network_segmenter"},
)


def create_segmenter(spec: TissueSpec) -> Segmenter:
    """The segmenter that a Spec names.

    Raises:
        UnknownNameError: none has that name.
        WeightsError: its files are absent or wrong.
    """
    name, _, argument = spec.segmenter.partition(":")
    return SEGMENTERS.get(name)(argument, spec.segmenter_device)


def segmenter_recipe(spec: TissueSpec) -> dict[str, Any] | None:
    """What of the segmenter decides masks; None for the built-in one, whose settings are the Spec's."""
    if spec.segmenter == CLASSIC:
        return None
    return {"name": spec.segmenter.partition(":")[0], **create_segmenter(spec).recipe()}
