"""Which device the work runs on."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pathotune_pipeline.errors import SpecError

_NAMES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name, checked to be there.

    Args:
        name: "auto" (CUDA, then MPS, then CPU), "cpu", "mps", "cuda" or "cuda:1".

    Raises:
        SpecError: the name means nothing, or this machine has no such device.
    """
    if not _NAMES.fullmatch(name):
        raise SpecError(f"device: {name!r} was asked for; it must be auto, cpu, mps, cuda or cuda:<number>.")
    if name == "auto":
        return _best()
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count} CUDA device{'s' if count != 1 else ''}"
            raise SpecError(f"device: {name} was asked for; this machine has {found}. Use auto or cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SpecError("device: mps was asked for; this machine has none. Use auto or cpu.")
    return device


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let operations on the CPU use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_cpu_thread_here() -> None:
    """Let the calling thread's operations on the CPU use one core; what other threads use stays as it is.

    ``torch.set_num_threads`` alone also says what every thread born later begins with, and with it which bits a
    training in the same process gives.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    restore = threading.Thread(target=torch.set_num_threads, args=(before,))
    restore.start()
    restore.join()


def _best() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
