"""What people say of slides: accept, reject, comment. `extract`, `train`, `crossval` and `predict` leave rejected slides out.

Reviews are kept in the store for good, with who and when; the newest verdict on a slide counts. A table has a column that
names the slide (slide_id, slide, filename), one `verdict`, and where wanted `comment` and `by`. Without a review, lists them.

Example:
  pathotune review --store store/ --slide a.svs --reject --comment "wrong stain" --by "A. Reader"
  pathotune review --store store/ --csv reviews.csv --by "A. Reader"
  pathotune review --store store/
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pathotune_pipeline.cli.flags import store_address

if TYPE_CHECKING:
    from pathotune_pipeline.store.reviews import Review, Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--slide", nargs="+", action="extend", dest="slides", metavar="ID", help="slides that are reviewed"
    )
    what.add_argument("--csv", type=Path, metavar="CSV", help="a table of reviews")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument("--accept", action="store_const", const="accept", dest="verdict", help="they are good")
    verdict.add_argument("--reject", action="store_const", const="reject", dest="verdict", help="they are left out")
    parser.add_argument("--comment", default="", metavar="TEXT", help="in words; alone, it leaves the verdict as it is")
    parser.add_argument("--by", default="", metavar="NAME", help="who reviewed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK
    from pathotune_pipeline.exchange.reviews import bring_reviews
    from pathotune_pipeline.store.reviews import read_reviews
    from pathotune_pipeline.store.store import open_store

    store, asked = open_store(arguments.store), _asked(arguments)
    reviews = read_reviews(store) if asked is None else bring_reviews(store, asked)
    if arguments.json:
        print(json.dumps([asdict(review) for review in reviews], indent=1))
        return OK
    for review in reviews:
        told = f": {review.comment}" if review.comment else ""
        print(f"{review.at}  {review.verdict:<7}  {review.slide_id}  {review.by}{told}")
    if asked is not None:
        print(
            f"{len(reviews)} reviews kept"
            + (f", {len(asked) - len(reviews)} were known" if len(asked) > len(reviews) else "")
        )
    elif not reviews:
        print("no slide was reviewed yet")
    return OK


def _asked(arguments: argparse.Namespace) -> list[Review] | None:
    """The reviews that the flags give; None where they are to be listed."""
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.exchange.reviews import read_review_table
    from pathotune_pipeline.store.reviews import Review

    if arguments.csv:
        if arguments.verdict or arguments.comment:
            raise UsageError(
                "--csv: the table has the verdicts and comments. Leave --accept, --reject and --comment out."
            )
        return read_review_table(arguments.csv, arguments.by)
    if not arguments.slides:
        if arguments.verdict or arguments.comment:
            raise UsageError("No slide was named. Give --slide ID, or --csv with a table of reviews.")
        return None
    verdict: Verdict = arguments.verdict or "comment"
    return [Review(slide, verdict, arguments.by, arguments.comment) for slide in arguments.slides]
