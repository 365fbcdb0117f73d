"""Features that another tool made, into a store: `status`, `crossval` and `report` take them as they take our own.

Example:
  pathotune import --from trident --source job/ --store store/ --slides archive/
  pathotune import --from clam --source features/ --coords patches/ --store store/ --encoder uni_v1 --mpp 0.25
  pathotune import --from stamp --source feats/ --store store/ --manifest slides.csv
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli.extract import print_passed_over
from pathotune_pipeline.cli.flags import add_settings, given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    where.add_argument(
        "--from", dest="tool", required=True, choices=("trident", "clam", "stamp"), help="which tool made the files"
    )
    where.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="DIR",
        help="TRIDENT's job directory, the folder above CLAM's h5_files, or STAMP's folder of features",
    )
    where.add_argument(
        "--coords",
        type=Path,
        metavar="DIR",
        help="CLAM's folder of patch files, where it is elsewhere; of several 20x_... folders of TRIDENT the one meant",
    )
    where.add_argument(
        "--store", type=Path, required=True, metavar="STORE", help="the store's folder; made if it is new"
    )
    where.add_argument(
        "--slides", type=Path, metavar="DIR", help="the archive, if it is here: gives ids, scales, sizes, thumbnails"
    )
    where.add_argument(
        "--manifest",
        type=Path,
        metavar="CSV",
        help="table with a path or slide_id column; case_id, mpp, ... where known",
    )
    where.add_argument(
        "--pseudonymise", type=Path, metavar="KEYFILE", help="replace slide and case ids by keyed hashes"
    )
    add_settings(parser, ("import",))
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, SOME_FAILED
    from pathotune_pipeline.exchange.bring import ImportResult, ImportSource, import_features
    from pathotune_pipeline.exchange.geometry import ImportSpec
    from pathotune_pipeline.features.outcome import Outcome
    from pathotune_pipeline.store.store import FeatureStore

    settings = config.load(("import",), arguments.config, arguments.assignments, given(arguments))
    spec = ImportSpec.parse(settings["import"].model_dump())
    pseudonymiser = Pseudonymiser.from_file(arguments.pseudonymise) if arguments.pseudonymise else None
    manifest = None
    if arguments.slides or arguments.manifest:
        manifest = read_manifest(arguments.slides, arguments.manifest, rescans="all")
    source = ImportSource(arguments.tool, arguments.source, arguments.coords, manifest, pseudonymiser)
    bar = tqdm(desc="slides", unit="slide", disable=True if arguments.json else None, file=sys.stderr)

    def on_outcome(outcome: Outcome) -> None:
        bar.update()

    with bar:
        result: ImportResult = import_features(FeatureStore(arguments.store), source, spec, on_outcome=on_outcome)
    counts = result.counts()
    if arguments.json:
        print(json.dumps(result.as_dict(), indent=1))
    else:
        for name in result.features or ["none"]:
            print(f"features  {name}")
        print(
            f"slides    {counts['slides']}: {counts['committed']} committed, {counts['empty']} empty, {counts['failed']} "
            f"failed; {counts['tiles']} tiles, {counts['computed']} slides new"
        )
        for outcome in result.outcomes:
            if outcome.status != "committed":
                print(f"{outcome.status:<9} {outcome.slide_id}: {outcome.reason}")
        print_passed_over(result.passed_over)
    return SOME_FAILED if counts["failed"] else OK
