"""Masked autoencoding: most patches are hidden, the encoder sees the others, a light decoder restores what is hidden.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377. With `contrast` two masked views of an
image are told from those of others as well, as Mishra et al. 2022 do, "A simple, efficient and scalable contrastive masked
autoencoder", arXiv 2210.16870 (without its noise).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import Trunk, encoder_folder, trained_whole, write_encoder
from pathotune_pipeline.tuning.pretrain.restore import (
    PixelDecoder,
    Restored,
    from_patches,
    patch_targets,
    restoration_loss,
)
from pathotune_pipeline.tuning.pretrain.restoring import Restoring
from pathotune_pipeline.tuning.pretrain.spec import DecoderSpec, MaeSpec

_PROJECTED = 128
"""Numbers in which two views are held against each other."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """What the encoder made of what it saw.

    Attributes:
        tokens: [B, F + K, D], prefix tokens first.
        seen: int64 [B, K]: the places of the patches that it saw.
        prefix: F.
    """

    tokens: Tensor
    seen: Tensor
    prefix: int


def contrast_loss(projected: Tensor, temperature: float) -> Tensor:
    """How badly the two views of each image are found among the views of all images of this process (NT-Xent).

    Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", arXiv 2002.05709.

    Args:
        projected: [2 * B, C]: the first views, then the second ones.
        temperature: the cosines are divided by it.
    """
    unit = F.normalize(projected.float(), dim=1)
    cosines = unit @ unit.T / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    partner = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return F.cross_entropy(cosines.masked_fill(itself, -torch.inf), partner)


class MaskedAutoencoder(Restoring, nn.Module):
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
        self.project: nn.Module | None = None
        if spec.contrast > 0:
            layers = [nn.Linear(trunk.dim, 4 * trunk.dim), nn.GELU(), nn.Linear(4 * trunk.dim, _PROJECTED)]
            self.project = nn.Sequential(*layers)
        count = trunk.grid[0] * trunk.grid[1]
        self.seen = count - round(count * spec.mask_share)
        if not 0 < self.seen < count:
            raise SpecError(f"mask_share {spec.mask_share}: hides {count - self.seen} of {count} patches. Change it.")

    @property
    def views_per_image(self) -> int:
        """Two views are held against each other; restoring needs but one."""
        return 2 if self.project is not None else 1

    def forward(self, views: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            views: float32 [V * B, 3, P, P] in 0 to 1: the first view of every image, then the second.
            draws: random numbers for these rows.
        """
        sight = self._see(views, draws)
        restored = self._restored(views, sight)
        losses = {"restoration": restoration_loss(restored.patches, restored.target, restored.taken)}
        if self.project is not None:
            projected = self.project(sight.tokens[:, sight.prefix :].mean(1))
            losses["contrast"] = self.spec.contrast * contrast_loss(projected, self.spec.temperature)
        return losses

    def restore(self, views: Tensor, draws: Draws) -> Restored:
        """Hide patches of the views and restore them."""
        return self._restored(views, self._see(views, draws))

    def _see(self, views: Tensor, draws: Draws) -> _Sight:
        prefix, patches = self.trunk.tokens(self.trunk.normalised(views))
        noise = draws.uniform_for(len(views), patches.shape[1]).to(views.device)
        seen = noise.argsort(dim=1, stable=True)[:, : self.seen]
        kept = patches.gather(1, _wide(seen, patches.shape[-1]))
        return _Sight(self.trunk.blocks(torch.cat([prefix, kept], 1)), seen, prefix.shape[1])

    def _restored(self, views: Tensor, sight: _Sight) -> Restored:
        patch_px, (rows, columns) = self.trunk.patch_px, self.trunk.grid
        embedded = self.decoder.embed(sight.tokens)
        first, rest = embedded[:, : sight.prefix], embedded[:, sight.prefix :]
        whole = self.mask_token.to(rest.dtype).expand(len(rest), rows * columns, -1)
        whole = whole.scatter(1, _wide(sight.seen, rest.shape[-1]), rest)
        taken = torch.ones(len(views), rows * columns, device=views.device).scatter(1, sight.seen, 0.0)
        target = patch_targets(self.trunk.normalised(views), patch_px, normalise=self.patch_norm)
        grey = from_patches(_wide(taken, 3 * patch_px**2), patch_px, columns)
        return Restored(self.decoder(first, whole), target, taken, given=torch.where(grey > 0, 0.5, views))

    def embed(self, views: Tensor) -> Tensor:
        """Features [B, D] of the views, as the encoder gives them."""
        return self.trunk.features(views)

    def begin_epoch(self, epoch: int, loss: float | None) -> None:
        """Every epoch is alike."""

    def state_of_course(self) -> dict[str, Any]:
        """Nothing changes in the course of a run."""
        return {}

    def artefact(self, out: Path) -> Path:
        """The encoder's folder, for `local:`."""
        return encoder_folder(out)

    def write(self, out: Path, record: Mapping[str, Any]) -> Path:
        """Write the encoder; the decoder is left behind."""
        return write_encoder(self.trunk, self.artefact(out), record)

    def recipe(self) -> dict[str, Any]:
        """What decides the result beside the run's settings: plain values."""
        return {"method": self.name, **self.spec.model_dump(mode="json")}


def _wide(index: Tensor, width: int) -> Tensor:
    return index[:, :, None].expand(-1, -1, width)
