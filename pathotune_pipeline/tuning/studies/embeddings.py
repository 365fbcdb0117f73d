"""Features of a study's images from frozen encoders, made once and mapped from disk afterwards."""

from __future__ import annotations

import fcntl
import io
from pathlib import Path

import numpy as np
import torch

from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.provenance import fingerprint, short
from pathotune_pipeline.store.files import replace_file
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.studies.cell import Items

FOLDER = "embeddings"
REVISION = 1


def embed_patches(encoder: Encoder, patches: PatchSet, items: Items, folder: Path) -> np.ndarray:
    """An encoder's features of all patches, float32 [N, D], mapped from a file that other processes and runs share.

    The file's name holds what decides them: the encoder's weights, its resizing and normalising, and the patches. A
    process that finds another one at work waits for it.

    Args:
        encoder: frozen.
        patches: images of one size.
        items: of the same patches.
        folder: of the study.

    Raises:
        UsageError: the folder cannot be written, or features are not finite.
    """
    key = fingerprint("study-embeddings", REVISION, {"encoder": encoder.recipe(), "items": items.fingerprint})
    path = folder / FOLDER / f"{short(key)}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_whole(path, (len(patches), encoder.card.dim)):
                data = io.BytesIO()
                np.save(data, _encode(encoder, patches), allow_pickle=False)
                replace_file(path, data.getvalue())
    except OSError as error:
        told = error.strerror or type(error).__name__
        raise UsageError(f"--out {folder}: cannot keep features there ({told}). Give a folder with room.") from None
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r", allow_pickle=False).shape == shape)
    except (OSError, ValueError):
        return False


def _encode(encoder: Encoder, patches: PatchSet) -> np.ndarray:
    features = np.empty((len(patches), encoder.card.dim), np.float32)
    for start in range(0, len(patches), encoder.batch_size):
        part = slice(start, start + encoder.batch_size)
        features[part] = encoder.encode(torch.from_numpy(np.ascontiguousarray(patches.images[part]))).cpu().numpy()
    if not np.isfinite(features).all():
        raise UsageError(f"Encoder {encoder.card.name}: its features are not finite. Try --precision fp32.")
    return features
