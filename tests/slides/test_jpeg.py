"""The direct reader against OpenSlide: the same facts and the same pixels, or a refusal."""

from __future__ import annotations

import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import psutil
import pytest
import tifffile

from pathotune_pipeline.errors import TileReadError, UnreadableSlideError
from pathotune_pipeline.slides import SlideSpec, jpeg_blocks, open_slide, plan_region, read_planned
from pathotune_pipeline.slides.block_cache import BlockCache
from pathotune_pipeline.slides.slide import read_into
from pathotune_pipeline.slides.tiff_pages import FileBytes, read_tiled_pages

DIRECT = SlideSpec(reader="jpeg")
APERIO = "Aperio Image Library v11.2.1 \r\n300x200 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 255, (height // 6, width // 6, channels), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def assert_same(path: Path) -> None:
    """Facts equal OpenSlide's; on integer levels the pixels do where alpha is 255, and are white where it is 0."""
    direct, theirs = open_slide(path, DIRECT), open_slide(path, SlideSpec(reader="openslide"))
    assert replace(direct.info, reader="openslide") == theirs.info
    with openslide.OpenSlide(path) as handle:
        for index, level in enumerate(direct.info.levels):
            factor = int(level.downsample)
            if factor != level.downsample:
                continue
            width, height = level.size.width, level.size.height
            rng = np.random.default_rng(index)
            corners = [(0, 0), (-30, -20), (width - 150, height - 130), (width - 1, 0), (width + 5, 5)]
            corners += [(int(x), int(y)) for x, y in zip(rng.integers(0, width, 4), rng.integers(0, height, 4))]  # noqa: B905
            for x, y in corners:
                place = (x * factor, y * factor)
                rgba = np.asarray(handle.read_region(place, index, (200, 180)))
                ours = direct.read_region(place, index, (200, 180))
                seen = rgba[..., 3] == 255
                np.testing.assert_array_equal(ours[seen], rgba[seen][:, :3])
                assert (ours[~seen] == 255).all()
                assert (rgba[~seen][:, 3] == 0).all()


LAYOUTS = {
    "444": {"photometric": "ycbcr", "subsampling": (1, 1)},
    "422": {"photometric": "ycbcr", "subsampling": (2, 1)},
    "420": {"photometric": "ycbcr", "subsampling": (2, 2)},
    "default": {"photometric": "rgb"},
    "rgb": {"photometric": "rgb", "compressionargs": {"level": 90, "outcolorspace": "rgb"}},
}


@pytest.mark.parametrize("aperio", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bigtiff", [False, True])
def test_layouts_of_jpeg(tmp_path, layout, bigtiff, aperio):
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=">" if bigtiff else "<") as tiff:
        for factor in (1, 2):
            tiff.write(
                cv2.resize(noise(200, 300), (300 // factor, 200 // factor)), tile=(64, 64), compression="jpeg",
                metadata=None, subfiletype=int(factor > 1), description=APERIO if aperio else None, **LAYOUTS[layout],
            )  # fmt: skip
    assert open_slide(path).info.vendor == ("aperio" if aperio else "generic-tiff")
    assert_same(path)


def patch_tag(path: Path, tag: int, value: int) -> None:
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].aspage().tags[tag].valueoffset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack("<H", value))


@pytest.mark.parametrize("aperio", [False, True])
def test_the_tag_says_what_components_mean(tmp_path, aperio):
    # An encoder's JFIF marker says YCbCr: PhotometricInterpretation goes before it, in both directions.
    path = tmp_path / "a.svs"
    tifffile.imwrite(
        path, noise(130, 200), tile=(64, 64), compression="jpeg", photometric="ycbcr", metadata=None,
        subsampling=(1, 1), description=APERIO if aperio else None,
    )  # fmt: skip
    before = open_slide(path).read_region((0, 0), 0, (130, 130))
    patch_tag(path, 262, 2)
    assert_same(path)
    after = open_slide(path).read_region((0, 0), 0, (130, 130))
    assert np.abs(after.astype(int) - before).mean() > 20


def tables_apart(path: Path) -> None:
    """Rewrite a one-page TIFF with abbreviated blocks whose tables lie in JPEGTables."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        pixels, (height, width) = page.asarray(), page.shape[:2]
        blocks = []
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            tiff.filehandle.seek(offset)
            blocks.append(tiff.filehandle.read(count))
    del pixels
    segments, _ = jpeg_blocks._segments(blocks[0])
    tables = b"\xff\xd8" + b"".join(data for marker, data in segments if marker in (0xDB, 0xC4)) + b"\xff\xd9"
    bare = []
    for block in blocks:
        own, scan = jpeg_blocks._segments(block)
        bare.append(b"\xff\xd8" + b"".join(data for marker, data in own if 0xC0 <= marker <= 0xC2) + block[scan:])
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(bare), shape=(height, width, 3), dtype=np.uint8, tile=(64, 64), compression="jpeg",
            photometric="ycbcr", subsampling=(2, 2), jpegtables=tables, metadata=None,
        )  # fmt: skip


def test_abbreviated_streams_with_shared_tables(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(130, 200), tile=(64, 64), compression="jpeg", photometric="rgb", metadata=None)
    whole = open_slide(path).read_region((0, 0), 0, (200, 130))
    tables_apart(path)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].aspage().jpegtables is not None
    assert open_slide(path).info.reader == "jpeg"
    np.testing.assert_array_equal(open_slide(path).read_region((0, 0), 0, (200, 130)), whole)
    assert_same(path)


def test_grey_slides(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(130, 200)[..., 0], tile=(64, 64), compression="jpeg", photometric="minisblack")
    assert open_slide(path).info.reader == "jpeg"
    assert_same(path)


def test_jpeg2000(tmp_path):
    path = tmp_path / "a.svs"
    tifffile.imwrite(
        path, noise(130, 200), tile=(64, 64), compression=33005, photometric="rgb", metadata=None, description=APERIO,
        compressionargs={"codecformat": "j2k", "level": 40, "mct": True},
    )  # fmt: skip
    assert open_slide(path).info.reader == "jpeg"
    assert_same(path)


def test_a_block_never_scanned_is_white_and_one_without_bytes_is_an_error(tmp_path):
    path = tmp_path / "a.tif"
    pixels = noise(128, 192)
    tiles = [pixels[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64, 128)]
    tiles[1] = None
    tifffile.imwrite(
        path, iter(tiles), shape=(128, 192, 3), dtype=np.uint8, tile=(64, 64), compression="jpeg", photometric="rgb",
        metadata=None,
    )  # fmt: skip
    assert_same(path)
    slide = open_slide(path)
    assert slide.info.reader == "jpeg"
    assert (slide.read_region((64, 0), 0, (64, 64)) == 255).all()
    (page,) = read_tiled_pages(FileBytes(path))
    assert page.counts[1] == page.offsets[1] == 0
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].aspage().tags[325]
        place, itemsize = tag.valueoffset, tag.valuebytecount // 6
    with path.open("r+b") as file:
        file.seek(place + 2 * itemsize)
        file.write(bytes(itemsize))
    damaged = open_slide(path)
    with pytest.raises(TileReadError, match="claims 0 bytes"):
        damaged.read_region((128, 0), 0, (64, 64))
    assert damaged.read_region((0, 0), 0, (64, 64)).mean() < 250


def test_what_is_not_covered_is_left_to_the_others(tmp_path):
    rgb = noise(128, 128)
    cases = {
        "lzw": (rgb, {"compression": "lzw", "photometric": "rgb"}, "compression 5"),
        "deep": (rgb.astype(np.uint16), {"photometric": "rgb"}, "compression 1"),
        "planar": (
            np.moveaxis(rgb, -1, 0), {"compression": "jpeg", "photometric": "rgb", "planarconfig": "separate"},
            "planar configuration 2",
        ),
        "ome": (rgb, {"compression": "jpeg", "photometric": "rgb", "subifds": 1}, "sub-directories"),
    }  # fmt: skip
    for name, (pixels, options, reason) in cases.items():
        path = tmp_path / f"{name}.tif"
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(pixels, tile=(64, 64), metadata=None, **options)
            if "subifds" in options:
                tiff.write(rgb[::2, ::2], tile=(64, 64), metadata=None, compression="jpeg", photometric="rgb")
        with pytest.raises(UnreadableSlideError, match=reason):
            open_slide(path, DIRECT)
    assert open_slide(tmp_path / "lzw.tif").info.reader == "openslide"


def test_real_slides_equal_openslide(real_slides: Path):
    direct = []
    for path in sorted(real_slides.iterdir()):
        try:
            open_slide(path, DIRECT)
        except UnreadableSlideError:
            continue
        direct.append(path.name)
        if path.name != "unreadable.svs":
            assert_same(path)
    assert direct == [
        "absurd-mpp.tiff", "cmu-1-small-region.svs", "crc01.tif", "tcga-cr-7395-01a-01-ts1.svs", "tiny-16px.svs",
        "two-pieces.tif", "unreadable.svs",
    ]  # fmt: skip


def test_each_block_is_decoded_once_whatever_the_threads(pyramid, monkeypatch):
    path, _ = pyramid
    whole = open_slide(path).read_region((0, 0), 0, (640, 480))
    decoded, lock = [], threading.Lock()
    real = jpeg_blocks.BlockDecoder.decode

    def count(self, data, out):
        with lock:
            decoded.append(data)
        real(self, data, out)

    monkeypatch.setattr(jpeg_blocks.BlockDecoder, "decode", count)
    slide = open_slide(path, DIRECT)
    places = [(x, y) for y in range(0, 448, 30) for x in range(0, 608, 30)]
    with ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(lambda at: slide.read_region(at, 0, (30, 30)), places))
    for (x, y), tile in zip(places, tiles, strict=True):
        np.testing.assert_array_equal(tile, whole[y : y + 30, x : x + 30])
    assert len(decoded) == len(set(decoded)) == 80


def test_aligned_tiles_are_decoded_into_the_callers_memory(pyramid, monkeypatch):
    seen = []
    real = jpeg_blocks.BlockDecoder.decode
    monkeypatch.setattr(
        jpeg_blocks.BlockDecoder, "decode", lambda self, data, out: (seen.append(out), real(self, data, out))[1]
    )
    slide = open_slide(pyramid[0], mpp=0.5)
    batch = np.zeros((2, 64, 64, 3), np.uint8)
    read_planned(slide, plan_region(slide.info, 0.5, (64, 64)), location=(128, 64), out=batch[1])
    assert np.shares_memory(seen[0], batch)
    np.testing.assert_array_equal(batch[1], slide.read_region((128, 64), 0, (64, 64)))


@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0, 0.48])
@pytest.mark.parametrize("reader", ["jpeg", "openslide"])
def test_reading_into_memory_equals_reading(pyramid, mpp, reader):
    slide = open_slide(pyramid[0], SlideSpec(reader=reader))
    plan = plan_region(slide.info, mpp, (50, 40))
    out = np.zeros((40, 50, 3), np.uint8)
    assert read_planned(slide, plan, location=(600, 31), out=out) is out
    np.testing.assert_array_equal(out, read_planned(slide, plan, location=(600, 31)))
    strided = np.zeros((40, 100, 3), np.uint8)[:, ::2]
    read_into(slide, (64, 64), 0, out=strided)
    np.testing.assert_array_equal(strided, slide.read_region((64, 64), 0, (50, 40)))


def test_the_cache_is_bounded_and_uses_its_buffers_again():
    cache = BlockCache(4 * 300)
    buffers = set()
    for key in range(50):
        block = cache.acquire(key, (10, 10, 3), lambda out, key=key: out.fill(key))
        assert (block.pixels == key).all()
        buffers.add(block.pixels.ctypes.data)
        cache.release(block)
        assert cache.nbytes <= 4 * 300
    assert len(buffers) == 4
    held = [cache.acquire(key, (10, 10, 3), lambda out: out.fill(7)) for key in range(100, 108)]
    assert cache.nbytes == 8 * 300  # what is being read is never taken away
    for block in held:
        cache.release(block)
    with pytest.raises(TileReadError, match="broken"):
        cache.acquire("bad", (10, 10, 3), fail)
    assert "bad" not in cache
    assert cache.nbytes <= 4 * 300


def fail(out: np.ndarray) -> None:
    raise TileReadError("broken")


def test_a_long_walk_keeps_its_memory(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(1536, 2048), tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None)
    slide = open_slide(path, DIRECT, mpp=0.5)
    plan = plan_region(slide.info, 0.5, (224, 224))
    out, process = np.empty((32, 224, 224, 3), np.uint8), psutil.Process()
    begin = 0
    for number in range(3000):
        read_planned(slide, plan, location=(number % 9 * 224, number // 9 % 6 * 224), out=out[number % 32])
        if number == 300:
            begin = process.memory_info().rss
    assert process.memory_info().rss - begin < 50e6


def test_closing_lets_go_of_the_file(pyramid):
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else pytest.skip("no /proc")
    slide = open_slide(pyramid[0], DIRECT)
    slide.read_region((0, 0), 0, (10, 10))
    slide.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_srgb_follows_the_profile(tmp_path, real_slides: Path):
    svs = real_slides / "tcga-cr-7395-01a-01-ts1.svs"
    raw = open_slide(svs)
    assert raw.info.icc is not None
    assert len(raw.info.icc) == 16
    srgb = open_slide(svs, SlideSpec(color="srgb"), mpp=0.5)
    assert srgb.info.icc == raw.info.icc
    a, b = (slide.read_region((512, 512), 0, (256, 256)).astype(int) for slide in (raw, srgb))
    assert 0 <= np.abs(a - b).mean() < 6  # its profile is sRGB, nearly
    assert open_slide(svs, SlideSpec(reader="openslide")).info.icc == raw.info.icc


def wide_profile() -> bytes:
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.find(b"rXYZ"), profile.find(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"  # red and green change places
    return bytes(profile)


@pytest.mark.parametrize("reader", ["jpeg", "openslide"])
def test_a_profile_that_swaps_red_and_green(tmp_path, reader):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.full((128, 128, 3), (200, 60, 120), np.uint8), tile=(64, 64), compression="jpeg", photometric="rgb",
        iccprofile=wide_profile(), metadata=None,
    )  # fmt: skip
    raw, srgb = (open_slide(path, SlideSpec(reader=reader, color=color)) for color in ("raw", "srgb"))
    red, green, _ = raw.read_region((0, 0), 0, (1, 1))[0, 0].astype(int)
    swapped = srgb.read_region((0, 0), 0, (1, 1))[0, 0].astype(int)
    assert abs(swapped[0] - green) < 12
    assert abs(swapped[1] - red) < 12
    assert (srgb.read_region((500, 500), 0, (4, 4)) == 255).all()
