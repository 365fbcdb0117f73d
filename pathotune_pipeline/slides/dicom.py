"""What kind of image a DICOM file says it holds, read from its first bytes.

OpenSlide opens a whole series from any of its files, so the file of a label would be served as the slide, and the
slide as often as it has files. Only the file of a VOLUME image stands for a slide.
"""

from __future__ import annotations

import re
from pathlib import Path

from pathotune_pipeline.errors import UnreadableSlideError

HEADER_BYTES = 8192
_PREAMBLE = 128
# (0008,0008) Image Type, VR CS: explicit little endian carries the VR and a 16-bit length, implicit a 32-bit length.
_EXPLICIT = re.compile(rb"\x08\x00\x08\x00CS(..)", re.DOTALL)
_IMPLICIT = re.compile(rb"\x08\x00\x08\x00(..)\x00\x00", re.DOTALL)
_REFUSED = ("LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER")


def image_type(path: Path) -> tuple[str, ...] | None:
    """The values of a DICOM file's Image Type, e.g. ("ORIGINAL", "PRIMARY", "VOLUME", "NONE").

    Returns:
        None where the file is not DICOM, or has no Image Type in its first 8 KB.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if header[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        return None
    found = _EXPLICIT.search(header, _PREAMBLE) or _IMPLICIT.search(header, _PREAMBLE)
    if found is None:
        return None
    length = int.from_bytes(found.group(1), "little")
    text = header[found.end() : found.end() + length].decode("ascii", "replace")
    return tuple(part.strip(" \0").upper() for part in text.split("\\"))


def refuse_unless_volume(path: Path) -> None:
    """Refuse a DICOM file that holds a label, an overview or a thumbnail.

    Raises:
        UnreadableSlideError: it does.
    """
    kinds = image_type(path) or ()
    found = next((kind for kind in _REFUSED if kind in kinds), None)
    if found:
        raise UnreadableSlideError(
            f"this DICOM file holds the series' {found} image, not the slide. Name the series' VOLUME file instead."
        )
