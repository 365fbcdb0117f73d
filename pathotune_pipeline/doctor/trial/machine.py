"""What a trial ran on. No name of a host, a user or a folder is in it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from pathotune_pipeline.execution.executor import usable_cores
from pathotune_pipeline.provenance import machine, package_versions


def machine_facts() -> dict[str, Any]:
    """Processor, cores that may be used, memory, GPUs, system, and versions of libraries."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        **machine(),
        "release": platform.release(),
        "processor": _processor(),
        "usable_cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus if torch.cuda.is_available() else [],
        "versions": package_versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
