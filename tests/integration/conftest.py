"""Commands as users run them, and a store reduced to its committed bits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from pathotune_pipeline.store import open_store

ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore"}


def pathotune(*words: object, failpoint: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    extra = {**environment, **({"PATHOTUNE_FAILPOINT": failpoint} if failpoint else {})}
    command = [sys.executable, "-m", "pathotune_pipeline.cli", *map(str, words)]
    return subprocess.run(
        command, env={**ENVIRONMENT, **extra}, capture_output=True, text=True, check=False, timeout=500
    )


def bits(store: Path) -> dict[str, str]:
    """Checksum of every committed array, each compared with its data first."""
    opened = open_store(store)
    found: dict[str, str] = {}
    for name in opened.sets():
        for slide, record in opened.records(name).items():
            opened.verify(record)
            for array, digest in record.facts["checksums"].items():
                found[f"{slide}/{name}/{array}"] = digest
    return found


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
