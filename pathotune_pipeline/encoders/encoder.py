"""An encoder at work: uint8 tiles in, feature vectors out, always in one padded batch shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.provenance import fingerprint

REVISION = 1
"""Raised when what lies around the network (resizing, normalising, pooling) changes its results."""


class Encoder:
    """A network with its card on a device.

    Every batch has `spec.batch_size` tiles; a shorter one is padded with zeros. With a fixed shape, and one
    intra-operation thread on a CPU, a tile's features do not depend on the other tiles of its batch.
    """

    def __init__(self, module: nn.Module, card: EncoderCard, spec: EncoderSpec, device: torch.device) -> None:
        self.card = card
        self.spec = spec
        self.device = device
        self.dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
        module = module.eval().requires_grad_(False).to(device)
        self._takes_bytes = card.mean is None
        self.module = module if self._takes_bytes else module.to(self.dtype)
        if card.mean is not None and card.std is not None:
            shape = (1, 3, 1, 1)
            self._mean = torch.tensor(card.mean, device=device).reshape(shape) * 255.0
            self._std = torch.tensor(card.std, device=device).reshape(shape) * 255.0

    @property
    def batch_size(self) -> int:
        return self.spec.batch_size

    def recipe(self) -> dict[str, Any]:
        """What decides the features: card, weights and precision."""
        recipe: dict[str, Any] = {"revision": REVISION, "card": self.card.recipe()}
        if self.spec.precision != "fp32":
            recipe["precision"] = self.spec.precision
        return recipe

    def fingerprint(self) -> str:
        return fingerprint("encoder", REVISION, self.recipe())

    def encode(self, tiles: torch.Tensor | np.ndarray, *, pad_to: int | None = None) -> torch.Tensor:
        """Feature vectors of tiles.

        Args:
            tiles: uint8 [B, H, W, 3], RGB, square, B at most the batch size.
            pad_to: batch size where not the Spec's: less, where the device has no room for that.

        Returns:
            float32 [B, D] on the encoder's device.

        Raises:
            ValueError: another dtype or shape, or too many tiles.
        """
        batch = torch.as_tensor(tiles)
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[-1] != 3 or batch.shape[1] != batch.shape[2]:
            raise ValueError(f"tiles must be uint8 [B, P, P, 3]; found {batch.dtype} {tuple(batch.shape)}.")
        count, size = batch.shape[0], pad_to or self.batch_size
        if count > size:
            raise ValueError(f"at most {size} tiles a batch; found {count}. Raise --batch-size or split.")
        if count < size:
            padding = torch.zeros((size - count, *batch.shape[1:]), dtype=torch.uint8, device=batch.device)
            batch = torch.cat([batch, padding])
        with torch.inference_mode():
            return self._forward(batch.to(self.device, non_blocking=True))[:count]

    def prepare(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tiles as the network takes them: resized, cut and normalised, as `encode` does it and in the same precision.

        Args:
            tiles: uint8 or float of 0 to 255, [B, P, P, 3], on the encoder's device.

        Returns:
            [B, 3, S, S]; the tiles themselves where the network takes bytes.
        """
        if self._takes_bytes:
            return tiles
        pixels = tiles.permute(0, 3, 1, 2).float()  # [B, 3, P, P]
        side = self.card.resize_px or self.card.input_px
        if side is not None and side != pixels.shape[-1]:
            pixels = F.interpolate(
                pixels, size=(side, side), mode=self.card.interpolation, antialias=True, align_corners=False
            ).clamp_(0, 255)
        pixels = _cut_centre(pixels, self.card.input_px)
        return ((pixels - self._mean) / self._std).to(self.dtype)

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.module(self.prepare(batch)).float()  # [B, D]


def _cut_centre(pixels: torch.Tensor, side: int | None) -> torch.Tensor:
    """The central square of [B, 3, P, P], as torchvision's CenterCrop takes it."""
    if side is None or side == pixels.shape[-1]:
        return pixels
    start = round((pixels.shape[-1] - side) / 2)
    return pixels[..., start : start + side, start : start + side]
