"""What people said of slides: records under `STORE/reviews/` that are never changed; the newest verdict on a slide counts.

A record's name ends with its verdict, so that one listing says which slides are rejected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pathotune_pipeline.errors import StoreError, UsageError
from pathotune_pipeline.provenance import now
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.store.stamped import Stamp, add_stamped, stamps
from pathotune_pipeline.store.store import FeatureStore

Verdict = Literal["accept", "reject", "comment"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
MOST_LETTERS = 4000
"""Of a comment, and of a name."""


@dataclass(frozen=True, slots=True)
class Review:
    """What somebody said of a slide.

    Attributes:
        slide_id: of which.
        verdict: accept, reject, or comment, which leaves the verdict as it was.
        by: who.
        comment: in words; may be empty where there is a verdict.
        at: when, UTC; set when it is kept.
    """

    slide_id: str
    verdict: Verdict
    by: str
    comment: str = ""
    at: str = ""

    def check(self) -> None:
        """Make sure that it can be kept.

        Raises:
            UsageError: it lacks a name or a comment, or has an unknown verdict or too long a text.
        """
        if self.verdict not in VERDICTS:
            raise UsageError(f"{self.slide_id}: the verdict is {self.verdict!r}. Give one of {', '.join(VERDICTS)}.")
        if not self.by.strip():
            raise UsageError(f"{self.slide_id}: nobody is named. Say who reviewed it: --by NAME, or a column `by`.")
        if self.verdict == "comment" and not self.comment.strip():
            raise UsageError(f"{self.slide_id}: the comment is empty. Give a text, or a verdict.")
        if max(len(self.by), len(self.comment)) > MOST_LETTERS:
            raise UsageError(f"{self.slide_id}: a name or comment has over {MOST_LETTERS} letters. Shorten it.")


def add_review(store: FeatureStore, slide_key: str, review: Review) -> Review:
    """Keep a review.

    Args:
        store: an existing store.
        slide_key: the slide's name inside the store (`archive.identity.key_of`).
        review: what was said; its time is set now.

    Returns:
        It, with its time.

    Raises:
        UsageError: it cannot be kept as it is; see `Review.check`.
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    review.check()
    record = {**asdict(review), "at": now()}
    add_stamped(store, layout.REVIEWS, slide_key, record, f"-{review.verdict}")
    return Review(**record)


def current_verdicts(store: FeatureStore) -> dict[str, Verdict]:
    """The newest verdict on each slide that has one, by the slide's key: one listing, no file opened."""
    found: dict[str, Verdict] = {}
    for stamp in stamps(store, layout.REVIEWS):
        for verdict in ("accept", "reject"):
            if stamp.ending == f"-{verdict}":
                found[stamp.key] = verdict
    return found


def rejected_keys(store: FeatureStore) -> frozenset[str]:
    """Keys of the slides whose newest verdict is reject."""
    return frozenset(key for key, verdict in current_verdicts(store).items() if verdict == "reject")


def read_reviews(store: FeatureStore, slide_key: str | None = None) -> list[Review]:
    """Reviews of a slide, or of all, each slide's oldest first.

    Raises:
        StoreError: a record cannot be read.
    """
    wanted = [stamp for stamp in stamps(store, layout.REVIEWS) if slide_key in (None, stamp.key)]
    data = store.place.read_many(stamp.name(layout.REVIEWS) for stamp in wanted)
    return [_review(stamp, data.get(stamp.name(layout.REVIEWS))) for stamp in wanted]


def _review(stamp: Stamp, data: bytes | None) -> Review:
    record: Any = parse_json(data)
    try:
        return Review(**record)
    except TypeError:
        raise StoreError(
            f"{stamp.name(layout.REVIEWS)} is no whole review. Restore it from a backup; its verdict counts by its name."
        ) from None


def newest_by_slide(reviews: Iterable[Review]) -> dict[str, Review]:
    """The newest review of each slide, of reviews with each slide's oldest first."""
    return {review.slide_id: review for review in reviews}
