"""Self-distillation: a student learns from the moving average of itself, which sees the whole of what is hidden from it."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.tuning.pretrain.distill_heads import PrototypeHead
from pathotune_pipeline.tuning.pretrain.distill_losses import (
    centred_targets,
    dino_loss,
    ibot_loss,
    momentum_at,
    moved_centre,
    temperature_at,
)
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec
from pathotune_pipeline.tuning.pretrain.team import summed


def let_sizes_vary(module: Any) -> None:
    """Let timm's VisionTransformer take inputs of any number of patches; its positions are resampled for them.

    Weights stay as they are, and so does what comes of an input of its own size.
    """
    from timm.layers import Format

    module.dynamic_img_size = True
    embed = module.patch_embed
    embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def encoded(module: Any, pixels: Tensor, mask: Tensor | None = None, token: Tensor | None = None) -> Tensor:
    """Tokens [B, F + N, D] behind the final norm; patches under the mask are replaced before positions are added.

    Args:
        module: a transformer that `let_sizes_vary` has changed.
        pixels: normalised, [B, 3, S, S].
        mask: bool [B, N] of the patches that are hidden.
        token: [D] that stands for them.
    """
    patches = module.patch_embed(pixels)  # [B, rows, columns, D]
    if mask is not None and token is not None:
        patches = torch.where(mask.view(*patches.shape[:3], 1), token.to(patches.dtype), patches)
    return module.norm(module.blocks(module.norm_pre(module._pos_embed(patches))))


def draw_masks(draws: Draws, crops: int, grid: tuple[int, int], spec: DistillSpec) -> Tensor:
    """Which patches are hidden: bool [crops, N], on the CPU.

    An image is masked at all with a probability, then so many patches as a uniform share of them, in clumps: those where
    smoothed noise is highest.

    Args:
        draws: for these rows.
        crops: images to be masked, a multiple of the rows.
        grid: (rows, columns) of patches.
        spec: the probability and the shares.
    """
    rows, columns = grid
    drawn = draws.uniform_for(crops, 2 + rows * columns)
    side = max(1, min(grid) // 4) | 1
    noise = drawn[:, 2:].view(crops, 1, rows, columns)
    smooth = F.avg_pool2d(noise, side, stride=1, padding=side // 2, count_include_pad=False).flatten(1)
    share = spec.mask_min + (spec.mask_max - spec.mask_min) * drawn[:, 1]
    count = (share * rows * columns).round().clamp(min=1) * (drawn[:, 0] < spec.mask_chance)
    rank = smooth.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < count[:, None]


class SelfDistillation(nn.Module):
    """The head of the student, and the average of student and head with the centres of what it says.

    Attributes:
        average: the moving average of the student; never trained.
        momentum: of the average at this step.
        temperature: of what the average says, at this step.
    """

    class_centre: Tensor
    patch_centre: Tensor

    def __init__(self, module: nn.Module, dim: int, spec: DistillSpec, *, warmup_share: float) -> None:
        """Begin the average as the student.

        Args:
            module: the student.
            dim: width of its tokens.
            spec: weights, sizes and courses.
            warmup_share: share of the run over which the temperature rises.
        """
        super().__init__()
        self.spec, self._warmup_share = spec, warmup_share
        self.head = PrototypeHead(
            dim, hidden=spec.head_hidden, bottleneck=spec.head_bottleneck, prototypes=spec.prototypes
        )
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.average_head = copy.deepcopy(self.head).requires_grad_(False)
        for name in ("class_centre", "patch_centre"):
            self.register_buffer(name, torch.zeros(spec.prototypes))
        self.begin_step(0, 1)

    def train(self, mode: bool = True) -> SelfDistillation:  # noqa: FBT001, FBT002  nn.Module's
        """The average is always judged, never trained."""
        super().train(mode)
        self.average.eval()
        return self

    def begin_step(self, step: int, steps: int) -> None:
        """Set momentum and temperature for a step of a run of `steps`."""
        spec = self.spec
        self.momentum = momentum_at(step, steps, spec.momentum)
        self.temperature = temperature_at(
            step, steps * self._warmup_share, spec.teacher_temperature_first, spec.teacher_temperature
        )

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Move the average towards the student: momentum * average + (1 - momentum) * student."""
        share = self.momentum
        for mine, other in ((self.average, module), (self.average_head, self.head)):
            for old, new in zip(mine.parameters(), other.parameters(), strict=True):
                old.copy_(share * old + (1 - share) * new)

    def forward(self, tokens: Tensor, features: Tensor, pixels: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Weighted losses by name; in training the centres move.

        Args:
            tokens: [2 * B, F + N, D] of the wide crops ([B, ...] without the loss between crops), as the student saw them.
            features: [(2 + V) * B, D] of the student, of the wide crops and then the narrow ones.
            pixels: normalised, of the wide crops, nothing hidden.
            mask: bool [2 * B, N] of what was hidden from the student; None where nothing was.
        """
        losses: dict[str, Tensor] = {}
        spec, average = self.spec, self.average
        with torch.no_grad():
            seen = encoded(average, pixels)
        if spec.dino_weight:
            size = len(tokens) // 2
            said = self.head(features)
            targets = self._targets("class_centre", pooled(average, seen))
            crops, told = said.unflatten(0, (-1, size)), targets.unflatten(0, (-1, size))
            losses["dino"] = spec.dino_weight * dino_loss(crops, told, spec.student_temperature)
        if mask is not None:
            count = mask.shape[1]
            targets = self._targets("patch_centre", seen[:, -count:][mask])
            said = self.head(tokens[:, -count:][mask])
            losses["ibot"] = spec.ibot_weight * ibot_loss(said, targets, mask, spec.student_temperature)
        return losses

    @torch.no_grad()
    def _targets(self, name: str, tokens: Tensor) -> Tensor:
        centre = getattr(self, name)
        logits = self.average_head(tokens).float()
        targets = centred_targets(logits, centre, self.temperature)
        if self.training:
            counted = summed(torch.cat([logits.sum(0), logits.new_tensor([len(logits)])]))
            centre.copy_(moved_centre(centre, counted[:-1], counted[-1], self.spec.centre_momentum))
        return targets


def pooled(module: Any, tokens: Tensor) -> Tensor:
    """Tokens [B, F + N, D] behind the final norm as the network's feature [B, D]: class token, or mean of patches."""
    feature: Tensor = module.forward_head(tokens, pre_logits=True)
    return feature
