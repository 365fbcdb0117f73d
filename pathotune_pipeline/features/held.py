"""A job's slide while it is worked on."""

from __future__ import annotations

from pathotune_pipeline.archive.companions import state_of
from pathotune_pipeline.archive.identity import content_hash
from pathotune_pipeline.errors import SlideChangedError
from pathotune_pipeline.features.plan import SlideJob
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.tiles.stain import Normaliser


class HeldSlide:
    """A job's slide, for all its recipes: hashed once, opened when first needed, and known to be what was hashed."""

    def __init__(self, job: SlideJob) -> None:
        self.job = job
        self.store = FeatureStore(job.store)
        self.identity: str | None = None
        self.mask: str | None = None
        self.slide: Slide | None = None
        self._state: str | None = None
        self.stains: dict[str, Normaliser | None] = {}  # by the fingerprint of the tiles they were fitted to

    def identify(self) -> str:
        """The slide's content hash, taken once."""
        if self.identity is None:
            self._state = state_of(self.job.item.path)
            known = self.job.identity if self.job.state in (None, self._state) else None
            self.identity = known or content_hash(self.job.item.path)
        return self.identity

    def check_unchanged(self) -> None:
        """Make sure that what was read are the contents whose hash stands in the fingerprints.

        Raises:
            SlideChangedError: they are not.
        """
        if self._state is not None and state_of(self.job.item.path) != self._state:
            raise SlideChangedError(
                "its file changed while it was read: nothing of it is kept. Let it be copied whole, then run again."
            )

    def close(self) -> None:
        if self.slide is not None:
            self.slide.close()
