"""Whether this machine has what is needed, and how to mend what fails. Exit code 1 where something needed fails.

Name what you mean to use, and it is tried: the disk of a store, a Dask scheduler, encoders' weights, a Prefect server.

With --trial a site's own slides are tried, in minutes: speed against the bare encoder, the same features again, a run that
is killed and run again, readers and scales. Writes trial.html and trial.json into --out, and nothing elsewhere; settings
are those of extract.

Example:
  pathotune doctor
  pathotune doctor --store /data/store --encoder uni2-h --executor tcp://10.0.0.5:8786 --prefect
  pathotune doctor --trial --slides archive/ --out qualification/ --encoder uni2-h
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given

if TYPE_CHECKING:
    from pathotune_pipeline.doctor import Check

TRIAL_SECTIONS = ("trial", *config.EXTRACTION)
_OF_TRIAL = ("slides", "manifest", "out", "pseudonymise", "config")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, metavar="STORE", help="folder whose disk is looked at")
    parser.add_argument(
        "--executor", default="local", metavar="WHERE", help="as extract takes it: a scheduler is asked [local]"
    )
    parser.add_argument("--prefect", action="store_true", help="a Prefect server is needed, as for deploy")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    tried = parser.add_argument_group("a trial of the site's slides")
    tried.add_argument("--trial", action="store_true", help="try slides, and write a qualification report")
    tried.add_argument("--slides", type=Path, metavar="DIR", help="the archive's folder; a few slides of it are tried")
    tried.add_argument("--manifest", type=Path, metavar="CSV", help="a table of slides, as for extract")
    tried.add_argument("--out", type=Path, metavar="DIR", help="folder for trial.html and trial.json")
    tried.add_argument(
        "--pseudonymise", type=Path, metavar="KEYFILE", help="report slides under keyed hashes of their names"
    )
    add_settings(parser, TRIAL_SECTIONS)


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, UNEXPECTED
    from pathotune_pipeline.doctor import Wanted, examine

    if arguments.trial:
        return _try(arguments)
    _refuse_trials_flags(arguments)
    first, others = getattr(arguments, "encoder.name"), getattr(arguments, "encoder.also", None)
    encoders = (*([first] if first else []), *(others or ()))
    checks = examine(Wanted(arguments.store, arguments.executor, encoders, arguments.prefect))
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        _print(checks)
    return UNEXPECTED if any(check.state == "bad" for check in checks) else OK


def _print(checks: Sequence[Check]) -> None:
    for check in checks:
        print(f"{check.state:<5} {check.name:<24} {check.found}" + (f". {check.mend}" if check.mend else ""))


def _refuse_trials_flags(arguments: argparse.Namespace) -> None:
    from pathotune_pipeline.errors import UsageError

    named = [f"--{name}" for name in _OF_TRIAL if getattr(arguments, name) is not None]
    keys = sorted(given(arguments).keys() - {"encoder.name", "encoder.also"})
    if named or keys or arguments.assignments:
        told = ", ".join([*named, *keys, *arguments.assignments])
        raise UsageError(f"{told}: for a trial of slides alone. Give --trial too, or leave it out.")


def _try(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.archive.manifest import read_manifest
    from pathotune_pipeline.cli.extract import extract_spec
    from pathotune_pipeline.cli.main import OK, UNEXPECTED
    from pathotune_pipeline.doctor.trial.page import write_trial
    from pathotune_pipeline.doctor.trial.spec import TrialSpec
    from pathotune_pipeline.doctor.trial.trial import Site, run_trial
    from pathotune_pipeline.errors import UsageError

    if arguments.out is None:
        raise UsageError("--trial needs --out DIR, a folder for trial.html and trial.json.")
    settings = config.load(TRIAL_SECTIONS, arguments.config, arguments.assignments, given(arguments))
    trial = settings["trial"]
    assert isinstance(trial, TrialSpec)
    manifest = read_manifest(arguments.slides, arguments.manifest)
    site = Site(manifest, extract_spec(settings), arguments.pseudonymise)
    result = run_trial(site, trial, arguments.out, tell=lambda what: print(f"trying    {what}", file=sys.stderr))
    page = write_trial(result, arguments.out)
    if arguments.json:
        print(json.dumps(result.as_dict()))
    else:
        _print([*result.verdicts, *(check for check in result.checks if check.state != "ok")])
        print(f"trial     {'passed' if result.passed else 'failed'}: {page}")
    return OK if result.passed else UNEXPECTED
