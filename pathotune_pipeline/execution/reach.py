"""Whether servers that a run needs answer: a Prefect API, a Dask scheduler. Neither library's own patience is tried."""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_here(address: str) -> bool:
    """Whether the server at a URL can only be this machine's. No name but localhost is looked up or believed."""
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False


def answers(address: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether a Prefect server answers at the address of its API; one that wants a login answers too."""
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=timeout_s).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def prefect_version(address: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """The version of the Prefect server at the address of an API; None where it does not say."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/admin/version", timeout=timeout_s) as answer:
            return str(json.loads(answer.read()))
    except (OSError, ValueError, http.client.HTTPException):
        return None


def without_login(address: str) -> str:
    """An address without what it may hold of a login."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") + parts.path


def dask_workers(address: str, timeout_s: float = TIMEOUT_S) -> dict[str, dict[str, Any]]:
    """What the workers of a Dask scheduler run with, by their addresses.

    Returns:
        `versions`: of Python and of libraries; `gpu`: whether it has one to give.

    Raises:
        OSError: nothing answers there.
    """
    from distributed import Client

    try:
        with Client(address, timeout=timeout_s, set_as_default=False) as client:
            listed = client.scheduler_info(n_workers=-1)["workers"]
            versions = client.get_versions()["workers"]
    except (OSError, ValueError) as error:
        raise OSError(f"{type(error).__name__}") from None
    return {
        name: {
            "versions": {"python": versions[name]["host"]["python"], **versions[name]["packages"]},
            "gpu": bool(facts.get("resources", {}).get("GPU")),
        }
        for name, facts in listed.items()
        if versions.get(name)
    }
