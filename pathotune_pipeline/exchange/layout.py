"""What a layout of another tool is: for each slide some files, and some for all of them at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pathotune_pipeline.archive.discover import SLIDE_SUFFIXES
from pathotune_pipeline.archive.identity import decode_id, key_of
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.exchange.outbox import Write
from pathotune_pipeline.exchange.parcel import Parcel

COMPOUND_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr")
"""Endings that TRIDENT takes off whole."""


@dataclass(frozen=True, slots=True)
class Named:
    """A slide as other tools name it.

    Attributes:
        name: of its files, without an ending.
        file: name of the slide's own file, as far as the id tells it.
    """

    name: str
    file: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a layout needs to know of a slide that has been exported, for the files about all of them."""

    named: Named
    tiles: int


class Layout(Protocol):
    """The files that one tool expects."""

    @property
    def writes_empty(self) -> bool:
        """Whether a slide without tiles has files too."""
        ...

    def slide_files(self, parcel: Parcel, named: Named) -> Mapping[str, Write]:
        """The files of one slide: path below the folder, and what writes it; the one that says "done" comes last."""
        ...

    def closing_files(self, told: Sequence[Told], out: Path) -> Mapping[str, Write]:
        """Files about all slides, written at the end over older ones; `out` is where those lie."""
        ...


def stem_of(slide_id: str) -> Named:
    """A slide's file name without its ending, as TRIDENT, CLAM and STAMP name what belongs to it.

    An id that has no ending of a slide keeps every dot.
    """
    file = PurePosixPath(decode_id(slide_id)).name
    small = file.lower()
    for ending in (*COMPOUND_SUFFIXES, *SLIDE_SUFFIXES):
        if small.endswith(ending) and len(file) > len(ending):
            return Named(file[: -len(ending)], file)
    return Named(file, file)


def name_slides(slide_ids: Sequence[str], how: str) -> dict[str, Named]:
    """Names of all slides' files, no two alike, not even where a disk takes capitals for small letters.

    Args:
        slide_ids: the slides.
        how: "stem", the slide's file name without its ending; or "id", the whole id, which is always another one.

    Raises:
        UsageError: two slides would have the same files.
    """
    if how == "id":
        return {slide_id: Named(key_of(slide_id), stem_of(slide_id).file) for slide_id in slide_ids}
    names = {slide_id: stem_of(slide_id) for slide_id in slide_ids}
    takers: dict[str, list[str]] = {}
    for slide_id, named in names.items():
        takers.setdefault(named.name.casefold(), []).append(slide_id)
    clashes = [group for group in takers.values() if len(group) > 1]
    if clashes:
        first = clashes[0]
        raise UsageError(
            f"{len(clashes)} file names would be those of several slides, such as {names[first[0]].name!r} of "
            f"{' and '.join(first[:2])}. Give --names id to name files after whole ids, or --slide to choose slides."
        )
    return names


def text_file(text: str) -> Write:
    """What writes a text."""
    return bytes_file(text.encode())


def bytes_file(data: bytes) -> Write:
    """What writes bytes."""

    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def json_file(value: Any) -> Write:
    """What writes readable JSON."""
    return text_file(json.dumps(value, indent=4) + "\n")


def whole(value: float) -> int | float:
    """A number as an int where it is one."""
    return int(value) if float(value).is_integer() else float(value)


LayoutOf = Callable[[str], Layout]
"""Makes a layout for an encoder's name."""
