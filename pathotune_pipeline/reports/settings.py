"""Nested settings as names and short texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and short texts. Of a path only its last part is kept."""
    if not isinstance(values, Mapping):
        return [(prefix, _text(values))]
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        dotted = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            found += flatten(value, dotted)
        else:
            found.append((dotted, _text(value)))
    return found


def _text(value: Any) -> str:
    match value:
        case None | "" | []:
            return ""
        case Mapping():
            return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.10g}"
        case list() | tuple():
            return ", ".join(_text(each) for each in value)
        case str() if value.startswith(("/", "~", "\\")) or value[1:3] in (":\\", ":/"):
            return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return str(value)
