"""What a study splits, made of labelled patches."""

from __future__ import annotations

import hashlib

import numpy as np

from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.studies.cell import Items, items_fingerprint

_AT_ONCE = 1024
"""Images that are hashed at once."""


def items_of(patches: PatchSet) -> Items:
    """What a study splits, known by the patches' names, labels and pixels."""
    pixels = hashlib.sha256()
    for start in range(0, len(patches), _AT_ONCE):
        pixels.update(np.ascontiguousarray(patches.images[start : start + _AT_ONCE]).tobytes())
    columns = {
        "names": patches.names,
        "labels": patches.labels.tolist(),
        "classes": patches.classes,
        "groups": patches.groups,
        "domains": patches.domains,
        "splits": patches.splits,
        "pixels": [pixels.hexdigest(), *patches.images.shape],
    }
    return Items(
        names=patches.names,
        targets=patches.labels,
        classes=patches.classes,
        groups=patches.groups,
        domains=patches.domains,
        splits=patches.splits,
        fingerprint=items_fingerprint(columns),
    )
