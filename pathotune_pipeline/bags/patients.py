"""Several slides of one patient: as one bag, or at least with one label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.errors import ManifestError

Pieces = Mapping[str, Sequence[tuple[str, int]]]
"""Patient -> the slides that were fused, in order, and the number of tiles of each."""


def fuse_by_patient(bags: Mapping[str, Bag]) -> tuple[dict[str, Bag], dict[str, list[tuple[str, int]]]]:
    """Lay the slides of each patient end to end in the order of their ids, as one bag that bears the patient's name.

    Args:
        bags: slide id -> its bag.

    Returns:
        Patient -> bag, and patient -> what it is made of.

    Raises:
        ManifestError: slides of a patient have different targets.
    """
    check_one_target(bags.values())
    fused: dict[str, Bag] = {}
    pieces: dict[str, list[tuple[str, int]]] = {}
    for patient, slides in _by_patient(bags.values()).items():
        pieces[patient] = [(bag.bag_id, len(bag)) for bag in slides]
        fused[patient] = replace(
            slides[0],
            features=_joined([bag.features for bag in slides]),
            coords=_joined([bag.coords for bag in slides]),
            bag_id=patient,
            target=_target(slides),
        )
    return fused, pieces


def part_by_slide(values: Mapping[str, Any], pieces: Pieces) -> dict[str, Any]:
    """Cut what is known of each tile of fused bags into slides.

    Args:
        values: patient -> [sum of N, ...].
        pieces: of `fuse_by_patient`.

    Returns:
        Slide id -> [N, ...].
    """
    found = {}
    for patient, rows in values.items():
        start = 0
        for slide, count in pieces[patient]:
            found[slide] = rows[start : start + count]
            start += count
    return found


def check_one_target(bags: Iterable[Bag]) -> None:
    """Make sure that slides of a patient do not contradict each other; one that is not known contradicts nothing.

    Raises:
        ManifestError: they do; the message names the patients.
    """
    torn = []
    for patient, slides in _by_patient(bags).items():
        said: dict[str, set[str]] = defaultdict(set)
        for bag in slides:
            for name, value in _named(bag).items():
                said[name].add(str(value))
        torn += [f"{patient!r} ({' and '.join(sorted(values))})" for values in said.values() if len(values) > 1]
    if torn:
        raise ManifestError(
            f"{len(torn)} patients have slides with different labels: {', '.join(torn[:5])}{', ...' if len(torn) > 5 else ''}. "
            "Where a patient counts once, all of its slides need one label: mend the table, or keep --unit slides."
        )


def _target(slides: Sequence[Bag]) -> Any:
    if not any(isinstance(bag.target, Mapping) for bag in slides):
        return next((bag.target for bag in slides if bag.target is not None), None)
    return {name: value for bag in slides for name, value in _named(bag).items()}


def _named(bag: Bag) -> Mapping[str, Any]:
    if isinstance(bag.target, Mapping):
        return bag.target
    return {} if bag.target is None else {"": bag.target}


def _by_patient(bags: Iterable[Bag]) -> dict[str, list[Bag]]:
    found: dict[str, list[Bag]] = defaultdict(list)
    for bag in sorted(bags, key=lambda bag: bag.bag_id):
        found[bag.group].append(bag)
    return dict(sorted(found.items()))


def _joined(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts)) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)
