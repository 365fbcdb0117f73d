"""From what sources write to classes; and the checks that come before any pixel is read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from pathotune_pipeline.errors import ManifestError, SpecError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.tuning.patches.patch_set import UNLABELLED
from pathotune_pipeline.tuning.patches.ref import Listing, PatchRef, listed
from pathotune_pipeline.tuning.patches.spec import PatchSpec


def code_labels(listing: Listing, spec: PatchSpec) -> tuple[Listing, np.ndarray, tuple[str, ...]]:
    """Rename labels, and give each patch its class.

    Args:
        listing: the patches.
        spec: `rename`, `classes` and what becomes of other labels.

    Returns:
        The patches that stay, their labels int64 [N] with -1 for none, and the classes.

    Raises:
        SpecError: a class is given twice, or a label is renamed that is not there.
        ManifestError: a label is none of the classes, or there is one class alone.
    """
    twice = [name for name, count in Counter(spec.classes).items() if count > 1]
    if twice:
        raise SpecError(f"patches.classes: {twice[0]!r} is given twice.")
    found = {ref.label for ref in listing.refs} - {""}
    idle = sorted(spec.rename.keys() - found)
    if idle:
        raise SpecError(
            f"patches.rename: no patch of {listing.where} has the label {idle[0]!r}.{nearest(idle[0], found)} "
            f"Found: {listed(sorted(found), shown=12)}."
        )
    labels = [spec.rename.get(ref.label, ref.label) for ref in listing.refs]
    classes = spec.classes or tuple(sorted(set(labels) - {""}))
    other = Counter(label for label in labels if label and label not in classes)
    told = ", ".join(f"{name!r} ({count})" for name, count in sorted(other.items()))
    if other and spec.other_labels == "fail":
        raise ManifestError(
            f"{listing.where}: labels that are none of the classes {', '.join(classes)}: {told}. Add them to "
            "patches.classes, rename them, or say what becomes of them with patches.other_labels."
        )
    if len(classes) == 1:
        raise ManifestError(f"{listing.where}: all labels are {classes[0]!r}. At least two classes are needed.")
    keep = [place for place, label in enumerate(labels) if not (label in other and spec.other_labels == "skip")]
    places = {name: place for place, name in enumerate(classes)}
    coded = np.array([places.get(labels[place], UNLABELLED) for place in keep], np.int64)
    notes = list(listing.notes)
    if other:
        notes.append(f"Labels that are none of the classes were {_done(spec)}: {told}.")
    absent = [name for place, name in enumerate(classes) if not (coded == place).any()]
    if absent and len(absent) < len(classes):
        notes.append(f"No patch is of class {listed(absent)}.")
    without = int(np.count_nonzero(coded == UNLABELLED))
    if without:
        notes.append(f"{without} of {len(coded)} patches have no label.")
    return Listing(tuple(listing.refs[place] for place in keep), listing.where, tuple(notes)), coded, tuple(classes)


def _done(spec: PatchSpec) -> str:
    return "skipped" if spec.other_labels == "skip" else "kept without a label"


def check_names(refs: Sequence[PatchRef], where: str) -> None:
    """Refuse a patch that is listed twice.

    Raises:
        ManifestError: one is; or there is none at all.
    """
    if not refs:
        raise ManifestError(f"{where}: it lists no patch.")
    twice = [name for name, count in Counter(ref.name for ref in refs).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{where}: {len(twice)} patches are listed more than once: {listed(twice)}. Keep one line each."
        )


def check_groups(refs: Sequence[PatchRef], where: str) -> None:
    """Refuse a group that the source puts into two parts.

    Raises:
        ManifestError: some are; the message names them.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    for ref in refs:
        if ref.group:
            parts[ref.group].add(ref.split)
    torn = [f"{group} ({', '.join(sorted(found))})" for group, found in sorted(parts.items()) if len(found - {""}) > 1]
    if torn:
        raise ManifestError(
            f"{where}: Leakage: {len(torn)} groups are in more than one split: {listed(torn)}. Mend the splits, or name "
            "the right columns with patches.group_column and patches.split_column."
        )


def group_note(groups: Sequence[str]) -> tuple[str, ...]:
    """What is to be said where patches have no group."""
    without = sum(not group for group in groups)
    if not without:
        return ()
    who = "No patch has" if without == len(groups) else f"{without} of {len(groups)} patches do not have"
    return (f"{who} a group (slide or patient): splits and intervals take each as its own.",)
