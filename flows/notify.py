"""A webhook that hears of failures: plain JSON by POST, numbers and slide ids and nothing else. It never fails a night.

Its address comes from the environment of the process that runs the flow, `PATHOTUNE_WEBHOOK_URL`, and where it wants one its
bearer token from `PATHOTUNE_WEBHOOK_TOKEN`: neither is a parameter, which Prefect's pages would show, nor is either logged.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

URL, TOKEN = "PATHOTUNE_WEBHOOK_URL", "PATHOTUNE_WEBHOOK_TOKEN"
TIMEOUT_S = 10.0
MOST_SLIDES = 100
"""Ids in one message; the numbers count them all."""

_log = logging.getLogger("pathotune.notify")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is sent goes where the user said, and nowhere else."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


def notify(
    event: str, flow: str, *, run: str = "", slides: Mapping[str, Sequence[str]] | None = None, **numbers: Any
) -> bool:
    """Tell the webhook, where there is one.

    Args:
        event: "failure": a flow ended with an error; "slides": some failed or were quarantined.
        flow: name of the flow.
        run: name of its run, under which logs and reports have the reasons.
        slides: ids by what became of them. No reason is sent: libraries' messages may hold what is private.
        numbers: further plain values.

    Returns:
        Whether somebody took it.
    """
    address = os.environ.get(URL)
    if not address:
        return False
    listed = {name: {"count": len(ids), "slide_ids": list(ids)[:MOST_SLIDES]} for name, ids in (slides or {}).items()}
    body = {"source": "pathotune", "event": event, "flow": flow, "run": run, "slides": listed, **numbers}
    headers = {"Content-Type": "application/json", "User-Agent": "pathotune"}
    if os.environ.get(TOKEN):
        headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
    try:
        if not address.startswith(("https://", "http://")):
            raise ValueError("not http")
        request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S) as answer:
            return bool(200 <= answer.status < 300)
    except urllib.error.HTTPError as error:
        _log.warning("the webhook refused a message (HTTP %d); look at %s", error.code, URL)
    except (OSError, ValueError, http.client.HTTPException) as error:  # its text may hold the address
        _log.warning("the webhook could not be told (%s); look at %s", type(error).__name__, URL)
    return False


def tell_of_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook for `on_failure` and `on_crashed`."""
    notify("failure", str(flow.name), run=str(flow_run.name), state=str(state.name))
