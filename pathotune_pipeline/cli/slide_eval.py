"""A network of slide-tune on other cases, frozen: embeddings from what there is of each, and scores where labels are.

Cohorts that the training had are judged by its classifiers and Cox models, on cases that were not in it; for other cohorts
these are fitted here, on a training part of theirs, while the network stays as it is.

Example:
  pathotune slide-eval tuned/ --store store/ --features gigapath --cases new.csv --genes new.parquet --out evaluated/
  pathotune slide-eval tuned/ --store store/ --features gigapath --cases cases.csv --modalities image --out image-only/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given
from pathotune_pipeline.cli.slide_tune import add_source, source_of, tell

_NOT_HERE = ("slide_eval.cases.clinical", "slide_eval.cases.hold_out", "slide_eval.cases.location")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that slide-tune wrote")
    add_source(parser)
    add_settings(parser, ("slide_eval",), without=_NOT_HERE)


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.tuning.cases.evaluate import run_slide_eval
    from pathotune_pipeline.tuning.cases.spec import SlideEvalSpec

    settings = config.load(("slide_eval",), arguments.config, arguments.assignments, given(arguments))
    spec = SlideEvalSpec.parse(settings["slide_eval"].model_dump())
    card = run_slide_eval(
        arguments.folder, source_of(arguments), spec, out=arguments.out, overwrite=arguments.overwrite
    )
    tell(card, arguments, f"{card['cases']} cases, the network as it was trained on {', '.join(card['trained_on'])}")
    return 0
