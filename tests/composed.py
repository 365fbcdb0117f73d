"""docker/compose.yaml as its services would be started, with hosts, ports and paths of this machine in place of theirs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.serving import ROOT

FILE = ROOT / "docker" / "compose.yaml"
ASKED_FOR = {"PATHOTUNE_ARCHIVE": "/slides", "PATHOTUNE_DATA": "/out"}
"""What docker/.env must say."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}|\$\$")


def interpolated(value: Any, given: Mapping[str, str]) -> Any:
    """A value with its variables filled in, as Compose does it."""
    if isinstance(value, dict):
        return {name: interpolated(each, given) for name, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, given) for each in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else given[found[1]] if found[1] in given else str(found[2])

    return _VARIABLE.sub(fill, value)


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = interpolated(yaml.safe_load(FILE.read_text()), ASKED_FOR)["services"]
    return found


def here(words: list[str], table: Mapping[str, str]) -> list[str]:
    """Words of a service with its names, ports and paths exchanged for others."""
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}(?![\w])" for name in table))
    return [pattern.sub(lambda found: table[found[0]], word) for word in words]


def environment_here(service: Mapping[str, Any], table: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """A service's environment over another one, with this interpreter's commands first on the path."""
    own = dict(zip(service["environment"], here([*service["environment"].values()], table), strict=True))
    return {**base, **own, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{base['PATH']}"}
