"""Damaged files: no crash, no hang, one reason each, and never a white tile in place of an unreadable one.

What can be proved depends on the damage. Where bytes are missing (the file is cut, a block's bytes are said to be fewer
or elsewhere), each tile is an error or equals the undamaged one. Where bytes are changed, another valid picture may be
what they say now, so a tile may differ; it is never white, unless the file now claims other sizes. A block without an
offset and without bytes is what TIFF calls sparse, and white by right.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

CHILD = Path(__file__).with_name("fuzz_child.py")
LIMIT_BYTES = 1 << 30
QUICK, WHOLE = 200, 700
APERIO = "Aperio Image Library v11.2.1 \r\n320x256 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"
MISSING = ("truncated", "half_counts", "zero_counts", "far_offsets")
Damage = Callable[[bytearray, np.random.Generator], bytes]


def picture() -> np.ndarray:
    small = np.random.default_rng(5).integers(0, 200, (64, 80, 3), np.uint8)
    return cv2.resize(small, (320, 256), interpolation=cv2.INTER_CUBIC)


def write_bases(folder: Path) -> dict[str, Path]:
    """One undamaged file for each reader and storage."""
    pixels, bases = picture(), {}
    jpeg = {"compression": "jpeg", "photometric": "rgb"}
    tiffs = {
        "jpeg": jpeg,
        "svs": {**jpeg, "bigtiff": True, "description": APERIO},
        "j2k": {"compression": 33005, "photometric": "rgb", "description": APERIO,
                "compressionargs": {"codecformat": "j2k", "level": 40}},
        "lzw": {"compression": "lzw", "photometric": "rgb"},
    }  # fmt: skip
    for name, options in tiffs.items():
        bases[name] = folder / f"{name}.tif"
        big = bool(options.pop("bigtiff", False))
        with tifffile.TiffWriter(bases[name], bigtiff=big) as tiff:
            for factor in (1, 2):
                tiff.write(
                    np.ascontiguousarray(pixels[::factor, ::factor]), tile=(64, 64), metadata=None,
                    subfiletype=int(factor > 1), **options,
                )  # fmt: skip
    bases["flat"] = folder / "flat.tif"
    tifffile.imwrite(bases["flat"], pixels, photometric="rgb", compression="deflate", rowsperstrip=32, metadata=None)
    for kind in ("png", "jpeg"):
        bases[f"plain-{kind}"] = folder / f"plain.{kind}"
        Image.fromarray(pixels).save(bases[f"plain-{kind}"], format=kind)
    return bases


def tags_of(data: bytes, page: int = 0) -> dict[int, tuple[int, int]]:
    """Where each tag's value lies, and how many bytes one of its values has."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        return {
            tag.code: (tag.valueoffset, max(1, tag.valuebytecount // max(1, tag.count)))
            for tag in tiff.pages[page].aspage().tags
        }


def put(data: bytearray, place: int, value: int, size: int) -> None:
    data[place : place + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def truncated(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: int(rng.integers(0, len(data)))])


def flipped(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, len(data), int(rng.integers(1, 9))):
        data[at] ^= int(rng.integers(1, 256))
    return bytes(data)


def flipped_head(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, min(len(data), 700), int(rng.integers(1, 5))):
        data[at] ^= int(rng.integers(1, 256))
    return bytes(data)


def zeroed(data: bytearray, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data)))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    return bytes(data)


def cyclic(data: bytearray, rng: np.random.Generator) -> bytes:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        big, offsets = tiff.is_bigtiff, [page.aspage().offset for page in tiff.pages]
        count = len(tiff.pages[len(offsets) - 1].aspage().tags)
    last = offsets[-1] + (8 + 20 * count if big else 2 + 12 * count)
    put(data, last, int(rng.choice(offsets)), 8 if big else 4)
    return bytes(data)


def absurd_sizes(data: bytearray, rng: np.random.Generator) -> bytes:
    tags = tags_of(data)
    for code in rng.choice([256, 257, 322, 323, 278], int(rng.integers(1, 4)), replace=False):
        if int(code) in tags:
            place, size = tags[int(code)]
            put(data, place, int(rng.choice([0, 1, 65_535, 1_000_000, 2**31 - 1, 2**32 - 1])), size)
    return bytes(data)


def _some_blocks(data: bytearray, rng: np.random.Generator, code: int, change: Callable[[int], int]) -> bytes:
    tags = tags_of(data)
    place, size = tags[code if code in tags else {324: 273, 325: 279}[code]]
    for index in rng.integers(0, 8, 3):
        at = place + int(index) * size
        put(data, at, change(int.from_bytes(data[at : at + size], "little")), size)
    return bytes(data)


def half_counts(data: bytearray, rng: np.random.Generator) -> bytes:
    return _some_blocks(data, rng, 325, lambda count: count // 2)


def zero_counts(data: bytearray, rng: np.random.Generator) -> bytes:
    return _some_blocks(data, rng, 325, lambda count: 0)


def huge_counts(data: bytearray, rng: np.random.Generator) -> bytes:
    more = int(rng.choice([50, 2**30, 2**31 - 1]))
    return _some_blocks(data, rng, 325, lambda count: count + more)


def far_offsets(data: bytearray, rng: np.random.Generator) -> bytes:
    return _some_blocks(data, rng, 324, lambda offset: offset + 10**9)


def not_an_image(data: bytearray, rng: np.random.Generator) -> bytes:
    heads = [
        b"",
        b"<html>",
        b"PK\3\4",
        b"\x1f\x8b\x08",
        b"II*\0",
        b"MM\0+\0\x08\0\0",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
    ]
    return heads[int(rng.integers(len(heads)))] + rng.bytes(int(rng.integers(0, 3000)))


EVERY: tuple[Damage, ...] = (truncated, flipped, flipped_head, zeroed, not_an_image)
OF_TIFF: tuple[Damage, ...] = (cyclic, absurd_sizes, half_counts, zero_counts, huge_counts, far_offsets)


def damaged_files(folder: Path, bases: dict[str, Path], numbers: range) -> list[tuple[Path, str, str]]:
    """(file, base, damage) of a numbered part of the set; a number always makes the same file."""
    turns = [(base, damage) for damage in (truncated, flipped, *EVERY, *OF_TIFF) for base in bases
             if damage in EVERY or bases[base].suffix == ".tif"]  # fmt: skip
    made = []
    for number in numbers:
        base, damage = turns[number % len(turns)]
        path = folder / f"smith-{number}{bases[base].suffix}"
        path.write_bytes(damage(bytearray(bases[base].read_bytes()), np.random.default_rng([number, 9])))
        made.append((path, base, damage.__name__))
    return made


def run_child(lines: list[str]) -> dict[str, dict[str, object]]:
    """What became of each file. A child that dies fails the test with the name of the file it died of."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(CHILD), str(LIMIT_BYTES)], input="\n".join(lines) + "\n",
        capture_output=True, text=True, check=False, cwd=CHILD.parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join([str(CHILD.parents[2]), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    last = told[-1] if told else {}
    assert done.returncode == 0, f"died ({done.returncode}) of {last}: {done.stderr[-2000:]}"
    return {one["path"]: one for one in told if "path" in one}


def is_one_reason(text: object) -> bool:
    return isinstance(text, str) and 10 < len(text) < 1000 and "\n" not in text and "smith" not in text


def judge(base: str, damage: str, told: dict[str, object]) -> str | None:
    """What is wrong with what became of a file, or None."""
    if not told["opened"]:
        return None if is_one_reason(told["reason"]) else f"no clear reason: {told['reason']}"
    if told["overview"] and not is_one_reason(told["overview"]):
        return f"no clear reason: {told['overview']}"
    tiles = told["tiles"]
    assert isinstance(tiles, dict)
    for name, result in tiles.items():
        if result.startswith("error: "):
            if not is_one_reason(result[7:]):
                return f"no clear reason for tile {name}: {result}"
        elif result == "white" or (result == "differs" and damage in MISSING):
            return f"tile {name} is {result}, read by {told['reader']}"
    return None


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = write_bases(tmp_path_factory.mktemp("bases"))
    told = run_child([str(path) for path in found.values()])
    readers = {name: told[str(path)]["reader"] for name, path in found.items()}
    assert readers == {
        "jpeg": "jpeg", "svs": "jpeg", "j2k": "jpeg", "lzw": "openslide", "flat": "image", "plain-png": "image",
        "plain-jpeg": "image",
    }  # fmt: skip
    assert not any("error" in result for one in told.values() for result in one["tiles"].values())  # type: ignore[attr-defined]
    return found


def check(folder: Path, bases: dict[str, Path], numbers: range) -> None:
    files = damaged_files(folder, bases, numbers)
    told = run_child([f"{path}\t{bases[base]}.npz" for path, base, _ in files])
    wrong = [
        f"{path.name} ({base}, {damage}): {complaint}"
        for path, base, damage in files
        if (complaint := judge(base, damage, told[str(path)]))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("start", range(0, QUICK, 50))
def test_damaged_files(tmp_path, bases, start):
    check(tmp_path, bases, range(start, start + 50))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(QUICK, WHOLE, 50))
def test_more_damaged_files(tmp_path, bases, start):
    check(tmp_path, bases, range(start, start + 50))


def test_a_cut_at_every_byte_of_a_block_is_noticed(tmp_path):
    """Also at its very end: libjpeg would fill in grey, and say so in a warning only."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture()[:64, :64], tile=(64, 64), compression="jpeg", photometric="rgb", metadata=None)
    from pathotune_pipeline.slides.jpeg_blocks import BlockDecoder
    from pathotune_pipeline.slides.tiff_pages import FileBytes, read_tiled_pages

    file = FileBytes(path)
    (page,) = read_tiled_pages(file)
    block = file.read(int(page.offsets[0]), int(page.counts[0]))
    out = np.empty((64, 64, 3), np.uint8)
    BlockDecoder(page).decode(block, out)
    for end in range(len(block)):
        with pytest.raises(ValueError):
            BlockDecoder(page).decode(block[:end], out)
    assert struct.unpack(">H", block[-2:])[0] == 0xFFD9
