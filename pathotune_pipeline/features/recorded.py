"""A slide's file, opened as the one that committed features were made of."""

from __future__ import annotations

from typing import Any

from pathotune_pipeline.archive.identity import content_hash
from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.errors import SlideChangedError, SlideError
from pathotune_pipeline.slides.open import open_checked
from pathotune_pipeline.slides.slide import Slide, SlideSpec
from pathotune_pipeline.store.store import CommitRecord, FeatureStore


def open_recorded(store: FeatureStore, record: CommitRecord, item: SlideItem, *, known: bool = False) -> Slide:
    """Open a slide whose tiles are to be read again as they were when its features were made.

    Args:
        store: of the record.
        record: of the features.
        item: the slide's file.
        known: the file has been held against the record before.

    Raises:
        SlideError: the features were made of stain-normalised tiles, or the file cannot be opened.
        SlideChangedError: the file is another one.
    """
    settings: Any = dict(store.group(record).attrs).get("settings") or {}
    if (settings.get("tiles") or {}).get("stain", "none") != "none":
        raise SlideError("its features were made of stain-normalised tiles, which are not at hand here.")
    if not known and record.facts.get("identity") not in (None, content_hash(item.path)):
        raise SlideChangedError("its file is not the one that its features were made of. Extract it again.")
    return open_checked(item.path, SlideSpec.parse(settings.get("slide") or {}), mpp=item.mpp)
