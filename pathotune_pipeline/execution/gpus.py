"""Which GPUs this machine offers, found without loading a library that would take hold of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

TIMEOUT_S = 20.0
_LINE = re.compile(r"^(?P<indent>\s*)(GPU|MIG)\b.*\(UUID: (?P<uuid>[^)]+)\)")


def visible_gpus() -> list[str]:
    """Names of the GPUs that a process here may use, each as CUDA_VISIBLE_DEVICES takes it; empty where there are none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() and name.strip() != "-1"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_listing(listed)


def parse_listing(text: str) -> list[str]:
    """UUIDs from `nvidia-smi -L`. Of a GPU that is cut into instances those count, and not the whole."""
    found: list[list[str]] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        if match["indent"]:
            found[-1].append(match["uuid"])
        else:
            found.append([match["uuid"]])
    return [uuid for whole, *parts in found for uuid in (parts or [whole])]
