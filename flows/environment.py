"""What Prefect must be told before it is imported. Import this first."""

from __future__ import annotations

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # An ephemeral server migrates its database when it is new, which takes longer than Prefect waits.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_CLI_COLORS": "false",
}


def prepare() -> None:
    """Set defaults for what the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


prepare()
