"""Train a model for use: patients are cut once into training, validation and test, heads are trained, and a folder is written.

The folder holds the weights (safetensors), card.json and MODEL_CARD.md with data, features, splits, scores and licences.

Example:
  pathotune train --store store/ --features stain-texture --labels labels.csv --target class --head abmil --out model/
  pathotune train ... --target os_months:survival-cox:os_event --test-share 0 --data-licence "CC BY 4.0" --out model/
"""

from __future__ import annotations

import argparse

from pathotune_pipeline import config
from pathotune_pipeline.cli.crossval import add_licence, add_study, learn, study_of
from pathotune_pipeline.cli.flags import add_settings, given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    add_settings(parser, ("model",), without=("model.folds", "model.site", "model.assignments"))
    add_licence(parser)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.models.train import ModelSpec, train_model

    settings = config.load(("model",), arguments.config, arguments.assignments, given(arguments))
    spec, study = ModelSpec.parse(settings["model"].model_dump()), study_of(arguments)
    return learn(
        arguments,
        spec,
        lambda told: train_model(
            study, spec, licence=arguments.data_licence, adapter=arguments.adapter, on_progress=told
        ),
    )
