"""Find the slides below a folder, and say which files were passed over and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pathotune_pipeline.archive.identity import encode_id, slide_id_of
from pathotune_pipeline.archive.series import SUFFIX, series_in
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
        passed_over: path and the reason why it is no slide of its own. A slide is named in a reason after ": " only.
        ids: of slides that are not named by their own path, such as a DICOM series; see `archive.series`.
    """

    slides: list[Path] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)
    ids: dict[Path, str] = field(default_factory=dict)

    def id_of(self, path: Path, root: Path) -> str:
        """The id of one of the slides found below `root`."""
        return self.ids.get(path) or slide_id_of(path, root)


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
        parts = _join_series(root, here, files, found_slides)
        for name in sorted(files):
            path = here / name
            if path in parts:
                continue
            if name.startswith("."):
                found_slides.passed_over.append((path, "hidden file"))
            elif path.suffix.lower() not in SLIDE_SUFFIXES:
                found_slides.passed_over.append((path, f"ending {path.suffix or '(none)'} is no slide's"))
            elif not path.is_file():
                found_slides.passed_over.append((path, "not a regular file, or a link to nothing"))
            else:
                found_slides.slides.append(path)
    return found_slides


def _join_series(root: Path, here: Path, files: list[str], found: Discovery) -> set[Path]:
    """Enter a folder's DICOM series. Returns their files that are no slides of their own."""
    names = [name for name in files if name.lower().endswith(SUFFIX) and not name.startswith(".")]
    parts: set[Path] = set()
    for series in series_in([here / name for name in names if (here / name).is_file()]):
        slide_id = encode_id((here.relative_to(root) / series.name).as_posix())
        if slide_id != encode_id("."):
            found.ids[series.volume] = slide_id
        else:
            slide_id = slide_id_of(series.volume, root)
        for path, kind in series.others:
            what = "a further part of a DICOM series" if kind == "VOLUME" else f"the {kind} image of a DICOM series"
            found.passed_over.append((path, f"{what}: {slide_id}"))
            parts.add(path)
    return parts
