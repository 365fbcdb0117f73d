"""Task: one target or several side by side, between a head's logits and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.coding import TargetCoding, Value
from pathotune_pipeline.heads.losses import (
    classification_loss,
    cox_loss,
    label_loss,
    ordinal_loss,
    squared_loss,
    survival_loss,
)

COX_BATCH = 32
"""Bags in a batch of a Cox model where nothing else is said: an event is held against the others of its batch."""


@dataclass(frozen=True, slots=True)
class Task:
    """Targets in the order of their logits.

    Attributes:
        codings: one for each target.
    """

    codings: tuple[TargetCoding, ...]

    @property
    def outputs(self) -> int:
        """Logits of all targets."""
        return sum(coding.outputs for coding in self.codings)

    @property
    def preset_batch(self) -> int | None:
        """Bags in a batch where a target asks for several."""
        return COX_BATCH if self.has_baselines else None

    @property
    def has_baselines(self) -> bool:
        """Whether a target needs a baseline hazard from the trained head."""
        return any(coding.kind == "survival-cox" for coding in self.codings)

    def encode(self, bag: Bag) -> np.ndarray:
        """A bag's targets, [sum of widths] float64, NaN where not known.

        Raises:
            ManifestError: a value is not of its target's kind.
        """
        return np.concatenate([coding.encode(value_of(bag, coding.name)) for coding in self.codings])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted sum of the targets' losses; a bag whose value is not known adds nothing to that target's.

        Args:
            logits: [B, outputs] float.
            targets: [B, sum of widths] float, as `encode` gives them.
        """
        total = logits.sum() * 0.0
        for coding, columns, said in self._parts(logits, targets):
            known = ~said.isnan().all(dim=1)
            if bool(known.any()):
                total = total + coding.weight * _loss(coding, columns[known], said[known])
        return total

    def read(self, logits: Tensor) -> np.ndarray:
        """What the logits mean, [B, sum of columns] float64: probabilities, numbers, risks and survival."""
        values, start = [], 0
        for coding in self.codings:
            part = logits[:, start : start + coding.outputs].detach().double().cpu()
            values.append(_read(coding, part))
            start += coding.outputs
        return np.concatenate(values, axis=1)

    def split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of `read` by target."""
        ends = np.cumsum([len(coding.columns) for coding in self.codings])[:-1]
        parts = np.split(values, ends, axis=1)
        return {coding.name: part for coding, part in zip(self.codings, parts, strict=True)}

    def with_baselines(self, logits: Tensor, targets: Tensor) -> Self:
        """The same task with the baseline hazard of each Cox target, from the training part.

        Args:
            logits: [B, outputs] float, of the trained head.
            targets: [B, sum of widths] float.
        """
        found = []
        for coding, columns, said in self._parts(logits, targets):
            if coding.kind == "survival-cox":
                known = ~said.isnan().all(dim=1).cpu().numpy()
                risks, pairs = (part.detach().double().cpu().numpy()[known] for part in (columns, said))
                hazard = breslow(risks[:, 0], pairs[:, 0], pairs[:, 1] > 0, horizons=coding.horizons)
                found.append(replace(coding, baseline=tuple(hazard.tolist())))
            else:
                found.append(coding)
        return replace(self, codings=tuple(found))

    def record(self) -> list[dict[str, Any]]:
        """As plain values."""
        return [asdict(coding) for coding in self.codings]

    @classmethod
    def of_record(cls, record: Sequence[Mapping[str, Any]]) -> Self:
        """What `record` wrote, after JSON."""
        tuples = {field.name for field in fields(TargetCoding) if str(field.type).startswith("tuple")}
        codings: list[dict[str, Any]] = [
            {key: tuple(value) if key in tuples else value for key, value in each.items()} for each in record
        ]
        return cls(tuple(TargetCoding(**each) for each in codings))

    def _parts(self, logits: Tensor, targets: Tensor) -> Iterator[tuple[TargetCoding, Tensor, Tensor]]:
        column = place = 0
        for coding in self.codings:
            yield coding, logits[:, column : column + coding.outputs], targets[:, place : place + coding.width]
            column, place = column + coding.outputs, place + coding.width


def value_of(bag: Bag, name: str) -> Value | None:
    """What a bag says of a target: its only one, or the one of that name."""
    return bag.target.get(name) if isinstance(bag.target, Mapping) else bag.target


def breslow(log_risks: np.ndarray, times: np.ndarray, events: np.ndarray, *, horizons: Sequence[float]) -> np.ndarray:
    """Breslow's cumulative baseline hazard: sum over events by t of 1 / sum of exp(log risk) at risk, [T] float64.

    Args:
        log_risks: [N] float.
        times: [N] float.
        events: [N] bool.
        horizons: [T] float.
    """
    order = np.argsort(times)
    pool = np.cumsum(np.exp(log_risks[order])[::-1])[::-1]  # at risk from each place on
    first = np.searchsorted(times[order], times[events])  # ties are at risk together
    steps = 1 / pool[first]
    return np.array([steps[times[events] <= t].sum() for t in horizons])


def _loss(coding: TargetCoding, logits: Tensor, said: Tensor) -> Tensor:
    match coding.kind:
        case "multilabel":
            return label_loss(logits, said)
        case "ordinal":
            return ordinal_loss(logits, said[:, 0].long())
        case "regression":
            return squared_loss(logits[:, 0], said[:, 0])
        case "survival-discrete":
            return survival_loss(logits, said[:, 0].long(), said[:, 1], alpha=coding.alpha)
        case "survival-cox":
            return cox_loss(logits[:, 0], said[:, 0], said[:, 1])
    weights = torch.tensor(coding.class_weights, device=logits.device) if coding.class_weights else None
    return classification_loss(logits, said[:, 0].long(), class_weights=weights)


def _read(coding: TargetCoding, logits: Tensor) -> np.ndarray:
    match coding.kind:
        case "multilabel":
            return np.asarray(logits.sigmoid().numpy())
        case "ordinal":
            above = torch.cat([torch.ones(len(logits), 1), logits.sigmoid().cumprod(dim=1)], dim=1)  # P(grade >= k)
            return np.asarray((above - torch.cat([above[:, 1:], torch.zeros(len(logits), 1)], dim=1)).numpy())
        case "regression":
            return np.asarray(logits.numpy() * coding.std + coding.mean)
        case "survival-discrete":
            curve = (-logits).sigmoid().cumprod(dim=1).numpy()  # [B, K], at the ends of the intervals
            knots = np.array([0.0, *coding.cuts])
            with_one = np.concatenate([np.ones((len(curve), 1)), curve], axis=1)
            survival = np.array([np.interp(coding.horizons, knots, row) for row in with_one])
            return _with_risk(survival.reshape(len(curve), len(coding.horizons)), coding.horizons)
        case "survival-cox":
            ratio = np.exp(np.clip(logits.numpy(), -50, 50))  # [B, 1]
            return _with_risk(np.exp(-np.array(coding.baseline)[None, :] * ratio), coding.horizons)
    return np.asarray(logits.softmax(dim=1).numpy())


def _with_risk(survival: np.ndarray, horizons: Sequence[float]) -> np.ndarray:
    """Risk and survival, [B, 1 + T]; risk is minus the share of the time to the last horizon lived on average.

    It is on one scale for all models, so folds and seeds can be pooled.
    """
    grid = np.array([0.0, *horizons])
    curve = np.concatenate([np.ones((len(survival), 1)), survival], axis=1)
    lived = np.trapezoid(curve, grid, axis=1) / max(grid[-1], 1e-300)
    return np.concatenate([-lived[:, None], survival], axis=1)
