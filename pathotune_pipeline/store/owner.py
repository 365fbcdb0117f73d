"""Which process something belongs to, and whether that process is gone: for staging, leases, and copies of slides."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path

import psutil

_SAME_START = 200
"""Hundredths of a second by which two readings of one process's start may differ."""


def owner_name() -> str:
    """A name for this process that no other living process of any machine has: system, pid, start time."""
    return _owner_name(os.getpid())  # a forked child is another process


@cache
def _owner_name(pid: int) -> str:
    return f"{system_name()}-{pid}-{int(psutil.Process(pid).create_time() * 100)}"


@cache
def system_name() -> str:
    """This boot of this machine, and this container of it: a pid means something only inside it."""
    parts = [os.uname().nodename]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(name) if "ns" in name.split("/") else Path(name).read_text().strip())
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


def is_here(owner: str) -> bool:
    """Whether an owner is, or was, a process of this system."""
    return owner.partition("-")[0] == system_name()


def is_gone(owner: str) -> bool | None:
    """Whether a process has ended; None where that cannot be told from here (another machine, or no owner's name)."""
    system, _, rest = owner.partition("-")
    pid, _, started = rest.partition("-")
    if system != system_name() or not pid.isdigit() or not started.isdigit():
        return None
    try:
        process = psutil.Process(int(pid))
        dead = process.status() == psutil.STATUS_ZOMBIE
        return dead or abs(process.create_time() * 100 - int(started)) > _SAME_START
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return None
