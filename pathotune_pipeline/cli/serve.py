"""Schedules on one workstation: what is due runs here, in processes of its own, until this command is interrupted.

Without PREFECT_API_URL a Prefect server is started on this machine alone (http://127.0.0.1:4200), and ended with it.

Example:
  pathotune serve --file configs/deployments.yaml
"""

from __future__ import annotations

import argparse

from pathotune_pipeline.cli.deploy import add_file
from pathotune_pipeline.cli.flow import needs_flows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="most runs at once; empty: any")
    parser.add_argument("--port", type=int, default=4200, metavar="N", help="of the server that is started [4200]")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK
    from pathotune_pipeline.errors import UsageError

    needs_flows()
    from flows.environment import local_server

    try:
        with local_server(arguments.port) as address:  # before Prefect is imported: it reads its settings then
            from flows.deployments import read_deployments, serve_here

            spec = read_deployments(arguments.file, arguments.only)
            print(f"server    {address}", flush=True)
            serve_here(spec, limit=arguments.limit)
    except OSError as error:
        raise UsageError(f"--port {arguments.port}: {error}.") from None
    return OK
