"""Methods held against each other on one set of labelled patches, every cell once, and again only where something changed.

Example:
  pathotune study scaling --study mitosis.yaml --out scaling/          # nested shares of the training slides
  pathotune study domains --study mitosis.yaml --out domains/ --jobs 2 # train on one domain, test on every other
  pathotune study protocol --study benchmark.yaml --out bench/         # frozen encoders under a fixed protocol
  pathotune study retrieval --study benchmark.yaml --out retrieval/    # whether the nearest patches are of one class

The file names patches, encoders and methods. Run the same command again after a kill: what is there stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pathotune_pipeline.cli.flags import add_section, given

RETRIEVAL = "retrieval"
KINDS = ("scaling", "domains", "protocol", RETRIEVAL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{" + ",".join(KINDS) + "}")
    for kind in KINDS:
        own = kinds.add_parser(kind, description=__doc__, formatter_class=parser.formatter_class)
        own.add_argument("--study", type=Path, required=True, metavar="YAML", help="patches, encoders, methods")
        own.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of cells, tables and page")
        if kind != RETRIEVAL:
            own.add_argument(
                "--jobs", type=int, default=1, metavar="N", help="processes that compute; 0 writes tables alone [1]"
            )
        own.add_argument("--json", action="store_true", help="print the summary as JSON")
        add_section(own, kind)


def run(arguments: argparse.Namespace) -> int:
    if arguments.kind == RETRIEVAL:
        return _retrieve(arguments)
    from pathotune_pipeline.cli.main import OK, SOME_FAILED
    from pathotune_pipeline.reports.study import write_study_page
    from pathotune_pipeline.tuning.studies.opening import OpenStudy, StudyRequest
    from pathotune_pipeline.tuning.studies.study import run_study

    request = StudyRequest(arguments.kind, arguments.study, arguments.out, _flags(arguments))
    bar = tqdm(desc=arguments.kind, unit="cell", disable=True if arguments.json else None, file=sys.stderr)

    def on_open(study: OpenStudy) -> None:
        bar.total = sum(1 for cell in study.grid.cells if not cell.not_run)
        bar.refresh()

    def on_cell(cell: Any, record: Any) -> None:
        bar.update()
        if record.status == "failed":
            bar.write(f"failed: {cell.title}: {record.reason}", file=sys.stderr)

    with bar:
        study = run_study(request, jobs=arguments.jobs, on_open=on_open, on_cell=on_cell)
    page = write_study_page(arguments.out)
    if arguments.json:
        print(json.dumps({"summary": study["summary"], "notes": study["notes"], "out": str(arguments.out)}))
    else:
        tell(study)
        print(f"written to {page}")
    return SOME_FAILED if any(row["status"] == "failed" for row in study["cells"]) else OK


def _retrieve(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.tuning.studies.retrieval import run_retrieval

    found = run_retrieval(arguments.study, arguments.out, _flags(arguments))
    if arguments.json:
        print(json.dumps({"summary": found["summary"], "notes": found["notes"], "out": str(arguments.out)}))
        return 0
    for score in dict.fromkeys(row["score"] for row in found["summary"]):
        print(f"{score}: share of {found['queries']} queries, of a gallery of {found['gallery']}")
        tell({**found, "headline": score, "notes": []})
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"written to {arguments.out}")
    return 0


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    return {key.partition(".")[2]: value for key, value in given(arguments).items()}


def tell(study: dict[str, Any]) -> None:
    """Print one line for each row of the headline score, and what a reader should know."""
    for row in study["summary"]:
        if row["score"] != study["headline"]:
            continue
        who = ", ".join(filter(None, (row["encoder"], row["method"])))
        where = f"{row['train_domain'] or 'all'} -> {row['test'] or '-'}, fraction {row['fraction']:g}"
        if row["mean"] is None:
            print(f"{who:<34} {where:<40} {row['reason']}")
        else:
            spread = f" +- {row['std']:.3f}" if row["std"] is not None else ""
            sure = f" [{row['low']:.3f}, {row['high']:.3f}]" if row["low"] is not None else ""
            print(f"{who:<34} {where:<40} {row['mean']:.3f}{spread}{sure}  {row['runs']} of {row['cells']} runs")
    for note in study["notes"]:
        print(f"note: {note}")
