"""Whether this machine has what is needed, and how to mend what fails. Exit code 1 where something needed fails.

Name what you mean to use, and it is tried: the disk of a store, a Dask scheduler, encoders' weights, a Prefect server.

Example:
  pathotune doctor
  pathotune doctor --store /data/store --encoder uni2-h --executor tcp://10.0.0.5:8786 --prefect
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, metavar="STORE", help="folder whose disk is looked at")
    parser.add_argument(
        "--executor", default="local", metavar="WHERE", help="as extract takes it: a scheduler is asked [local]"
    )
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="NAME", help="whose weights shall be had; may be repeated"
    )
    parser.add_argument("--prefect", action="store_true", help="a Prefect server is needed, as for deploy")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, UNEXPECTED
    from pathotune_pipeline.doctor import Wanted, examine

    checks = examine(Wanted(arguments.store, arguments.executor, tuple(arguments.encoder), arguments.prefect))
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            print(f"{check.state:<5} {check.name:<24} {check.found}" + (f". {check.mend}" if check.mend else ""))
    return UNEXPECTED if any(check.state == "bad" for check in checks) else OK
