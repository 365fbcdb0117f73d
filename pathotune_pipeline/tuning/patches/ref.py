"""PatchRef: a patch before its pixels are read; and what several sources of them share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pathotune_pipeline.errors import ManifestError, SpecError

_SHOWN = 5
_SPLITS = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "tuning": "val",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PatchRef:
    """Where one patch lies, and what its source says of it.

    Attributes:
        name: unique; holds no path above the source's folder.
        path: the image's or slide's file.
        label: as the source writes it; "" where there is none.
        group: see `PatchSet.groups`.
        domain: see `PatchSet.domains`.
        split: see `PatchSet.splits`.
        centre: (x, y) of its middle in level-0 pixels of a slide; None where the patch is the whole image.
    """

    name: str
    path: Path = field(repr=False)
    label: str = ""
    group: str = ""
    domain: str = ""
    split: str = ""
    centre: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source lists.

    Attributes:
        refs: the patches, in the source's order.
        where: what messages call the source.
        notes: what the reader of results should know.
    """

    refs: tuple[PatchRef, ...]
    where: str
    notes: tuple[str, ...] = ()


def known_split(text: str) -> str | None:
    """train, val or test for the names that these go by, or None."""
    return _SPLITS.get(text.strip().lower())


def listed(items: Sequence[str], *, shown: int = _SHOWN) -> str:
    """Some items, and how many more there are."""
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {rest} more" if rest > 0 else "")


def grouped_by_pattern(refs: Sequence[PatchRef], pattern: str | None, where: str) -> tuple[PatchRef, ...]:
    """Give patches without a group the one that their name holds.

    Raises:
        SpecError: the pattern is no regular expression with a group.
        ManifestError: it is not found in a name.
    """
    if pattern is None:
        return tuple(refs)
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise SpecError(f"patches.group_pattern: {pattern!r} is no regular expression ({error}).") from None
    if not search.groups:
        raise SpecError(f"patches.group_pattern: {pattern!r} has no (group). Put what names the slide in parentheses.")
    found = {ref.name: search.search(ref.name) for ref in refs if not ref.group}
    without = [name for name, match in found.items() if match is None or not match.group(1)]
    if without:
        raise ManifestError(
            f"{where}: patches.group_pattern {pattern!r} is not found in {len(without)} names: {listed(without)}."
        )
    return tuple(
        replace(ref, group=match.group(1)) if (match := found.get(ref.name)) is not None else ref for ref in refs
    )
