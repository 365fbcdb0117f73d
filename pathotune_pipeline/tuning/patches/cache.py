"""Decoded patches kept on disk, under what decides their pixels: a study that runs again decodes nothing.

A folder for each set: `images.npy`, uint8 [K, S, S, 3], and `manifest.json`, which says what could not be read. It is
written aside, flushed, and renamed, so it is there whole or not at all; one process makes a set while others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathotune_pipeline.archive.companions import state_of
from pathotune_pipeline.archive.identity import IdentityCache, content_hash
from pathotune_pipeline.errors import SlideError, UsageError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.provenance import fingerprint
from pathotune_pipeline.spec import hashed_values
from pathotune_pipeline.store.files import parse_json, sync_folder, sync_tree, to_json
from pathotune_pipeline.tuning.patches.decode import CropSpec, Decoded
from pathotune_pipeline.tuning.patches.ref import PatchRef

REVISION = 1
"""Raised by hand whenever the pixels of a patch change."""
_KEY_DIGITS = 32
_COPIED_PATCHES = 256


@dataclass(frozen=True, slots=True)
class Kept:
    """Decoded patches.

    Attributes:
        images: uint8 [K, S, S, 3], of the patches that could be read, in their order.
        decoded: what could not be read, and how many patches are white beyond an edge.
    """

    images: np.ndarray
    decoded: Decoded


Decode = Callable[[np.ndarray], Decoded]
"""Fills uint8 [N, S, S, 3]."""


def patch_identities(folder: Path, refs: Sequence[PatchRef]) -> dict[Path, str]:
    """The SHA-256 of every file that patches come from; one that cannot be read has its reason instead.

    Args:
        folder: the cache, which remembers hashes by path, size and time of change.
        refs: the patches.
    """
    known = IdentityCache(folder / "identities.json")
    found: dict[Path, str] = {}
    new = 0
    for path in dict.fromkeys(ref.path for ref in refs):
        state = state_of(path)
        identity = known.of_state(state)
        if identity is None:
            try:
                identity = content_hash(path)
                known.put(path, identity, state=state)
                new += 1
            except (SlideError, OSError) as error:
                identity = f"unreadable: {type(error).__name__}"
        found[path] = identity
    if new:
        with _locked(folder / ".identities.lock"):
            known.save()
    return found


def patches_key(refs: Sequence[PatchRef], crop: CropSpec, identities: dict[Path, str]) -> str:
    """What decides the pixels of a set, as a fingerprint; labels, groups and names do not."""
    patches = hashlib.sha256()
    for ref in refs:
        x, y = ref.centre or (None, None)
        patches.update(f"{identities[ref.path]} {x!r} {y!r}\n".encode())
    parts = {
        "side_px": crop.side_px,
        "mpp": crop.mpp,
        "refuse_edge": crop.refuse_edge,
        "slide": hashed_values(crop.slide),
        "patches": patches.hexdigest(),
    }
    return fingerprint("patches", REVISION, parts)[:_KEY_DIGITS]


def keep_decoded(folder: Path, refs: Sequence[PatchRef], crop: CropSpec, decode: Decode) -> Kept:
    """Patches mapped from disk; decoded first where they are not there.

    Args:
        folder: the cache.
        refs: the patches.
        crop: how they are read.
        decode: fills uint8 [N, side_px, side_px, 3].

    Raises:
        UsageError: the disk has no room, or the folder cannot be written.
    """
    shape = (len(refs), crop.side_px, crop.side_px, 3)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = patches_key(refs, crop, patch_identities(folder, refs))
        place = folder / key
        if (kept := _read(place, shape)) is not None:
            return kept
        with _locked(folder / f".{key}.lock"):
            kept = _read(place, shape)  # another process may have made it meanwhile
            return kept if kept is not None else _make(place, shape, decode)
    except OSError as error:
        raise UsageError(
            f"patches.cache {folder}: cannot be used ({error.strerror or error}). Name a folder that can be written."
        ) from None


def _make(place: Path, shape: tuple[int, int, int, int], decode: Decode) -> Kept:
    for stale in place.parent.glob(f".{place.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)  # of a process that was killed: this one holds the lock
    shutil.rmtree(place, ignore_errors=True)  # what `_read` did not accept
    size, free = int(np.prod(shape)), shutil.disk_usage(place.parent).free
    if size > free:
        raise UsageError(
            f"patches.cache {place.parent}: {shape[0]} patches of {shape[1]} px take {size / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free. Name another folder, or ask for smaller patches."
        )
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
    aside.mkdir()
    try:
        images = _new_array(aside / "images.npy", shape)
        decoded = decode(images)
        images.flush()
        if 0 < len(decoded.unreadable) < shape[0]:
            _leave_out(aside / "images.npy", images, decoded)
        del images
        told = {"shape": shape, "unreadable": decoded.unreadable, "padded": decoded.padded}
        (aside / "manifest.json").write_bytes(to_json({"format": "pathotune-patches", "revision": REVISION, **told}))
        sync_tree(aside)
        failpoint("patches.written")
        aside.rename(place)
        sync_folder(place.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    kept = _read(place, shape)
    if kept is None:
        raise UsageError(f"patches.cache {place.parent}: what was written does not read back. Look at the disk.")
    return kept


def _new_array(file: Path, shape: tuple[int, ...]) -> np.memmap:
    """A mapped array whose place on the disk is reserved: a full disk is an error here, not a signal while it is filled."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return array


def _leave_out(file: Path, images: np.ndarray, decoded: Decoded) -> None:
    """Rewrite a file without the patches that could not be read."""
    good = np.array([place for place in range(len(images)) if place not in decoded.unreadable], np.int64)
    shorter = file.with_name("shorter.npy")
    target = _new_array(shorter, (len(good), *images.shape[1:]))
    for start in range(0, len(good), _COPIED_PATCHES):
        chosen = good[start : start + _COPIED_PATCHES]
        target[start : start + len(chosen)] = images[chosen]
    target.flush()
    del target
    shorter.replace(file)


def _read(place: Path, shape: tuple[int, int, int, int]) -> Kept | None:
    """What lies there, or None where it is absent or not what it should be."""
    try:
        told = parse_json((place / "manifest.json").read_bytes())
        unreadable = {int(at): str(why) for at, why in told["unreadable"].items()}
        decoded = Decoded(unreadable, int(told["padded"]))
        count = shape[0] - len(unreadable)
        if told["revision"] != REVISION or tuple(told["shape"]) != shape:
            return None
        if not count:
            return Kept(np.zeros((0, *shape[1:]), np.uint8), decoded)
        images = np.load(place / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if images.shape != (count, *shape[1:]) or images.dtype != np.uint8:
        return None
    return Kept(images, decoded)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
