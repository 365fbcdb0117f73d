"""A feature set as another tool writes it: a TRIDENT job directory, CLAM's or STAMP's files, SpatialData, or tensors.

Example:
  pathotune export --to trident --store store/ --features stain-texture --out job/
  pathotune export --to stamp --store store/ --features uni --out feats/ --encoder-name uni
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

LAYOUT_NAMES = ("trident", "clam", "stamp", "anndata", "h5ad", "pt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        required=True,
        choices=LAYOUT_NAMES,
        help="whose layout; anndata is a SpatialData store as LazySlide has it, h5ad its table alone, pt plain tensors",
    )
    parser.add_argument("--store", type=Path, required=True, metavar="STORE", help="the store's folder")
    parser.add_argument("--features", required=True, metavar="NAME", help="a feature set, or the beginning of its name")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; made if it is new")
    parser.add_argument(
        "--slide", nargs="+", action="extend", dest="slides", metavar="ID", help="only these slides; else all"
    )
    parser.add_argument(
        "--names",
        choices=("stem", "id"),
        default="stem",
        help="name files after the slide's file without its ending, as the tools do, or after its whole id [stem]",
    )
    parser.add_argument(
        "--encoder-name", metavar="NAME", help="what the other tool calls the encoder, such as uni_v1; else our name"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there and differ")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, SOME_FAILED
    from pathotune_pipeline.exchange.send import ExportTarget, Sent, export_features
    from pathotune_pipeline.store.store import open_store

    store = open_store(arguments.store)
    features_set = store.find_set(arguments.features)
    target = ExportTarget(
        arguments.to, arguments.out, arguments.names, arguments.encoder_name, overwrite=arguments.overwrite
    )
    bar = tqdm(desc="slides", unit="slide", disable=True if arguments.json else None, file=sys.stderr)

    def on_slide(sent: Sent) -> None:
        bar.update()

    with bar:
        result = export_features(store, features_set, target, slides=arguments.slides, on_slide=on_slide)
    by_status = {
        status: sum(sent.status == status for sent in result.slides)
        for status in ("written", "unchanged", "empty", "failed")
    }
    if arguments.json:
        counts = {**by_status, "rejected": len(result.rejected)}
        print(json.dumps({**result.as_dict(), "counts": counts, "out": str(arguments.out)}, indent=1))
    else:
        tiles = sum(sent.tiles for sent in result.slides)
        left_out = sum(sent.invalid_tiles for sent in result.slides)
        told = ", ".join(f"{number} {status}" for status, number in by_status.items() if number)
        print(f"features  {result.features} as {arguments.to}")
        print(f"slides    {len(result.slides)}: {told}; {tiles} tiles, {left_out} unreadable ones left out")
        if result.rejected:
            print(f"rejected  {len(result.rejected)} in review, left out: {', '.join(result.rejected)}")
        for sent in result.slides:
            if sent.reason:
                print(f"{sent.status:<9} {sent.slide_id}: {sent.reason}")
        print(f"written to {arguments.out}")
    return SOME_FAILED if by_status["failed"] else OK
