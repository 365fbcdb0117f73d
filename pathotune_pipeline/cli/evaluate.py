"""Judge a trained model on labelled slides that it has not seen, or a table of predictions, with intervals and calibration.

Slides and patients that the model was trained on are refused. The folder is one that report and compare take.

Example:
  pathotune evaluate --model model/ --store other-store/ --labels other.csv --out external/
  pathotune evaluate --model model/ --store other-store/ --labels other.csv --target Diagnosis --out external/
  pathotune evaluate --predictions predictions.csv --labels labels.csv --target class
  pathotune evaluate --predictions published.csv --id slide_name --target is_tumor --probability score=Tumor
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pathotune_pipeline import config
from pathotune_pipeline.cli.crossval import tell_results
from pathotune_pipeline.cli.flags import add_settings, given, store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is judged").add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, metavar="DIR", help="a folder that train or crossval wrote")
    what.add_argument("--predictions", type=Path, metavar="CSV", help="a table with a row for each slide")
    on = parser.add_argument_group("on what")
    on.add_argument(
        "--store", type=store_address, metavar="STORE", help="of a model: the store with the slides' features"
    )
    on.add_argument("--features", metavar="NAME", help="of a model: the feature set [that of the model]")
    on.add_argument("--labels", type=Path, metavar="CSV", help="label table; of predictions: [the same table]")
    on.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="COLUMN[:KIND[:EVENT]]",
        help="the label table's column [that of the model]; several times for several targets",
    )
    on.add_argument("--id", default="", metavar="COLUMN", help="of predictions: the column that names the slide")
    on.add_argument(
        "--probability",
        action="append",
        default=[],
        metavar="COLUMN[=CLASS]",
        help="of predictions: the column of a class's probability; of two classes the second's suffices [prob_CLASS]",
    )
    on.add_argument("--out", type=Path, metavar="DIR", help="folder for scores and predictions; needed with --model")
    on.add_argument("--overwrite", action="store_true", help="replace an older result in --out")
    add_settings(parser, ("evaluate",))
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.evaluation.study import Study
    from pathotune_pipeline.models.evaluate import EvaluateSpec, evaluate_model
    from pathotune_pipeline.models.folder import open_model
    from pathotune_pipeline.models.tabular import TabularStudy, evaluate_table

    settings = config.load(("evaluate",), arguments.config, arguments.assignments, given(arguments))
    spec = settings["evaluate"]
    assert isinstance(spec, EvaluateSpec)
    of_model = {"--id": arguments.id, "--probability": arguments.probability}
    of_table = {"--store": arguments.store, "--features": arguments.features}
    for flag, value in (of_model if arguments.model else of_table).items():
        if value:
            raise UsageError(f"{flag} goes with {'--predictions' if arguments.model else '--model'}. Leave it out.")
    if arguments.predictions:
        if len(arguments.target) != 1:
            raise UsageError("--predictions is judged on one --target COLUMN. Give it.")
        table = TabularStudy(
            arguments.predictions, arguments.labels, arguments.target[0], arguments.id, tuple(arguments.probability),
            arguments.out, arguments.overwrite,
        )  # fmt: skip
        results = {arguments.target[0]: evaluate_table(table, spec)}
    else:
        for flag, value in (("--store", arguments.store), ("--labels", arguments.labels), ("--out", arguments.out)):
            if value is None:
                raise UsageError(f"--model is judged on labelled slides: {flag} is missing.")
        study = Study(
            arguments.store, arguments.features or "", arguments.labels, tuple(arguments.target), arguments.out,
            arguments.overwrite,
        )  # fmt: skip
        results = evaluate_model(open_model(arguments.model, device=spec.device), study, spec)
    tell_results(results, [], arguments.out, as_json=arguments.json, every=True)
    return 0
