"""Where a model looks: a PNG, a GeoJSON for QuPath, a pyramidal TIFF, a table, and with --slides a sheet of tiles, for each slide.

Colours are percentiles: the rank of a tile's attention among all tiles of the slide.

Example:
  pathotune heatmap --model model/ --store store/ --slide case-0%2Fa.svs --out maps/
  pathotune heatmap --model model/ --store store/ --slides archive/ --out maps/
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pathotune_pipeline import config
from pathotune_pipeline.cli.extract import add_rescans, source
from pathotune_pipeline.cli.flags import add_settings, given, store_address
from pathotune_pipeline.cli.predict import add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    add_model(where)
    where.add_argument("--store", type=store_address, required=True, metavar="STORE", help="holds the features")
    where.add_argument("--features", metavar="NAME", help="the feature set [that of the model]")
    where.add_argument(
        "--slide", nargs="+", action="extend", dest="ids", metavar="ID", help="only these slides; else all of the set"
    )
    where.add_argument("--slides", type=Path, metavar="DIR", help="the slides' folder: then tiles are shown too")
    where.add_argument("--manifest", type=Path, metavar="CSV", help="table of slides, as extract takes it")
    where.add_argument(
        "--pseudonymise", type=Path, metavar="KEYFILE", help="the key by which the store's ids were made"
    )
    where.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; made if it is new")
    where.add_argument("--overwrite", action="store_true", help="replace older files")
    add_rescans(parser)
    add_settings(parser, ("heatmap",))
    parser.add_argument("--json", action="store_true", help="print what became of each slide as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, SOME_FAILED
    from pathotune_pipeline.models.folder import open_model
    from pathotune_pipeline.models.heatmap import HeatmapSpec, draw_heatmaps
    from pathotune_pipeline.models.inputs import chosen, inputs_of_store
    from pathotune_pipeline.models.predict import model_set
    from pathotune_pipeline.store.store import open_store

    spec = config.load(("heatmap",), arguments.config, arguments.assignments, given(arguments))["heatmap"]
    assert isinstance(spec, HeatmapSpec)
    model, store = open_model(arguments.model, device=spec.device), open_store(arguments.store)
    inputs = chosen(inputs_of_store(store, model_set(model, store, arguments.features)), arguments.ids)
    slides = source(arguments)[0] if arguments.slides or arguments.manifest else None
    outcomes = draw_heatmaps(model, store, inputs, arguments.out, spec, slides=slides, overwrite=arguments.overwrite)
    drawn = sum(outcome.status == "drawn" for outcome in outcomes)
    if arguments.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    else:
        print(f"{arguments.out}: {drawn} of {len(outcomes)} slides drawn")
        for outcome in outcomes:
            if outcome.status != "drawn" or outcome.reason:
                print(f"{outcome.status:<9} {outcome.slide_id}: {outcome.reason}")
        if slides is None:
            print("note: give --slides DIR to see the tiles themselves")
    return SOME_FAILED if any(outcome.status == "failed" for outcome in outcomes) else OK
