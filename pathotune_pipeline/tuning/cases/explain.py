"""Which pathways and which tiles raise a case's predicted risk: slopes of its Cox model's risk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pathotune_pipeline.adapt.modal.adapter import ModalNetwork
from pathotune_pipeline.adapt.modal.attribution import attribute
from pathotune_pipeline.tuning.cases.judges import Judges
from pathotune_pipeline.tuning.cases.material import CaseMaterial

PICTURES = 3
"""Cases of highest, and of lowest, risk whose tiles are told."""


@dataclass(frozen=True, slots=True)
class PathwayShare:
    """One pathway in one cohort.

    Attributes:
        cohort: whose Cox model's risk it is about.
        pathway: its name.
        size: mean over the cases of the share's absolute value, in log hazard.
        mean: mean over the cases of the share.
        cases: how many.
    """

    cohort: str
    pathway: str
    size: float
    mean: float
    cases: int


@dataclass(frozen=True, slots=True, eq=False)
class TileShares:
    """The tiles of one slide of a case.

    Attributes:
        case_id: whose.
        number: which of the case's slides.
        why: "highest risk in COHORT" or "lowest risk in COHORT".
        risk: log relative hazard.
        values: float32 [N], shares of the tiles that were looked at, in their order; above 0 raises the risk.
        coords: int64 [N, 2], their places among the case's slides.
    """

    case_id: str
    number: int
    why: str
    risk: float
    values: np.ndarray
    coords: np.ndarray


def explain(
    network: ModalNetwork, judges: Judges, material: CaseMaterial, ids: Sequence[str], *, task: str
) -> tuple[list[PathwayShare], list[TileShares]]:
    """Shares of pathways in each cohort, and of tiles of a few cases.

    Args:
        network: in evaluation mode.
        judges: fitted on its embeddings.
        material: what is known of the cases.
        ids: cases that nothing was learnt from.
        task: whose embedding and Cox model.
    """
    number = [str(each) for each in network.spec.tasks].index(task)
    shares: Mapping[str, list[np.ndarray]] = defaultdict(list)
    tiles: list[TileShares] = []
    for cohort in sorted({material.cases[case].cohort for case in ids}):
        cox = judges.cox.get((task, cohort))
        if cox is None:
            continue
        direction = torch.from_numpy(cox.weight).float().to(material.device)
        own = [case for case in ids if material.cases[case].cohort == cohort]
        risks: dict[str, float] = {}
        for case in own:
            found = attribute(network, material.given(case), direction=direction, task=number)
            risks[case] = found.score - float(cox.mean @ cox.weight)
            if found.pathways is not None:
                shares[cohort].append(found.pathways.cpu().numpy())
        seen = sorted(
            (case for case in own if "image" in material.modalities(case)), key=lambda case: (risks[case], case)
        )
        for why, case in _ends(seen, cohort):
            found = attribute(network, material.given(case), direction=direction, task=number)
            if found.tiles is not None:
                tiles += _by_slide(material, case, why, risks[case], found.tiles.cpu().numpy())
    names = network.pathways.pathways if network.pathways is not None else ()
    told = [
        PathwayShare(cohort, name, float(np.abs(column).mean()), float(column.mean()), len(column))
        for cohort, rows in shares.items()
        for name, column in zip(names, np.stack(rows).T, strict=True)
    ]
    return sorted(told, key=lambda each: (each.cohort, -each.size, each.pathway)), tiles


def _ends(ranked: Sequence[str], cohort: str) -> list[tuple[str, str]]:
    """The last and the first few, none twice, and why they are shown."""
    high = list(ranked[::-1][:PICTURES])
    low = [case for case in ranked[:PICTURES] if case not in high]
    return [
        *((f"highest risk in {cohort}", case) for case in high),
        *((f"lowest risk in {cohort}", case) for case in low),
    ]


def _by_slide(material: CaseMaterial, case: str, why: str, risk: float, values: np.ndarray) -> list[TileShares]:
    tiles = material.shown(case)
    return [
        TileShares(case, number, why, risk, values[tiles.slide == number], tiles.coords[tiles.slide == number])
        for number in np.unique(tiles.slide).tolist()
    ]
