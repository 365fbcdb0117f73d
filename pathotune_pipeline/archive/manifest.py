"""Reading the list of slides: from a folder, or from a table with ids, cases, scales and what else is known."""

from __future__ import annotations

import re
from pathlib import Path

from pathotune_pipeline.archive.discover import discover
from pathotune_pipeline.archive.identity import slide_id_of
from pathotune_pipeline.archive.item import Manifest, Part, SlideItem
from pathotune_pipeline.archive.listing import Rescans, read_listing
from pathotune_pipeline.errors import ManifestError

_UID = re.compile(r"\d+(?:\.\d+){5,}")
"""DICOM files are often named by their UID, which is not to be told."""

__all__ = ["Manifest", "Part", "Rescans", "SlideItem", "read_manifest"]


def read_manifest(slides: Path | None, table: Path | None = None, *, rescans: Rescans = "newest") -> Manifest:
    """The slides below a folder, or those a table lists.

    Args:
        slides: the archive's folder; ids are relative to it, and so are relative paths in the table.
        table: a CSV or Parquet file, as `archive.listing` describes. Without `slides`, relative paths are relative to
            the table's folder.
        rescans: "newest" leaves older scans of the same thing out, "all" keeps them; see `archive.rescans`.

    Raises:
        ManifestError: the table does not say where its slides lie, names one id twice, or has a cell that cannot be
            understood.
        UsageError: neither was given, or the folder is none.
    """
    if table is None:
        if slides is None:
            raise ManifestError("No slides were named. Give --slides DIR, or --manifest CSV, or both.")
        return _from_folder(slides)
    items, passed_over = read_listing(table, slides if slides is not None else table.parent, rescans)
    return Manifest(items, passed_over)


def _from_folder(slides: Path) -> Manifest:
    found = discover(slides)
    if not found.slides:
        seen = f"{len(found.passed_over)} other files" if found.passed_over else "nothing"
        raise ManifestError(f"--slides {slides}: no slide was found there, only {seen}. Check the folder.")
    items = tuple(SlideItem(found.id_of(path, slides), path) for path in found.slides)
    passed = tuple((_UID.sub("(UID)", slide_id_of(path, slides)), reason) for path, reason in found.passed_over)
    return Manifest(items, passed)
