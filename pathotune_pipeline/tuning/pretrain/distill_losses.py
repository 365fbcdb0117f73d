"""What distillation minimises and the courses of its constants: functions of tensors and numbers alone.

Class and patch losses against frozen teachers are those of GPFM, "A Generalizable Pathology Foundation Model Using a Unified
Knowledge Distillation Pretraining Framework" (arXiv 2407.18449). Self-distillation is DINO (Caron et al. 2021, arXiv
2104.14294), iBOT (Zhou et al. 2022, arXiv 2111.07832) and KoLeo (Sablayrolles et al. 2019, arXiv 1806.03198) as DINOv2
joins them (Oquab et al. 2023, arXiv 2304.07193). All are counted in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pathotune_pipeline.tuning.pretrain.schedule import between

COSINE_SHARE = 0.9
"""Of the patch loss; the rest is smooth L1."""
_EPS = 1e-8


def class_loss(said: Tensor, told: Tensor) -> Tensor:
    """One minus the mean cosine of [B, D] and [B, D]: 0 where directions agree, 2 where they are opposed."""
    return 1 - F.cosine_similarity(said.float(), told.float(), dim=-1).mean()


def patch_loss(said: Tensor, told: Tensor) -> Tensor:
    """0.9 of one minus the mean cosine, and 0.1 of smooth L1, of tokens [B, N, D] and [B, N, D] of one grid."""
    smooth = F.smooth_l1_loss(said.float(), told.float())
    return COSINE_SHARE * class_loss(said, told) + (1 - COSINE_SHARE) * smooth


def resize_grid(tokens: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Tokens of one grid brought to another by bicubic interpolation, pixel centres for corners.

    Args:
        tokens: [B, rows * columns, D] in raster order.
        grid: (rows, columns) of the tokens.
        to: (rows, columns) wanted.

    Returns:
        [B, rows * columns of `to`, D]; the tokens themselves where the grids are equal.
    """
    if grid == to:
        return tokens
    planes = tokens.float().transpose(1, 2).unflatten(2, grid)  # [B, D, rows, columns]
    return F.interpolate(planes, size=to, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def centred_targets(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """What the averaged network says, as shares of the prototypes: [..., K] logits, [K] centre -> [..., K]."""
    return ((logits.float() - centre) / temperature).softmax(-1)


def moved_centre(centre: Tensor, total: Tensor, count: Tensor, momentum: float) -> Tensor:
    """The centre after a batch: momentum * centre + (1 - momentum) * total / count; unchanged where nothing was counted.

    Args:
        centre: float32 [K].
        total: float32 [K]: the sum of the batch's logits.
        count: scalar: how many logits were summed.
        momentum: share of the old centre.
    """
    return torch.where(count > 0, momentum * centre + (1 - momentum) * total / count.clamp(min=1), centre)


def dino_loss(said: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a target's crop and another crop; no crop is paired with itself.

    Args:
        said: [V, B, K] logits of all crops; the first T are the crops of the targets.
        targets: [T, B, K] shares.
        temperature: of the student.
    """
    logarithms = (said.float() / temperature).log_softmax(-1)
    pairs = [
        -(target * logarithms[other]).sum(-1).mean()
        for crop, target in enumerate(targets)
        for other in range(len(logarithms))
        if other != crop
    ]
    return torch.stack(pairs).mean()


def ibot_loss(said: Tensor, targets: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Cross-entropy at hidden patches: the mean of each image's, summed, over the number of images, as DINOv2 has it.

    Args:
        said: [M, K] logits of the hidden patches of all images, image by image.
        targets: [M, K] shares.
        mask: bool [B, N]; its M true places are the hidden patches. M may be 0, and the loss is 0 then.
        temperature: of the student.
    """
    crossed = -(targets * (said.float() / temperature).log_softmax(-1)).sum(-1)
    weight = (1 / mask.sum(1).clamp(min=1)).unsqueeze(1).expand_as(mask)[mask]
    return (crossed * weight).sum() / len(mask)


def koleo_loss(features: Tensor) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest other feature, all on the unit sphere.

    Args:
        features: [B, D], B at least 2.
    """
    unit = F.normalize(features.float(), dim=1, eps=_EPS)
    with torch.no_grad():
        cosines = unit @ unit.T
        nearest = cosines.fill_diagonal_(-torch.inf).argmax(1)
    return -(F.pairwise_distance(unit, unit[nearest], eps=_EPS) + _EPS).log().mean()


def momentum_at(step: int, total: int, first: float) -> float:
    """The average's momentum after a step: from `first` along half a cosine to exactly 1 after the last of `total`."""
    return between(first, 1.0, step / max(1, total - 1))


def temperature_at(step: int, warmup: float, first: float, last: float) -> float:
    """The teacher's temperature: a straight line from `first` to `last` over `warmup` steps, then constant."""
    return last if step >= warmup else first + (last - first) * step / warmup
