"""Committed groups for tests, without a slide behind them."""

from __future__ import annotations

import numpy as np

from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore


def put(
    store: FeatureStore, name: SetName, slide: str, digit: str, arrays: dict[str, np.ndarray], **facts: object
) -> str:
    """Commit a group whose fingerprint is one digit over and over; gives its path."""
    fingerprint = digit * 64
    group = f"{slide}/{name.group(fingerprint[:12])}"
    head = {"slide_id": slide, "fingerprint": fingerprint, "group": group, "identity": f"of-{slide}", **facts}
    with store.stage(slide, slide, name, fingerprint) as staged:
        for array, data in arrays.items():
            staged.put(array, data)
        staged.commit(head, head)
    return group
