"""Images made to fill memory: few bytes that claim, or unpack to, very many pixels."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_SHORT, _LONG = 3, 4
_TILE, _STRIP = (324, 325), (273, 279)


def jpeg_of(side: int = 256) -> bytes:
    """A small, true JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 180, np.uint8)).save(buffer, format="jpeg")
    return buffer.getvalue()


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame says another size than its stream holds."""
    data = bytearray(jpeg_of())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_claiming(side: int) -> bytes:
    """A PNG that says it has so many pixels across and down, and holds a few rows of them."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", head), (b"IDAT", deflated(1)), (b"IEND", b"")):
        found += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return found


def tiff_claiming(path: Path, side: int, *, block: int, compression: int, data: bytes, tiled: bool = True) -> None:
    """A TIFF of one page whose blocks are all the same bytes.

    Args:
        path: to write.
        side: px that the page claims, across and down.
        block: px that a tile claims, across and down; or rows of a strip.
        compression: 7 JPEG, 8 deflate.
        data: of each block.
        tiled: or in strips.
    """
    across = -(-side // block)
    blocks = across * across if tiled else across
    places, counts = _TILE if tiled else _STRIP
    tags: list[tuple[int, int, list[int]]] = [
        (256, _LONG, [side]), (257, _LONG, [side]), (258, _SHORT, [8, 8, 8]), (259, _SHORT, [compression]),
        (262, _SHORT, [6 if compression == 7 else 2]), (277, _SHORT, [3]), (284, _SHORT, [1]),
        *([(322, _LONG, [block]), (323, _LONG, [block])] if tiled else [(278, _LONG, [block])]),
    ]  # fmt: skip
    at = 8 + len(data)
    table = np.full(blocks, 8, "<u4").tobytes(), np.full(blocks, len(data), "<u4").tobytes()
    head = [*tags, (places, _LONG, [0]), (counts, _LONG, [0])]
    bits_at, first = at, at + 6
    directory, after = b"", first + (8 * blocks if blocks > 1 else 0)
    for tag, kind, values in sorted(head):
        if tag == 258:
            directory += struct.pack("<HHII", tag, kind, 3, bits_at)
        elif tag in (places, counts) and blocks > 1:
            directory += struct.pack("<HHII", tag, kind, blocks, first + (4 * blocks if tag == counts else 0))
        elif tag in (places, counts):
            directory += struct.pack("<HHII", tag, kind, 1, 8 if tag == places else len(data))
        else:
            directory += struct.pack("<HHI", tag, kind, 1) + struct.pack(
                "<I" if kind == _LONG else "<HH", *(values if kind == _LONG else (values[0], 0))
            )
    with path.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<I", after) + data + struct.pack("<HHH", 8, 8, 8))
        if blocks > 1:
            file.write(b"".join(table))
        file.write(struct.pack("<H", len(head)) + directory + bytes(4))


@cache
def deflated(megabytes: int) -> bytes:
    """So many zeros, packed to a thousandth."""
    pack, block = zlib.compressobj(1), bytes(1 << 20)
    return b"".join(pack.compress(block) for _ in range(megabytes)) + pack.flush()


SIDE, HUGE = 1_000_000, 1 << 20
BIG = 30_000
SLOW = "a million px in 512 px tiles.tif"
"""It is what it says, one level without a pyramid: whoever wants its overview reads four million tiles."""


def write_hostile(folder: Path) -> list[Path]:
    """One file for each way; SLOW is the first."""
    folder.mkdir(parents=True, exist_ok=True)
    jpeg, zeros = {"compression": 7}, {"compression": 8}
    tiffs: dict[str, dict[str, Any]] = {
        SLOW: {"side": SIDE, "block": 512, **jpeg, "data": jpeg_of(512)},
        "a million px in one tile.tif": {"side": SIDE, "block": HUGE, **jpeg, "data": jpeg_of()},
        "a million px in one deflated tile.tif": {"side": SIDE, "block": HUGE, **zeros, "data": deflated(16)},
        "tiles of 30,000 px.tif": {"side": 2 * BIG, "block": BIG, **zeros, "data": deflated(16)},
        "tiles of 30,000 px, jpeg.tif": {"side": 2 * BIG, "block": BIG, **jpeg, "data": jpeg_claiming(BIG, BIG)},
        "a jpeg bomb in its tiles.tif": {"side": 4096, "block": 256, **jpeg, "data": jpeg_claiming(65_500, 65_500)},
        "a deflate bomb in its tiles.tif": {"side": 1024, "block": 256, **zeros, "data": deflated(900)},
        "a deflate bomb in its strips.tif": {
            "side": 1024, "block": 256, **zeros, "data": deflated(900), "tiled": False,
        },
        "strips of 20,000 rows.tif": {"side": 2 * BIG, "block": 20_000, **zeros, "data": deflated(16), "tiled": False},
    }  # fmt: skip
    for name, options in tiffs.items():
        tiff_claiming(folder / name, **options)
    (folder / "bomb.jpg").write_bytes(jpeg_claiming(65_500, 65_500))
    (folder / "bomb.png").write_bytes(png_claiming(BIG))
    return [folder / name for name in (*tiffs, "bomb.jpg", "bomb.png")]
