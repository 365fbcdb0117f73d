"""What a run leaves on Prefect's pages. A server that is away costs the summary, and the run goes on."""

from __future__ import annotations

import logging

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import PrefectException

_log = logging.getLogger("pathotune.summaries")


def leave_summary(key: str, markdown: str, description: str) -> bool:
    """Leave an artifact of a flow run.

    Args:
        key: under which Prefect's pages list it.
        markdown: what it says; store and report say the same.
        description: one line about it.

    Returns:
        Whether Prefect took it.
    """
    try:
        create_markdown_artifact(key=key, markdown=markdown, description=description)
    except (httpx.HTTPError, PrefectException, OSError) as error:  # its text may hold an address with a login
        _log.warning("Prefect did not take the %s (%s); store and report have it", key, type(error).__name__)
        return False
    return True
