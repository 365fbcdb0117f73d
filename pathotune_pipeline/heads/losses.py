"""What heads minimise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy, mean over bags; for one logit its binary form.

    A weighted mean divides by the number of bags and not by the sum of their weights, so that a batch of one bag
    feels its weight too (torch's own weighted mean cancels it there).

    Args:
        logits: [B, C] float.
        targets: [B] int64 class indices; 0 or 1 where C is 1.
        class_weights: [C] float ([2] where C is 1), or None.

    Returns:
        A scalar of at least float32.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if logits.shape[1] == 1:
        each = F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype), reduction="none")  # [B]
    else:
        each = F.cross_entropy(logits, targets, reduction="none")  # [B]
    if class_weights is not None:
        each = each * class_weights.to(each.dtype)[targets]
    return each.mean()


def smooth_svm_loss(logits: Tensor, targets: Tensor, *, margin: float = 1.0, temperature: float = 1.0) -> Tensor:
    """Smooth top-1 SVM, mean over rows.

    temperature * logsumexp over classes j of (s_j + margin [j is not y] - s_y) / temperature: the hinge loss of
    Crammer and Singer with a soft maximum. Source: Berrada, Zisserman, Kumar 2018, "Smooth Loss Functions for Deep
    Top-k Classification", for k = 1.

    Args:
        logits: [R, C] float.
        targets: [R] int64 class indices.
        margin: by which the true class shall lead.
        temperature: of the smoothing, above 0.

    Returns:
        A scalar of at least float32.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    own = logits.gather(1, targets[:, None])  # [R, 1]
    lead = torch.full_like(logits, margin).scatter(1, targets[:, None], 0.0)
    return (temperature * torch.logsumexp((logits + lead - own) / temperature, dim=1)).mean()


def balanced_weights(targets: Tensor, n_classes: int) -> Tensor:
    """Weights inverse to how often each class occurs, [C] float32, of mean 1 over the bags; 0 for an absent class.

    Args:
        targets: [B] int64.
        n_classes: C.
    """
    counts = torch.bincount(targets, minlength=n_classes).float()  # [C]
    present = (counts > 0).float()
    return present * len(targets) / (counts.clamp(min=1) * present.sum())
