"""Schedules on a Prefect server: work pools and deployments, as a file says. Run it again after each change of the file.

The server is that of PREFECT_API_URL (or of Prefect's profile); a pool's workers are started with
`prefect worker start --pool NAME` where this package is installed and slides and store lie under the same paths.

Example:
  pathotune deploy --file configs/deployments.yaml --dry-run
  PREFECT_API_URL=http://127.0.0.1:4200/api pathotune deploy --file deployments.yaml
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pathotune_pipeline.cli.flow import needs_flows


def add_file(parser: argparse.ArgumentParser) -> None:
    """The flags that name deployments."""
    parser.add_argument("--file", type=Path, required=True, metavar="YAML", help="such as configs/deployments.yaml")
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="only these deployments")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="check the file, and tell nobody")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK
    from pathotune_pipeline.errors import UsageError

    needs_flows()
    from flows.deployments import deploy, read_deployments
    from flows.environment import server_problem

    spec = read_deployments(arguments.file, arguments.only)
    made: dict[str, str | None] = {f"{each.flow}/{name}": None for name, each in spec.deployments.items()}
    if not arguments.dry_run:
        problem = server_problem()
        if problem:
            raise UsageError(problem)
        made = {**deploy(spec)}
    if arguments.json:
        print(json.dumps(made, indent=1))
        return OK
    for name, each in spec.deployments.items():
        when = f"{each.cron} {each.timezone or 'UTC'}" if each.cron else "when it is asked for"
        print(f"{each.flow}/{name}: {when}, pool {each.work_pool or '-'}" + (", paused" if each.paused else ""))
    print("the file is well; nothing was sent" if arguments.dry_run else "deployed")
    return OK
