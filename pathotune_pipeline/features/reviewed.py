"""Slides that reviewers rejected are left out of what is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.store.reviews import rejected_keys
from pathotune_pipeline.store.store import FeatureStore

REJECTED = "rejected in review"


def rejected_among(store: FeatureStore, slide_ids: Iterable[str]) -> frozenset[str]:
    """Those of the slides whose newest verdict is reject."""
    rejected = rejected_keys(store)
    return frozenset(slide_id for slide_id in slide_ids if key_of(slide_id) in rejected) if rejected else frozenset()


def without_rejected(manifest: Manifest, store: FeatureStore) -> Manifest:
    """The manifest with the store's rejected slides passed over, and said so."""
    rejected = rejected_among(store, (item.slide_id for item in manifest.items))
    if not rejected:
        return manifest
    kept = tuple(item for item in manifest.items if item.slide_id not in rejected)
    passed_over = tuple((item.slide_id, REJECTED) for item in manifest.items if item.slide_id in rejected)
    return replace(manifest, items=kept, passed_over=(*manifest.passed_over, *passed_over))
