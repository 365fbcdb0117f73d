"""Find the slides below a folder, and say which files were passed over and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pathotune_pipeline.errors import UsageError

SLIDE_SUFFIXES = frozenset(
    {
        ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi", ".avs",
        ".png", ".jpg", ".jpeg", ".bmp",
    }
)  # fmt: skip
"""Endings taken for slides; everything else is passed over."""


@dataclass(slots=True)
class Discovery:
    """What a look at a folder found.

    Attributes:
        slides: paths in the order of their names.
        passed_over: path and the reason why it is no slide.
    """

    slides: list[Path] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)


def discover(root: Path) -> Discovery:
    """Every slide below `root`, folders below it included.

    Raises:
        UsageError: `root` is no folder.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UsageError(f"--slides {root}: a folder is needed, {found} was found. Give the archive's folder.")
    found_slides = Discovery()
    visited: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        here = Path(folder)
        status = here.stat()
        if (status.st_dev, status.st_ino) in visited:
            names.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        mirax = {Path(file).stem for file in files if file.lower().endswith(".mrxs")}
        names[:] = sorted(
            name for name in names if not name.startswith(".") and name not in mirax and not name.endswith(".zarr")
        )
        for name in sorted(files):
            path = here / name
            if name.startswith("."):
                found_slides.passed_over.append((path, "hidden file"))
            elif path.suffix.lower() not in SLIDE_SUFFIXES:
                found_slides.passed_over.append((path, f"ending {path.suffix or '(none)'} is no slide's"))
            elif not path.is_file():
                found_slides.passed_over.append((path, "not a regular file, or a link to nothing"))
            else:
                found_slides.slides.append(path)
    return found_slides
