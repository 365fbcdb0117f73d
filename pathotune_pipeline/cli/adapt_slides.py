r"""Bring an encoder to a task by labels of whole slides: prompts or LoRA and a head, trained together, end to end.

Tiles come from the slides, at the places of a feature set of the same archive. What is kept is the adapter; extract with
it, and train a head on all tiles: `pathotune crossval`. docs/adapting.md says when this is worth it.

Example:
  pathotune extract      --slides archive/ --store store/ --encoder uni
  pathotune adapt-slides --slides archive/ --store store/ --features uni --labels labels.csv --target class --encoder uni \
                         --method vpt-deep --out tuned/
  pathotune extract      --slides archive/ --store store/ --encoder uni --adapter tuned/adapter.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pathotune_pipeline import config
from pathotune_pipeline.cli.adapt import add_out, learn
from pathotune_pipeline.cli.flags import add_settings, given, store_address

_NOT_HERE = (
    "encoder.also", "encoder.adapter", "adapt_slides.adapter.method", "adapt_slides.shared_head",
    "adapt_slides.partial_blocks", "adapt_slides.layer_decay", "adapt_slides.cnn", "adapt_slides.probe_l2",
    "adapt_slides.knn_k", "adapt_slides.balance",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("slides")
    where.add_argument("--slides", type=Path, required=True, metavar="DIR", help="the archive's folder")
    where.add_argument(
        "--store", type=store_address, required=True, metavar="STORE", help="store with a set of features"
    )
    where.add_argument(
        "--manifest", type=Path, default=None, metavar="CSV", help="table of the slides, with ids and scales"
    )
    where.add_argument("--features", required=True, metavar="NAME", help="the set whose tiles are used")
    where.add_argument(
        "--labels", type=Path, required=True, metavar="CSV", help="table of slides, patients and classes"
    )
    where.add_argument("--target", required=True, metavar="COLUMN", help="the table's column with the class")
    add_out(parser)
    add_settings(parser, ("encoder", "adapt_slides"), without=_NOT_HERE)


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.encoders.card import EncoderSpec
    from pathotune_pipeline.tuning.run.slide_pool import SlideSource
    from pathotune_pipeline.tuning.run.slide_task import run_slide_adaptation
    from pathotune_pipeline.tuning.run.slides import SlideAdaptSpec

    sections = ("encoder", "adapt_slides")
    settings = config.load(sections, arguments.config, arguments.assignments, given(arguments))
    encoder = EncoderSpec.parse(settings["encoder"].model_dump())
    spec = SlideAdaptSpec.parse(settings["adapt_slides"].model_dump())
    source = SlideSource(
        slides=arguments.slides,
        store=arguments.store,
        features=arguments.features,
        labels=arguments.labels,
        target=arguments.target,
        manifest=arguments.manifest,
    )
    return learn(arguments, spec, lambda told: run_slide_adaptation(
        encoder, source, spec, out=arguments.out, overwrite=arguments.overwrite, on_epoch=told
    ))  # fmt: skip
