"""Masked autoencoding: most patches are hidden, the encoder sees the others, a light decoder restores what is hidden.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import Trunk, trained_whole, write_encoder
from pathotune_pipeline.tuning.pretrain.objective import Restored
from pathotune_pipeline.tuning.pretrain.restore import PixelDecoder, from_patches, patch_targets, restoration_loss
from pathotune_pipeline.tuning.pretrain.spec import DecoderSpec, MaeSpec


class MaskedAutoencoder(nn.Module):
    """The encoder, the decoder and the token that stands for a hidden patch."""

    name = "mae"

    def __init__(self, trunk: Trunk, spec: MaeSpec, decoder: DecoderSpec) -> None:
        """Build it around a trunk, whose weights it trains.

        Raises:
            SpecError: the share hides no patch, or all of them; or the base cannot be trained whole.
        """
        super().__init__()
        self.trunk, self.spec, self.patch_norm = trained_whole(trunk), spec, spec.patch_norm
        self.encoder = trunk.encoder
        self.decoder = PixelDecoder(decoder, token_dim=trunk.dim, grid=trunk.grid, patch_px=trunk.patch_px)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        nn.init.normal_(self.mask_token, std=0.02)
        count = trunk.grid[0] * trunk.grid[1]
        self.seen = count - round(count * spec.mask_share)
        if not 0 < self.seen < count:
            raise SpecError(f"mask_share {spec.mask_share}: hides {count - self.seen} of {count} patches. Change it.")

    def forward(self, views: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            views: float32 [B, 3, P, P] in 0 to 1.
            draws: random numbers for these rows.
        """
        restored = self.restore(views, draws)
        return {"restoration": restoration_loss(restored.patches, restored.target, restored.taken)}

    def restore(self, views: Tensor, draws: Draws) -> Restored:
        """Hide patches of the views and restore them."""
        pixels = self.trunk.normalised(views)
        prefix, patches = self.trunk.tokens(pixels)
        order = draws.uniform(patches.shape[1]).to(views.device).argsort(dim=1, stable=True)  # [B, N]
        seen = order[:, : self.seen]
        kept = patches.gather(1, _wide(seen, patches.shape[-1]))
        encoded = self.decoder.embed(self.trunk.blocks(torch.cat([prefix, kept], 1)))
        first, rest = encoded[:, : prefix.shape[1]], encoded[:, prefix.shape[1] :]
        whole = self.mask_token.to(rest.dtype).expand(len(rest), patches.shape[1], -1)
        whole = whole.scatter(1, _wide(seen, rest.shape[-1]), rest)
        taken = torch.ones(order.shape, device=views.device).scatter(1, seen, 0.0)
        columns = self.trunk.grid[1]
        target = patch_targets(pixels, self.trunk.patch_px, normalise=self.patch_norm)
        grey = from_patches(taken[:, :, None].expand(-1, -1, self.trunk.patch_px**2 * 3), self.trunk.patch_px, columns)
        return Restored(self.decoder(first, whole), target, taken, given=torch.where(grey > 0, 0.5, views))

    def embed(self, views: Tensor) -> Tensor:
        """Features [B, D] of the views, as the encoder gives them."""
        return self.trunk.features(views)

    def begin_epoch(self, epoch: int, epochs: int, loss: float | None) -> None:
        """Every epoch is alike."""

    def state_of_course(self) -> dict[str, Any]:
        """Nothing changes in the course of a run."""
        return {}

    def artefact(self, out: Path) -> Path:
        """The encoder's folder, for `local:`."""
        return out / f"{out.resolve().name}-encoder"

    def write(self, out: Path, record: Mapping[str, Any]) -> Path:
        """Write the encoder; the decoder is left behind."""
        return write_encoder(self.trunk, self.artefact(out), record)

    def recipe(self) -> dict[str, Any]:
        """What decides the result beside the run's settings: plain values."""
        return {"method": self.name, **self.spec.model_dump(mode="json")}


def _wide(index: Tensor, width: int) -> Tensor:
    return index[:, :, None].expand(-1, -1, width)
