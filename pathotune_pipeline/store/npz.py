"""Arrays in files that others may have made: no objects are made of them, and no more bytes than their size promises."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

SMALL_BYTES = 64 << 20
"""An array up to this size may be packed as tightly as its maker liked."""
MOST_INFLATED = 100
"""A larger one may be so many times as large as it lies in the file; true ones are noise to a packer."""

DAMAGED = (EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What reading an array raises, besides ValueError and OSError, where its bytes are not what they should be."""


def open_npz(path: Path) -> np.lib.npyio.NpzFile:
    """Open an `.npz`; an array is read when it is asked for.

    Raises:
        OSError: it is not there.
        ValueError: it is none, or an array in it is packed so tightly that nothing but an attack explains it.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            for each in packed.infolist():
                if each.file_size > max(SMALL_BYTES, MOST_INFLATED * each.compress_size):
                    raise ValueError(
                        f"{each.filename} would unpack {each.compress_size} bytes to {each.file_size}; it is not unpacked"
                    )
        found = np.load(path, allow_pickle=False)
    except DAMAGED as error:
        raise ValueError(f"it is no .npz ({error})") from None
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise ValueError("it is no .npz")
    return found
