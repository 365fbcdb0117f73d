"""A feature set to one vector a slide: through a slide encoder, into the store, and out as a table.

Example:
  pathotune encode-slides --store store/ --features conch-v1.5 --slide-encoder titan --out slides.parquet
  pathotune encode-slides --store store/ --features stain-texture --slide-encoder mean
  pathotune encode-slides --store store/ --features uni --slide-encoder local:mine.safetensors --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from pathotune_pipeline.cli.flags import add_settings, given, store_address

MOST_THREADS = 8
"""Slides at once where nothing is said: each holds some arrays as wide as its tokens."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=store_address, required=True, metavar="STORE", help="the store with the features"
    )
    parser.add_argument("--features", required=True, metavar="NAME", help="a feature set, or the beginning of its name")
    parser.add_argument("--out", type=Path, metavar="TABLE", help="write the vectors there too: .parquet or .csv")
    parser.add_argument("--overwrite", action="store_true", help="replace a table that is there")
    parser.add_argument(
        "--threads", type=int, metavar="N", help=f"slides at once on a CPU [cores, at most {MOST_THREADS}]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, ["slide_encoder"])


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline import config
    from pathotune_pipeline.cli.main import OK, SOME_FAILED
    from pathotune_pipeline.embeddings.encode import encode_slides
    from pathotune_pipeline.embeddings.table import check_table, write_embeddings
    from pathotune_pipeline.errors import SpecError
    from pathotune_pipeline.features.outcome import Outcome
    from pathotune_pipeline.slide_encoders import SlideEncoderSpec
    from pathotune_pipeline.store.store import open_store

    loaded = config.load(["slide_encoder"], arguments.config, arguments.assignments, given(arguments))
    spec = loaded["slide_encoder"]
    assert isinstance(spec, SlideEncoderSpec)
    threads = arguments.threads or min(MOST_THREADS, os.cpu_count() or 1)
    if threads < 1:
        raise SpecError(f"--threads {threads}: at least 1.")
    if arguments.out is not None:
        check_table(arguments.out, overwrite=arguments.overwrite)
    store = open_store(arguments.store)
    features_set = store.find_set(arguments.features)
    bar = tqdm(desc="slides", unit="slide", disable=True if arguments.json else None, file=sys.stderr)

    def on_outcome(outcome: Outcome) -> None:
        bar.update()

    def on_wait() -> None:
        sys.stderr.write("another run makes this set just now; waiting for it\n")

    with bar:
        result = encode_slides(store, features_set, spec, threads=threads, on_wait=on_wait, on_outcome=on_outcome)
    counts = result.counts()
    written = 0
    if arguments.out is not None:
        written = write_embeddings(arguments.out, store, result.embeddings, overwrite=arguments.overwrite)
    if arguments.json:
        out = None if arguments.out is None else str(arguments.out)
        print(json.dumps({**result.as_dict(), "out": out}, indent=1))
    else:
        told = ", ".join(f"{counts[name]} {name}" for name in ("computed", "empty", "failed") if counts[name])
        print(f"embeddings  {str(result.embeddings).removeprefix('embeddings-')}")
        print(f"slides      {counts['slides']}: {told or 'all were there already'}")
        if result.rejected:
            print(f"rejected    {len(result.rejected)} in review, left out: {', '.join(result.rejected)}")
        for note in result.notes:
            print(f"note        {note}")
        for outcome in result.outcomes:
            if outcome.reason:
                print(f"{outcome.status:<11} {outcome.slide_id}: {outcome.reason}")
        if arguments.out is not None:
            print(f"written to {arguments.out}: {written} slides")
    return SOME_FAILED if counts["failed"] else OK
