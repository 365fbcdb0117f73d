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


def survival_loss(logits: Tensor, bins: Tensor, events: Tensor, *, alpha: float = 0.0) -> Tensor:
    """Negative log-likelihood of discrete survival times, mean over bags.

    The hazard of interval k is sigmoid(logit k), and S(k) = product up to k of (1 - hazard). An event in interval y
    costs -log S(y - 1) - log hazard(y), a censoring there (1 - alpha) * -log S(y). Source: Zadeh and Schmid 2020.

    Args:
        logits: [B, K] float, of the hazards.
        bins: [B] int64, the interval of the event or of the last observation.
        events: [B] bool or float, whether the event was seen.
        alpha: share of the censored part that is left out.
    """
    logits, seen = _at_least_float32(logits), events.to(_at_least_float32(logits).dtype)
    place = torch.arange(logits.shape[1], device=logits.device)
    survived = F.softplus(logits)  # -log(1 - hazard)
    before = (survived * (place < bins[:, None])).sum(dim=1)  # -log S(y - 1)
    here = bins[:, None]
    event = before + F.softplus(-logits).gather(1, here)[:, 0]
    censored = before + survived.gather(1, here)[:, 0]
    return (seen * event + (1 - seen) * (1 - alpha) * censored).mean()


def cox_loss(log_risks: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """Cox's negative partial log-likelihood, mean over events, Breslow's way with ties; 0 without an event.

    Each event is held against all bags of the batch that were under observation then, so a batch needs several.

    Args:
        log_risks: [B] float; higher is worse.
        times: [B] float.
        events: [B] bool or float.
    """
    risks, seen = _at_least_float32(log_risks), events.bool()
    if not bool(seen.any()):
        return risks.sum() * 0.0
    at_risk = times[None, :] >= times[seen][:, None]  # [E, B]
    pools = torch.where(at_risk, risks[None, :], -torch.inf).logsumexp(dim=1)
    return (pools - risks[seen]).mean()


def ordinal_loss(logits: Tensor, grades: Tensor) -> Tensor:
    """Negative log-likelihood of grades by continuation ratios, mean over bags.

    Logit k says how likely a grade above k is among those of k or more, so the probabilities of the grades add up
    and never cross. It is discrete survival in which the highest grade outlives all intervals.

    Args:
        logits: [B, C - 1] float.
        grades: [B] int64, 0 to C - 1.
    """
    steps = logits.shape[1]
    return survival_loss(-logits, grades.clamp(max=steps - 1), grades < steps)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy, mean over the labels that are known.

    Args:
        logits: [B, L] float.
        labels: [B, L] float: 1, 0, or NaN where not known.
    """
    known = ~labels.isnan()
    logits = _at_least_float32(logits)
    if not bool(known.any()):
        return logits.sum() * 0.0
    return F.binary_cross_entropy_with_logits(logits[known], labels[known].to(logits.dtype))


def squared_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over bags; both [B] float, on the scale of the training part."""
    values = _at_least_float32(values)
    return F.mse_loss(values, targets.to(values.dtype))


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
