"""Which files make up a slide, and whether any of them has changed: for identity, change detection and staging."""

from __future__ import annotations

import re
from pathlib import Path

from pathotune_pipeline.archive.series import series_of

MOST_INDEX_BYTES = 1 << 20
"""Of a Hamamatsu index file; true ones hold some kilobytes."""
_VALUE = re.compile(rb"^[^=\r\n]*=[ \t]*([^\r\n]+?)[ \t]*\r?$", re.MULTILINE)


def companion_files(path: Path) -> list[Path]:
    """Every file that belongs to the slide, itself first.

    MIRAX keeps its data in a folder of the same stem; Hamamatsu VMS and VMU name theirs in the index file; a DICOM
    series is several files of one folder.

    Raises:
        OSError: the disk does not answer.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        return [path, *sorted(file for file in folder.rglob("*") if file.is_file())]
    if suffix in {".vms", ".vmu"}:
        return [path, *_named_in(path)]
    series = series_of(path)
    return [path, *(file for file in series.files if file != path)] if series else [path]


def _named_in(index: Path) -> list[Path]:
    """Files beside a Hamamatsu index that it names: images, map, optimisation file, macro."""
    with index.open("rb") as file:
        text = file.read(MOST_INDEX_BYTES)
    named = set()
    for value in _VALUE.findall(text):
        name = value.decode("utf-8", "surrogateescape")
        if name not in (".", "..") and "/" not in name and "\\" not in name and "\0" not in name:
            named.add(index.parent / name)
    return sorted(file for file in named if file != index and file.is_file())


def state_of(path: Path) -> str | None:
    """Names, sizes and times of change of a slide's files as one text; None where they cannot be looked at.

    As long as it stays the same the slide's contents are taken to be the same.
    """
    try:
        parts = [(str(file.absolute()), file.stat()) for file in companion_files(path)]
    except OSError:
        return None
    return "\n".join(f"{name}|{stat.st_size}|{stat.st_mtime_ns}" for name, stat in parts)
