"""DICOM: the files of one series in one folder are one slide, and its finest VOLUME file stands for it.

The slide's id is the folder's relative path where all of the folder's .dcm files make one series of several files;
where the folder holds more than that (or is the archive's root), it is folder/series-XXXXXXXX, the first digits of a
hash of the series' UID, so that it stays as it is when other series come and go. A series of a single file keeps the
file's own path as its id, as any other slide. No UID is shown.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pathotune_pipeline.slides.dicom_header import DicomHeader, read_header

SUFFIX = ".dcm"
_NOT_THE_SLIDE = ("LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER")


@dataclass(frozen=True, slots=True)
class Series:
    """The files of one DICOM series in one folder.

    Attributes:
        volume: the file that stands for the slide.
        others: the series' other files with the kind of image each holds, in the order of their names.
        name: the slide's name relative to the folder: "" for the folder itself, or series-XXXXXXXX.
    """

    volume: Path
    others: tuple[tuple[Path, str], ...]
    name: str

    @property
    def files(self) -> list[Path]:
        return sorted([self.volume, *(path for path, _ in self.others)])


def series_in(paths: list[Path]) -> list[Series]:
    """Group one folder's .dcm files. Files of no readable series, and series of one file, are left out.

    Args:
        paths: every .dcm file of one folder.
    """
    groups: dict[str, list[tuple[Path, DicomHeader]]] = {}
    for path in sorted(paths):
        header = read_header(path)
        if header is not None:
            groups.setdefault(header.series, []).append((path, header))
    return [
        _series(members, "" if len(members) == len(paths) else _name(uid))
        for uid, members in groups.items()
        if len(members) > 1
    ]


def series_of(path: Path) -> Series | None:
    """The series of several files that a .dcm file belongs to, or None."""
    if path.suffix.lower() != SUFFIX or read_header(path) is None:
        return None
    found = series_in([file for file in path.parent.iterdir() if is_member(file)])
    return next((series for series in found if path in series.files), None)


def is_member(path: Path) -> bool:
    """Whether a file is looked at when series are made up."""
    return path.suffix.lower() == SUFFIX and not path.name.startswith(".") and path.is_file()


def _name(uid: str) -> str:
    return f"series-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def _series(members: list[tuple[Path, DicomHeader]], name: str) -> Series:
    def area(header: DicomHeader) -> int:
        return header.matrix[0] * header.matrix[1]

    # Where the series has no VOLUME its largest image stands for it, and opening it gives the reason.
    best = min(members, key=lambda member: (_kind(member[1]) != "VOLUME", -area(member[1]), member[0].name))
    others = tuple((path, _kind(header)) for path, header in members if path != best[0])
    return Series(best[0], others, name)


def _kind(header: DicomHeader) -> str:
    return next((kind for kind in _NOT_THE_SLIDE if kind in header.image_type), "VOLUME")
