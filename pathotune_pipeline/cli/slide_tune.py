r"""Join a slide encoder with gene expression and clinical variables, on cases whose labels are said as text.

The slide encoder stays frozen. What is learnt is a small adapter; what comes out is an embedding of each case and task, on
which logistic regressions and Cox models are fitted and judged. Without --store and --features slides have no part in it.

Example:
  pathotune slide-tune --store store/ --features gigapath --slide-encoder gigapath --cases cases.csv --clinical age stage \
                       --genes genes.parquet --pathways sets.gmt --text-encoder hash-ngram --out tuned/
  pathotune slide-eval tuned/ --store store/ --features gigapath --cases new.csv --genes new.parquet --out evaluated/
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given, store_address

if TYPE_CHECKING:
    from pathotune_pipeline.engine.course import EpochRecord
    from pathotune_pipeline.tuning.cases.source import CaseSource

_NOT_HERE = ("slide_encoder.device", "slide_encoder.seed", "slide_tune.cases.max_missing_genes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = add_source(parser)
    where.add_argument(
        "--pathways", type=Path, default=None, metavar="GMT", help="gene sets: GMT, or a matrix or lists as CSV"
    )
    add_settings(parser, ("slide_encoder", "slide_tune"), without=_NOT_HERE)


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.slide_encoders import SlideEncoderSpec
    from pathotune_pipeline.tuning.cases.run import run_slide_tune
    from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec

    settings = config.load(("slide_encoder", "slide_tune"), arguments.config, arguments.assignments, given(arguments))
    encoder = SlideEncoderSpec.parse(settings["slide_encoder"].model_dump())
    spec = SlideTuneSpec.parse(settings["slide_tune"].model_dump())
    quiet = True if arguments.json else None
    bar = tqdm(desc="slide-tune", unit="epoch", total=spec.train.epochs, disable=quiet, file=sys.stderr)

    def told(record: EpochRecord) -> None:
        bar.update(record.epoch + 1 - bar.n)

    with bar:
        card = run_slide_tune(
            source_of(arguments), encoder, spec, out=arguments.out, overwrite=arguments.overwrite, on_epoch=told
        )
    tell(card, arguments, f"{card['trained_parameters']:,} numbers trained, epoch {card['best_epoch'] + 1} kept")
    return 0


def add_source(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What both commands are given: cases, slides, expression, and where the result goes."""
    where = parser.add_argument_group("cases")
    where.add_argument(
        "--cases", type=Path, nargs="+", required=True, metavar="CSV",
        help="case tables: patients, slides, clinical fields, survival, class; CSV or Parquet",
    )  # fmt: skip
    where.add_argument(
        "--store", type=store_address, default=None, metavar="STORE", help="store with features of their slides"
    )
    where.add_argument("--features", default=None, metavar="NAME", help="the feature set, or the beginning of its name")
    where.add_argument(
        "--genes",
        type=Path,
        nargs="+",
        default=[],
        metavar="TABLE",
        help="expression: cases by genes or genes by cases",
    )
    where.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the result")
    where.add_argument("--overwrite", action="store_true", help="replace an older result in --out")
    where.add_argument("--json", action="store_true", help="print the card as JSON")
    return where


def source_of(arguments: argparse.Namespace) -> CaseSource:
    """What `add_source` was given."""
    from pathotune_pipeline.tuning.cases.source import CaseSource

    return CaseSource(
        cases=tuple(arguments.cases),
        store=arguments.store,
        features=arguments.features,
        genes=tuple(arguments.genes),
        pathways=getattr(arguments, "pathways", None),
    )


def tell(card: dict[str, Any], arguments: argparse.Namespace, first: str) -> None:
    """Print what came out."""
    if arguments.json:
        print(json.dumps(card))
        return
    print(first)
    for each in card["scores"]:
        value = f"undefined: {each['reason']}" if each["value"] is None else f"{each['value']:.3f}"
        interval = "" if each["low"] is None else f" [{each['low']:.3f}, {each['high']:.3f}]"
        events = "" if each["events"] is None else f", {each['events']} events"
        print(
            f"  {each['modalities']:<8} {each['task']:<10} {each['cohort']:<12} {each['score']:<18} {value}{interval}"
            f"  ({each['cases']} cases{events})"
        )
    for note in card["notes"]:
        print(f"note: {note}")
    print(f"written to {arguments.out}")
