"""One block of a tiled TIFF to pixels: JPEG with shared tables and a stated colour space, and JPEG 2000.

A block of a TIFF is often an abbreviated stream whose tables lie in the page's JPEGTables, and what its three components
mean stands in PhotometricInterpretation, not in the stream. libjpeg guesses from markers, so the stream's head is written
anew once: the tables go in, and an Adobe or a JFIF marker that says what the tag says. libjpeg's warnings (a premature
end, corrupt data) are errors here: what it would fill in is no picture.
"""

from __future__ import annotations

import struct

import numpy as np

from pathotune_pipeline.errors import UnreadableSlideError
from pathotune_pipeline.slides.tiff_pages import PageLayout

JPEG, JPEG2000_YCBCR, JPEG2000_RGB = 7, 33003, 33005
GREY, RGB, YCBCR = 1, 2, 6
LARGEST_BLOCK_PIXELS = 1 << 24

_SOI = b"\xff\xd8"
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_DHT, _DQT, _DRI, _SOS, _EOI = 0xC4, 0xDB, 0xDD, 0xDA, 0xD9
_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_J2K_SIZ = b"\xff\x4f\xff\x51"


class BlockDecoder:
    """Decodes the blocks of one page. Several threads may do so at once.

    Args:
        page: where the blocks lie and how they are stored.

    Raises:
        UnreadableSlideError: the page is stored in a way that is not covered exactly.
    """

    def __init__(self, page: PageLayout) -> None:
        refuse_unless_covered(page)
        self._shape = (page.tile_height, page.tile_width)
        self._samples = page.samples
        self._jpeg = page.compression == JPEG
        self._colour = {RGB: _ADOBE_RGB, YCBCR: _JFIF, GREY: b""}[page.photometric]
        self._tables = b"".join(_tables(page.tables)) if page.tables else b""
        self._known: tuple[bytes, bytes] = (b"\0", b"")  # a block's head, and what it becomes

    def decode(self, data: bytes, out: np.ndarray) -> None:
        """Decode one block.

        Args:
            data: the block's bytes.
            out: uint8 [tile_height, tile_width, 3], contiguous, to fill.

        Raises:
            ValueError: the bytes are damaged, or hold another picture than the page's tags say.
        """
        if self._jpeg:
            self._decode_jpeg(data, out)
        else:
            _decode_jpeg2000(data, out)

    def _decode_jpeg(self, data: bytes, out: np.ndarray) -> None:
        import simplejpeg

        head, written = self._known
        if not data.startswith(head):
            head, written = self._known = self._rewrite(data)
        stream = b"".join((written, memoryview(data)[len(head) :]))
        simplejpeg.decode_jpeg(stream, "RGB", fastdct=False, fastupsample=False, buffer=out, strict=True)

    def _rewrite(self, data: bytes) -> tuple[bytes, bytes]:
        segments, end = _segments(data)
        kept = [_SOI, self._colour, self._tables]
        framed = False
        for marker, segment in segments:
            if marker in _OTHER_FRAMES:
                raise ValueError(f"its JPEG process (marker {marker:#x}) is not read")
            if marker in _FRAMES:
                self._check_frame(segment)
                framed = True
            if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                kept.append(segment)
        if end is None or not framed:
            raise ValueError("the block's JPEG stream has no picture in it")
        return data[:end], b"".join(kept)

    def _check_frame(self, segment: bytes) -> None:
        if len(segment) < 10:
            raise ValueError("the block's JPEG frame is cut short")
        bits, height, width, components = struct.unpack(">BHHB", segment[4:10])
        found, wanted = (height, width, components, bits), (*self._shape, self._samples, 8)
        if found != wanted:
            raise ValueError(
                f"the block holds {width} x {height} px of {components} components of {bits} bits; the page says "
                f"{wanted[1]} x {wanted[0]} px of {wanted[2]} of 8"
            )


def refuse_unless_covered(page: PageLayout) -> None:
    """Refuse a page whose blocks are not 8-bit grey, RGB or YCbCr in JPEG, or RGB in JPEG 2000.

    Raises:
        UnreadableSlideError: it is stored otherwise.
    """
    if page.compression not in (JPEG, JPEG2000_RGB):
        raise UnreadableSlideError(
            f"compression {page.compression}; JPEG and JPEG 2000 (RGB) blocks are read directly."
        )
    if set(page.bits) != {8} or len(page.bits) not in (1, page.samples):
        raise UnreadableSlideError(f"{max(page.bits)}-bit samples; 8-bit ones are read directly.")
    known = ((3, RGB), (3, YCBCR), (1, GREY)) if page.compression == JPEG else ((3, RGB),)
    if (page.samples, page.photometric) not in known:
        raise UnreadableSlideError(f"{page.samples} samples with photometric {page.photometric} are not read directly.")
    if page.odd:
        raise UnreadableSlideError(f"{page.odd}: not read directly.")
    if page.tile_width * page.tile_height > LARGEST_BLOCK_PIXELS:
        raise UnreadableSlideError(f"blocks of {page.tile_width} x {page.tile_height} px are not read directly.")


def refuse_unless_plain_jpeg2000(data: bytes) -> None:
    """Refuse a page whose first JPEG 2000 block is not three unsigned 8-bit components of one size.

    Raises:
        UnreadableSlideError: it is not.
    """
    if not data.startswith(_J2K_SIZ) or len(data) < 52:
        raise UnreadableSlideError("its JPEG 2000 blocks are not bare codestreams.")
    count = struct.unpack(">H", data[40:42])[0]
    if count != 3 or data[42:51] != b"\x07\x01\x01" * 3:
        raise UnreadableSlideError("its JPEG 2000 blocks are not three 8-bit components of one size.")


def _decode_jpeg2000(data: bytes, out: np.ndarray) -> None:
    import imagecodecs

    # OpenJPEG takes sizes from the stream: they are held against the page's before it allocates anything.
    if not data.startswith(_J2K_SIZ) or len(data) < 52:
        raise ValueError("the block is no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack(">4I", data[8:24])
    if (bottom - top, right - left) != out.shape[:2] or data[40:51] != b"\x00\x03" + b"\x07\x01\x01" * 3:
        raise ValueError("the block's JPEG 2000 stream holds another picture than the page says")
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError("the block's JPEG 2000 stream is cut short")
    try:
        pixels = imagecodecs.jpeg2k_decode(data, numthreads=1)
    except RuntimeError as error:  # imagecodecs' own errors derive from it
        raise ValueError(str(error)) from None
    if pixels.shape != out.shape or pixels.dtype != np.uint8:
        raise ValueError("the block's JPEG 2000 stream holds another picture than the page says")
    out[...] = pixels


def _tables(stream: bytes) -> list[bytes]:
    try:
        segments, _ = _segments(stream)
    except ValueError as error:
        raise UnreadableSlideError(f"its JPEG tables cannot be read: {error}. Copy it again.") from None
    return [segment for marker, segment in segments if marker in (_DHT, _DQT, _DRI)]


def _segments(stream: bytes) -> tuple[list[tuple[int, bytes]], int | None]:
    """The marker segments of a JPEG stream before its first scan, and where the scan's marker stands, if there is one."""
    if not stream.startswith(_SOI):
        raise ValueError("not a JPEG stream: it does not begin with SOI")
    found: list[tuple[int, bytes]] = []
    at, size, stray = 2, len(stream), 0
    while at + 2 <= size:
        marker = stream[at + 1]
        if stream[at] != 0xFF or marker in (0x00, 0xFF):  # 0xFF 0xFF is a fill byte
            stray += stream[at] != 0xFF or marker == 0x00
            at += 1
            continue
        if marker == _SOS:
            if stray:
                raise ValueError(f"Corrupt JPEG data: {stray} extraneous bytes before its first scan")
            return found, at
        if marker == _EOI:
            break
        if at + 4 > size:
            raise ValueError("premature end of the JPEG stream's head")
        length = struct.unpack_from(">H", stream, at + 2)[0]
        if length < 2:
            raise ValueError("Bogus marker length")
        if at + 2 + length > size:
            raise ValueError("premature end of the JPEG stream's head")
        if marker == _DQT and not _whole_tables(stream[at + 4 : at + 2 + length]):
            raise ValueError("Bogus marker length in its quantisation tables")
        found.append((marker, stream[at : at + 2 + length]))
        at += 2 + length
    return found, None


def _whole_tables(content: bytes) -> bool:
    """Whether a DQT segment holds tables of 64 values of 8 or 16 bits, and nothing besides."""
    at = 0
    while at < len(content):
        at += 129 if content[at] >> 4 else 65
    return at == len(content)
