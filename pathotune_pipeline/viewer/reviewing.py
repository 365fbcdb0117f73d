"""The seam to the store's reviews: what the viewer needs of them."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import Any, Protocol

from pathotune_pipeline.store.store import FeatureStore


class ReviewBook(Protocol):
    """What people said of slides, and a place to say more."""

    def of(self, slide_id: str, slide_key: str) -> list[dict[str, str]]:
        """Verdict, by, comment and at of each review of a slide, oldest first."""
        ...

    def add(self, slide_id: str, slide_key: str, *, verdict: str, by: str, comment: str) -> dict[str, str]:
        """Keep a review, and give it back with its time.

        Raises:
            UsageError: it cannot be kept as it is.
            StoreUnwritableError: the store is full, read-only or forbidden.
        """
        ...


class StoredReviews:
    """The reviews that lie in a store."""

    def __init__(self, store: FeatureStore, reviews: Any) -> None:
        self._store, self._reviews = store, reviews

    def of(self, slide_id: str, slide_key: str) -> list[dict[str, str]]:
        return [_plain(review) for review in self._reviews.read_reviews(self._store, slide_key)]

    def add(self, slide_id: str, slide_key: str, *, verdict: str, by: str, comment: str) -> dict[str, str]:
        review = self._reviews.Review(slide_id, verdict, by, comment)
        return _plain(self._reviews.add_review(self._store, slide_key, review))


def open_reviews(store: FeatureStore) -> ReviewBook | None:
    """The store's reviews; None where this version of the store keeps none."""
    try:
        reviews = import_module("pathotune_pipeline.store.reviews")
    except ModuleNotFoundError:
        return None
    return StoredReviews(store, reviews)


def _plain(review: Any) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(review).items()}
