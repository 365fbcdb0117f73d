"""One slide to work on, and the list of them that a run is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pathotune_pipeline.archive.identity import Pseudonymiser

CONTEXT_COLUMNS = ("stain", "organ", "scanner", "site", "block", "scan_date", "supersedes", "keep", "split")
"""Columns with a known meaning; matched without regard to case."""
KEPT_OF_PSEUDONYMISED = ("stain", "organ", "scanner", "split")
"""Context that stays when ids are replaced by keyed hashes; other columns may hold names."""


@dataclass(frozen=True, slots=True)
class SlideItem:
    """One slide to work on.

    Attributes:
        slide_id: its name everywhere after this point.
        path: where its file lies; never leaves the worker.
        case_id: the patient, or None where it is not known.
        mpp: um/px from the manifest, or None.
        context: what else the manifest says, as (column, value) pairs: stain, organ, scanner, labels, ...
        refused: why the audit refused it, or None. A refused slide is not read; it counts as failed.
    """

    slide_id: str
    path: Path = field(repr=False)
    case_id: str | None = None
    mpp: float | None = None
    context: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    refused: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The slides of one run, each id once.

    Attributes:
        items: in the order of the table or of the file names.
        passed_over: (name, reason) of files that are no slides and of slides left out. A reason names another slide
            only at its end, after ": ".
    """

    items: tuple[SlideItem, ...]
    passed_over: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def pseudonymised(self, pseudonymiser: Pseudonymiser) -> Manifest:
        """The same slides under keyed hashes.

        Of the context only stain, organ, scanner and split stay. Names of what was passed over are dropped, their
        number and the reasons stay.
        """
        items = tuple(
            replace(
                item,
                slide_id=pseudonymiser.slide(item.slide_id),
                case_id=pseudonymiser.case(item.case_id) if item.case_id else None,
                context=tuple(pair for pair in item.context if pair[0] in KEPT_OF_PSEUDONYMISED),
            )
            for item in self.items
        )
        return Manifest(items, tuple(("(name withheld)", reason.partition(": ")[0]) for _, reason in self.passed_over))


def context_of(row: Mapping[str, str], used: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The filled cells of a table's row, but for the used columns (small letters) and those of the audit."""
    return tuple(
        (_known(name), value)
        for name, value in row.items()
        if value and name.lower() not in used and not name.lower().startswith("audit")
    )


def _known(name: str) -> str:
    return name.lower() if name.lower() in CONTEXT_COLUMNS else name
