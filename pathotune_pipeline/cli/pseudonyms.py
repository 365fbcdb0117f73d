"""A table of an archive's slides and their pseudonyms, and a label table rewritten to them. Keep both where the key is kept.

Example:
  pathotune pseudonyms --slides archive/ --pseudonymise KEYFILE --out names.csv
  pathotune pseudonyms --slides archive/ --pseudonymise KEYFILE --labels labels.csv --target class --out labels-pseudo.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.manifest import read_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slides", type=Path, metavar="DIR", help="the archive's folder")
    parser.add_argument("--manifest", type=Path, metavar="CSV", help="table of slides, as for extract")
    parser.add_argument(
        "--pseudonymise", type=Path, metavar="KEYFILE", required=True, help="the key that extract was given"
    )
    parser.add_argument("--labels", type=Path, metavar="CSV", help="a label table by real names, to be rewritten")
    parser.add_argument("--target", metavar="COLUMN", help="the label's column")
    parser.add_argument("--out", type=Path, metavar="CSV", required=True, help="the table to write")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.errors import UsageError

    pseudonymiser = Pseudonymiser.from_file(arguments.pseudonymise)
    manifest = read_manifest(arguments.slides, arguments.manifest)
    if arguments.labels and not arguments.target:
        raise UsageError("--labels needs --target COLUMN, the column that holds the label.")
    if arguments.labels:
        rows = _labels(arguments, [item.slide_id for item in manifest.items], pseudonymiser)
    else:
        rows = [{"slide_id": pseudonymiser.slide(item.slide_id), "name": item.slide_id} for item in manifest.items]
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{arguments.out}: {len(rows)} slides")
    return 0


def _labels(arguments: argparse.Namespace, slide_ids: list[str], pseudonymiser: Pseudonymiser) -> list[dict[str, str]]:
    from pathotune_pipeline.archive.table import read_table
    from pathotune_pipeline.bags.labels import join_labels

    join = join_labels(slide_ids, read_table(arguments.labels).rows, target=arguments.target)
    return [
        {
            "slide_id": pseudonymiser.slide(slide_id),
            "case_id": pseudonymiser.case(row.case_id),
            arguments.target: row.label,
        }
        for slide_id, row in join.labels.items()
    ]
