"""A search for planted words through everything that was written: names of files, bytes, packed bytes, arrays of stores."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pathotune_pipeline.store import open_store


def places_of(words: Iterable[str], *folders: Path) -> dict[str, list[str]]:
    """Where each word stands below folders, in whatever case; words that stand nowhere are left out."""
    wanted = {word: word.lower().encode() for word in words}
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            where = str(path.relative_to(folder.parent))
            texts = [where.lower().encode()]
            if path.is_file() and not path.is_symlink():
                texts += [data.lower() for data in _unpacked(path.read_bytes())]
            for word, small in wanted.items():
                if any(small in text for text in texts):
                    found.setdefault(word, []).append(where)
    return found


def places_in_arrays(words: Iterable[str], store: Path) -> list[str]:
    """Arrays of a store that hold a word: their chunks are packed, and would hide it."""
    opened, wanted = open_store(store), [word.lower().encode() for word in words]
    return [
        f"{record.group}/{array.basename}"
        for name in opened.sets()
        for record in opened.records(name).values()
        for array in opened.group(record).array_values()
        if any(word in array[...].tobytes().lower() for word in wanted)
    ]


def _unpacked(data: bytes) -> Iterator[bytes]:
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for each in packed.infolist():
                yield each.filename.encode()
                yield packed.read(each)
    if data[:2] in (b"\x78\x9c", b"\x78\x01", b"\x78\xda"):
        yield zlib.decompress(data)
