"""One slide to work on, and the list of them that a run is given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.errors import UsageError

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
class Part:
    """One of several parts of an archive: a slide's id alone decides in which it is, whatever else the archive holds.

    Attributes:
        number: which, from 1.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """A part as a user names it, such as 3/8.

        Raises:
            UsageError: it is none.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--part {text!r}: give K/N with K from 1 to N, such as 3/8.")
        return cls(int(found[1]), int(found[2]))

    def holds(self, slide_id: str) -> bool:
        """Whether a slide is in it."""
        digest = hashlib.sha256(slide_id.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The slides of one run, each id once.

    Attributes:
        items: in the order of the table or of the file names.
        passed_over: (name, reason) of files that are no slides and of slides left out. A reason names another slide
            only at its end, after ": ".
        part: of the archive, where it is not all of it.
    """

    items: tuple[SlideItem, ...]
    passed_over: tuple[tuple[str, str], ...] = ()
    part: Part | None = None

    def __len__(self) -> int:
        return len(self.items)

    def of_part(self, part: Part) -> Manifest:
        """What of it is in a part. It may be nothing."""
        items = tuple(item for item in self.items if part.holds(item.slide_id))
        return Manifest(items, tuple(each for each in self.passed_over if part.holds(each[0])), part)

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
