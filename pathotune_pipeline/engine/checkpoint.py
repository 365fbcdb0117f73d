"""Tensors and what they mean, on disk: `X.safetensors` and `X.json`, all or nothing.

Each file is written beside its place, flushed to the disk and renamed. The JSON comes last and holds the SHA-256
of the tensors, so a pair that does not belong together is found out when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pathotune_pipeline.errors import CorruptDataError

_DIGEST = "tensors_sha256"


def save_checkpoint(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and their record.

    Args:
        path: without a suffix; `.safetensors` and `.json` are added. Its folder is made.
        state: name -> tensor, any dtype, any device.
        meta: plain values for the JSON; the key "tensors_sha256" is added.
    """
    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
    record = {**meta, _DIGEST: hashlib.sha256(data).hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_with(path, ".safetensors"), data)
    write_atomically(_with(path, ".json"), (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: (tensors on the CPU, record).

    Raises:
        FileNotFoundError: one of the two files is not there.
        CorruptDataError: they cannot be read, or were not written together.
    """
    tensors, record = _with(path, ".safetensors"), _with(path, ".json")
    data = tensors.read_bytes()
    try:
        meta: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        digest = meta.pop(_DIGEST)
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise CorruptDataError(f"{record}: not a checkpoint's record ({error}). Train or copy it again.") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptDataError(f"{tensors}: its content is not what {record.name} recorded. Train or copy it again.")
    try:
        return load(data), meta
    except SafetensorError as error:
        raise CorruptDataError(f"{tensors}: cannot be read ({error}). Train or copy it again.") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader sees the old content, or the new, and nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
