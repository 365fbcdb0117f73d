"""What the header of a DICOM file says of its place in a series: series, kind of image, size of the pixel matrix.

Only these elements are kept; whatever names a patient, a device or a place is walked over and never held.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

FIRST_BYTES, MOST_BYTES = 1 << 16, 1 << 22
"""Bytes of a header that are read, and read again where it is longer."""
_MOST_DEPTH = 32
_PREAMBLE = 128
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TRANSFER_SYNTAX, _IMAGE_TYPE, _SERIES = 0x00020010, 0x00080008, 0x0020000E
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_MATRIX_COLUMNS, _MATRIX_ROWS = 0x00480006, 0x00480007
_WANTED = frozenset({_IMAGE_TYPE, _SERIES, _ROWS, _COLUMNS, _MATRIX_COLUMNS, _MATRIX_ROWS})
_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


class _Short(Exception):  # noqa: N818 - not an error: the header goes on beyond what was read
    """The header goes on beyond the bytes at hand."""


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """A DICOM file's place in its series.

    Attributes:
        series: the SeriesInstanceUID, for comparison only; never shown, logged or stored.
        image_type: values of Image Type in capitals, e.g. ("ORIGINAL", "PRIMARY", "VOLUME", "NONE").
        matrix: (columns, rows) of the total pixel matrix; of the frame where there is none; (0, 0) where neither.
    """

    series: str = field(repr=False)
    image_type: tuple[str, ...]
    matrix: tuple[int, int]


def read_header(path: Path) -> DicomHeader | None:
    """The header of a DICOM file, kept until the file changes.

    Returns:
        None where the file cannot be read, is not DICOM, names no series, or is written in a way that is not walked
        (deflated). Such a file stands for itself.
    """
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=8192)
def _read(path: Path, size: int, changed: int) -> DicomHeader | None:
    for limit in (FIRST_BYTES, MOST_BYTES):
        with path.open("rb") as file:
            data = file.read(limit)
        if data[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
            return None
        found: dict[int, bytes] = {}
        try:
            order = _walk_file(data, found)
        except _Short:
            if len(data) == limit and limit < MOST_BYTES:
                continue
            order = "<"
        except (struct.error, ValueError):
            return None
        return _header(found, order)
    return None


def _header(found: dict[int, bytes], order: str) -> DicomHeader | None:
    series = _text(found.get(_SERIES, b""))
    if not series:
        return None
    matrix = (_number(found.get(_MATRIX_COLUMNS), order), _number(found.get(_MATRIX_ROWS), order))
    frame = (_number(found.get(_COLUMNS), order), _number(found.get(_ROWS), order))
    kinds = tuple(part.strip().upper() for part in _text(found.get(_IMAGE_TYPE, b"")).split("\\"))
    return DicomHeader(series, kinds, matrix if all(matrix) else frame)


def _walk_file(data: bytes, found: dict[int, bytes]) -> str:
    """Collect the wanted elements of a file's data set. Returns its byte order for `struct`."""
    meta: dict[int, bytes] = {}
    at = _PREAMBLE + 4
    while data[at : at + 2] == b"\x02\x00":  # the meta group is explicit little endian in every file
        tag, length, at = _element(data, at, "<", explicit=True)
        meta[tag] = data[at : at + length]
        at += length
    syntax = _text(meta.get(_TRANSFER_SYNTAX, b""))
    if syntax == _DEFLATED:
        raise ValueError("deflated")
    order = ">" if syntax == _BIG_ENDIAN else "<"
    while at < len(data):
        tag, length, at = _element(data, at, order, explicit=syntax != _IMPLICIT)
        if tag > _MATRIX_ROWS:  # elements come in the order of their tags
            return order
        if length == _UNDEFINED:
            at = _skip_sequence(data, at, order, explicit=syntax != _IMPLICIT)
            continue
        if tag in _WANTED:
            if at + length > len(data):
                raise _Short
            found[tag] = data[at : at + length]
        at += length
    raise _Short


def _element(data: bytes, at: int, order: str, *, explicit: bool) -> tuple[int, int, int]:
    """Tag, length of the value, and where the value begins."""
    if at + 12 > len(data):
        raise _Short
    group, element = struct.unpack_from(order + "HH", data, at)
    tag = group << 16 | element
    if not explicit or group == 0xFFFE:
        return tag, struct.unpack_from(order + "I", data, at + 4)[0], at + 8
    kind = data[at + 4 : at + 6]
    if not (kind.isalpha() and kind.isupper()):
        raise ValueError("no value representation")
    if kind in _LONG:
        return tag, struct.unpack_from(order + "I", data, at + 8)[0], at + 12
    return tag, struct.unpack_from(order + "H", data, at + 6)[0], at + 8


def _skip_sequence(data: bytes, at: int, order: str, *, explicit: bool) -> int:
    """Where a sequence of undefined length ends. Sequences and items within it are counted, not recursed into."""
    depth = 1
    while depth:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        tag, length, at = _element(data, at, order, explicit=explicit)
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        else:
            at += length
    return at


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _number(value: bytes | None, order: str) -> int:
    if value is None or len(value) not in (2, 4):
        return 0
    return int(struct.unpack(order + ("H" if len(value) == 2 else "I"), value)[0])
