"""What the viewer can show: slides of a feature set, by handles that name no file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.archive.manifest import Manifest, SlideItem
from pathotune_pipeline.geometry import Size
from pathotune_pipeline.reports.collect import SlideRow, choose_set, collect
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.store.runs import read_runs
from pathotune_pipeline.store.store import FeatureStore


def handle_of(slide_id: str) -> str:
    """A slide's name in addresses: hexadecimal digits, whatever its id."""
    return hashlib.sha256(slide_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class ShownSlide:
    """A slide that can be looked at.

    Attributes:
        row: what the store says of it.
        item: where its file lies; None where no folder was given, or it is not there.
    """

    row: SlideRow
    item: SlideItem | None = field(default=None, repr=False)

    @property
    def slide_id(self) -> str:
        return self.row.slide_id

    @property
    def key(self) -> str:
        """Its name inside the store."""
        return key_of(self.row.slide_id)

    @property
    def size(self) -> Size | None:
        """In level-0 pixels, as its features know it."""
        return Size(*self.row.size_px) if self.row.size_px else None


class Catalogue:
    """The slides of one feature set. A request names a slide by its handle and reaches nothing else."""

    def __init__(self, store: FeatureStore, *, features: str | None = None, slides: Manifest | None = None) -> None:
        """Read what the store holds.

        Args:
            store: an existing store.
            features: the feature set, in full or its beginning; the newest where None.
            slides: where the slides' files lie; without, only stored overviews are shown.

        Raises:
            UsageError: no such feature set.
        """
        self.store = store
        chosen = choose_set(store, read_runs(store.runs), asked=features, of_models=())
        view = collect(store, chosen)
        items = {item.slide_id: item for item in slides.items} if slides else {}
        self.name, self.features = view.name, view.features
        self.slides: Mapping[str, ShownSlide] = {
            handle_of(row.slide_id): ShownSlide(row, items.get(row.slide_id)) for row in view.slides
        }
        settings: Any = dict(view.settings)
        self.slide_spec = SlideSpec(color="srgb" if settings.get("slide.color") == "srgb" else "raw")

    def of(self, handle: str) -> ShownSlide | None:
        """The slide of a handle; None where there is none."""
        return self.slides.get(handle)


def listed(slide: ShownSlide, handle: str) -> dict[str, Any]:
    """What the list says of a slide."""
    row = slide.row
    return {
        "handle": handle, "slide_id": row.slide_id, "case_id": row.case_id, "status": row.status, "reason": row.reason,
        "flags": [*row.flags], "tiles": row.tiles, "file": slide.item is not None,
    }  # fmt: skip
