"""Whether this machine has what is needed: one check a line, with what to do where one fails."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "bad"]
NEEDED_FREE_GB = 10.0
FASTAPI_LIMIT = (0, 151)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        state: ok; note: works with less; bad: something will fail.
        found: what was found, and what to do where it is not ok.
    """

    name: str
    state: State
    found: str


def examine(store: Path | None = None) -> list[Check]:
    """Every check, in the order in which a run would need them.

    Args:
        store: a folder whose disk is looked at; the working folder when empty.
    """
    return [check for look in _LOOKS for check in look()] + list(_disk(store or Path.cwd()))


def _python() -> Iterator[Check]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check(
        "python", "ok" if good else "bad", sys.version.split()[0] + ("" if good else ": use 3.11, 3.12 or 3.13")
    )


def _readers() -> Iterator[Check]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield Check("openslide", "bad", f"cannot be loaded ({error}). Install openslide-python and openslide-bin.")
    else:
        yield Check("openslide", "ok", f"library {openslide.__library_version__}")
    for package in ("tiffslide", "tifffile", "imagecodecs", "opencv-python-headless"):
        yield _package(package)
    try:
        version("opencv-python")
    except PackageNotFoundError:
        return
    yield Check("opencv-python", "note", "installed beside opencv-python-headless; they share a folder. Uninstall one.")


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "bad", f"not installed. Install it with: pip install {name}")


def _torch() -> Iterator[Check]:
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        yield Check("torch", "bad", f"cannot be loaded ({error}). Install torch and a torchvision made for it.")
        return
    yield Check("torch", "ok", f"{torch.__version__}, torchvision {torchvision.__version__}")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Check("gpu", "ok", ", ".join(names))
    else:
        yield Check("gpu", "note", "none found; encoders run on the CPU")
    yield _package("timm")


def _flows() -> Iterator[Check]:
    for name in ("zarr", "dask", "distributed", "prefect"):
        yield _package(name)
    try:
        found = version("fastapi")
    except PackageNotFoundError:
        return
    number = tuple(int(part) for part in found.split(".")[:2])
    good = number < FASTAPI_LIMIT
    yield Check("fastapi", "ok" if good else "bad", found + ("" if good else ": Prefect's server needs fastapi<0.151"))
    address = os.environ.get("PREFECT_API_URL")
    yield Check(
        "prefect server",
        "ok" if address else "note",
        "PREFECT_API_URL is set" if address else "none set; flows start their own",
    )


def _weights() -> Iterator[Check]:
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        yield Check("huggingface-hub", "bad", f"cannot be loaded ({error})")
        return
    if constants.HF_HUB_OFFLINE:
        yield Check("weights", "note", "HF_HUB_OFFLINE is set: only cached weights can be used")
    token = "a token is set" if get_token() else "no token; gated encoders (UNI, Virchow2, ...) need one: hf auth login"
    yield Check("hub login", "ok" if get_token() else "note", token)


def _cores() -> Iterator[Check]:
    import psutil

    from pathotune_pipeline.execution.executor import usable_cores

    memory = psutil.virtual_memory().total / 2**30
    yield Check("machine", "ok", f"{usable_cores()} cores, {memory:.0f} GiB of memory")


def _disk(folder: Path) -> Iterator[Check]:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    state: State = "ok" if free >= NEEDED_FREE_GB else "note"
    yield Check(
        "disk", state, f"{free:.0f} GB free for {folder}" + ("" if state == "ok" else "; a store may need more")
    )
    try:
        with tempfile.TemporaryDirectory(dir=folder) as trial:
            os.link(_touch(Path(trial) / "a"), Path(trial) / "b")
    except OSError as error:
        yield Check(
            "store's disk", "note", f"no hard links or not writable ({error.strerror}); commits fall back to O_EXCL"
        )
    else:
        yield Check("store's disk", "ok", "writable, hard links work")


def _touch(path: Path) -> Path:
    path.touch()
    return path


_LOOKS: tuple[Callable[[], Iterator[Check]], ...] = (_python, _cores, _readers, _torch, _flows, _weights)
