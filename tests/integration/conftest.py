"""Commands as users run them, and a store reduced to its committed bits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pathotune_pipeline.store import open_store
from pathotune_pipeline.store.files import UNFINISHED

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


def canonical(store: Path) -> dict[str, str]:
    """All that a store says of slides, by file: every byte of the data, every record, without the times they were made."""
    found = {}
    for path in sorted((*(store / "data.zarr").rglob("*"), *(store / "commits").rglob("*"))):
        if path.is_file() and not UNFINISHED.fullmatch(path.name):
            data = path.read_bytes()
            if path.suffix == ".json":
                facts = json.loads(data)
                facts.pop("committed_ns", None)
                facts.get("attributes", {}).pop("made", None)
                data = json.dumps(facts, sort_keys=True).encode()
            found[str(path.relative_to(store))] = hashlib.sha256(data).hexdigest()
    return found


def start(archive: Path, store: Path, *more: object, failpoint: str | None = None) -> subprocess.Popen[str]:
    """Begin an extraction with tiles of 128 px in a process, and a process group, of its own."""
    extra = {"PATHOTUNE_FAILPOINT": failpoint} if failpoint else {}
    words = ("extract", "--tile-px", 128, "--json", "--slides", archive, "--store", store, *more)
    command = [sys.executable, "-m", "pathotune_pipeline.cli", *map(str, words)]
    return subprocess.Popen(
        command, env={**ENVIRONMENT, **extra}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def await_stop(process: subprocess.Popen[str]) -> None:
    """Wait until a failpoint has stopped a process."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.02)
    raise AssertionError("the failpoint was never reached")


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
