"""Reviews of slides from a table, or one by one, into a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.labels import SLIDE_COLUMNS, SlideIndex
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.store.reviews import VERDICTS, Review, Verdict, add_review, newest_by_slide, read_reviews
from pathotune_pipeline.store.runs import read_runs
from pathotune_pipeline.store.store import FeatureStore

VERDICT_COLUMNS = ("verdict", "decision", "review")
_WORDS: Mapping[str, Verdict] = {
    "accept": "accept", "accepted": "accept", "ok": "accept", "keep": "accept",
    "reject": "reject", "rejected": "reject", "exclude": "reject", "comment": "comment", "": "comment",
}  # fmt: skip
"""What a table's cell may say; empty with a comment is one."""


def known_slides(store: FeatureStore) -> set[str]:
    """Ids of all slides that the store has something of, or that a run told of."""
    found = {slide_id for name in store.sets() for slide_id in store.records(name)}
    for run in read_runs(store.runs):
        found |= {str(line["slide_id"]) for line in run.outcomes if isinstance(line, dict) and "slide_id" in line}
        found |= set(run.record.get("failures") or {})
    return found


def bring_reviews(store: FeatureStore, asked: Sequence[Review]) -> list[Review]:
    """Keep reviews, each of a slide as people name it. All are checked before the first is kept.

    What a slide's newest review by anybody says already, in the same words of the same person, is not said again: a table
    that was cut off by a kill is brought in again whole.

    Args:
        store: an existing store.
        asked: slides by id, path or file name, with or without the ending.

    Returns:
        Those that were kept now, under the slides' ids.

    Raises:
        UsageError: a review cannot be kept, or the store knows no such slide.
        ManifestError: a name fits several slides.
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    known = sorted(known_slides(store))
    index, named = SlideIndex(known), []
    for review in asked:
        review.check()
        slide_id = index.find(review.slide_id)
        if slide_id is None:
            raise UsageError(f"The store knows no slide {review.slide_id!r}.{nearest(review.slide_id, known)}")
        named.append(replace(review, slide_id=slide_id))
    newest, kept = newest_by_slide(read_reviews(store)), []
    for review in named:
        before = newest.get(review.slide_id)
        if before is None or replace(before, at="") != review:
            newest[review.slide_id] = added = add_review(store, key_of(review.slide_id), review)
            kept.append(added)
    return kept


def read_review_table(path: Path, by: str = "") -> list[Review]:
    """The reviews of a table: a column that names the slide, one with the verdict, and `comment` and `by` where they are.

    Args:
        path: CSV or Parquet.
        by: who reviewed, where the table does not say.

    Raises:
        ManifestError: a column is missing, or a verdict is not known.
    """
    table = read_table(path)
    slide, verdict = table.first_of(SLIDE_COLUMNS), table.first_of(VERDICT_COLUMNS)
    comment, person = table.first_of(("comment", "comments", "remark")), table.first_of(("by", "reviewer"))
    if slide is None or verdict is None:
        lacking = "names the slide" if slide is None else f"holds the verdict ({', '.join(VERDICTS)})"
        raise ManifestError(f"{table.name}: no column {lacking}. Columns found: {', '.join(table.columns)}.")
    found = []
    for line, row in zip(table.lines, table.rows, strict=True):
        word = row[verdict].strip().lower()
        if word not in _WORDS:
            raise ManifestError(
                f"{table.name}: line {line}: the verdict is {row[verdict]!r}. Give one of {', '.join(VERDICTS)}."
            )
        said = row[comment] if comment else ""
        if word or said:  # a line that nobody has filled in says nothing
            found.append(Review(row[slide], _WORDS[word], (row[person] if person else "") or by, said))
    return found
