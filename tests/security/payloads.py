"""Files that run something where a program unpickles them, and what tells whether it ran."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


def pickled(mark: Path) -> bytes:
    """A bare pickle."""
    return pickle.dumps({"weight": Payload(mark)})


def torch_file(mark: Path) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save({"weight": Payload(mark)}, buffer)
    return buffer.getvalue()


def object_array(mark: Path) -> bytes:
    """An .npy of objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def object_arrays(mark: Path, *names: str) -> bytes:
    """An .npz of objects."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name in names:
            packed.writestr(f"{name}.npy", object_array(mark))
    return buffer.getvalue()


def zip_bomb(path: Path, name: str, megabytes: int) -> None:
    """An .npz of one array of zeros, packed to a thousandth of its size."""
    block = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open(f"{name}.npy", "w") as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": (megabytes << 18,)}
        np.lib.format.write_array_header_1_0(file, head)
        for _ in range(megabytes):
            file.write(block)
