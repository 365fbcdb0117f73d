"""DICOM headers as scanners and archives write them, for tests."""

from __future__ import annotations

import struct
from pathlib import Path

EXPLICIT, IMPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
)  # fmt: skip


def element(tag: int, kind: str, value: bytes, syntax: str = EXPLICIT, *, undefined: bool = False) -> bytes:
    order = ">" if syntax == BIG else "<"
    value += b"\0" * (len(value) % 2)
    length = 0xFFFFFFFF if undefined else len(value)
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", length) + value
    if kind in ("OB", "SQ", "UN"):
        return head + kind.encode() + b"\0\0" + struct.pack(order + "I", length) + value
    return head + kind.encode() + struct.pack(order + "H", length) + value


def write_dicom(
    path: Path,
    series: str,
    kind: str = "VOLUME",
    size: tuple[int, int] = (64, 32),
    syntax: str = EXPLICIT,
    pad: int = 0,
) -> Path:
    """A DICOM header with nested sequences before the elements that count."""
    order = ">" if syntax == BIG else "<"
    bare = ">" if syntax == BIG else "<"
    item = struct.pack(bare + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item_end, end = (struct.pack(bare + "HHI", 0xFFFE, mark, 0) for mark in (0xE00D, 0xE0DD))
    inner = item + element(0x0020000E, "UI", b"9.9.9", syntax) + item_end + end
    nested = element(0x00081115, "SQ", inner, syntax, undefined=True)
    body = (
        element(0x00080008, "CS", f"ORIGINAL\\PRIMARY\\{kind}\\NONE".encode(), syntax)
        + nested
        + element(0x00100010, "PN", b"Doe^John", syntax)
        + element(0x00110001, "UN", b"x" * pad, syntax)
        + element(0x0020000E, "UI", series.encode(), syntax)
        + element(0x00480006, "UL", struct.pack(order + "I", size[0]), syntax)
        + element(0x00480007, "UL", struct.pack(order + "I", size[1]), syntax)
        + element(0x00480105, "SQ", inner, syntax, undefined=True)
    )
    meta = element(0x00020010, "UI", syntax.encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + meta + body)
    return path
