"""Fingerprints of what was asked, and a record of what did it.

A fingerprint is the SHA-256 of a canonical JSON text, cut to 12 hexadecimal digits where it becomes part of a
name. What decides the result is hashed; library versions, device, batch size and reader are recorded beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pathotune_pipeline.version import VERSION

SHORT = 12
"""Hexadecimal digits of a fingerprint where it stands in a name."""

RECORDED_PACKAGES = (
    "numpy", "torch", "timm", "zarr", "opencv-python-headless", "openslide-python", "openslide-bin", "simplejpeg",
    "tiffslide", "dask", "prefect",
)  # fmt: skip


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(stage: str, revision: int, parts: Mapping[str, Any]) -> str:
    """The 64-digit SHA-256 of a stage's name, revision and everything that decides its result.

    Args:
        stage: "tissue", "tiles", "features", ...
        revision: raised by hand when the stage's algorithm changes.
        parts: plain values; leave defaults out (`spec.hashed_values`), so that a new setting whose default keeps
            the old behaviour keeps old fingerprints.
    """
    text = canonical_json({"stage": stage, "revision": revision, "parts": dict(parts)})
    return hashlib.sha256(text.encode()).hexdigest()


def short(full: str) -> str:
    """The part of a fingerprint that stands in names."""
    return full[:SHORT]


def package_versions() -> dict[str, str]:
    """Versions of the libraries that could explain a difference between two runs."""
    return dict(_package_versions())


@cache
def _package_versions() -> dict[str, str]:
    found = {"pathotune_pipeline": VERSION, "python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the work runs on: processor kind, cores, system. No host or user name."""
    return {"system": sys.platform, "machine": platform.machine(), "cores": os.cpu_count() or 1}


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
