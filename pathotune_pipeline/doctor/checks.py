"""Whether this machine has what is needed: one check a line, with what to do where one fails."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "bad"]
NEEDED_FREE_GB = 10.0
NEEDED_FREE_FILES = 320_000
"""Some 10,000 slides with one encoder."""
NEEDED_OPEN_FILES = 1024
SERVER_LIMITS = {"fastapi": (0, 151), "sqlalchemy": (2, 1)}
"""Versions with which Prefect's server does not start, or starts and schedules nothing."""
_HUB_FILES: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
_SAME = ("python", "distributed", "msgpack", "numpy")
"""What workers elsewhere must have in the same version as this machine, or nearly."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        state: ok; note: works with less; bad: something will fail.
        found: what was found.
        mend: what to do where it is not ok; or empty.
    """

    name: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a site means to use.

    Attributes:
        store: a folder whose disk is looked at; the working folder where None.
        executor: as extractions take it; of a Dask scheduler its workers are asked.
        encoders: whose weights shall be had.
        prefect: whether a Prefect server is needed, as for `pathotune deploy`.
    """

    store: Path | None = None
    executor: str = "local"
    encoders: tuple[str, ...] = ()
    prefect: bool = False


def examine(wanted: Wanted | None = None) -> list[Check]:
    """Every check, in the order in which a run would need them."""
    wanted = wanted or Wanted()
    return [check for look in _LOOKS for check in look(wanted)]


def _python(wanted: Wanted) -> Iterator[Check]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("python", "ok" if good else "bad", sys.version.split()[0], "" if good else "Use 3.11, 3.12 or 3.13.")


def _machine(wanted: Wanted) -> Iterator[Check]:
    import psutil

    from pathotune_pipeline.execution.executor import usable_cores

    memory = psutil.virtual_memory().total / 2**30
    yield Check("machine", "ok", f"{usable_cores()} cores, {memory:.0f} GiB of memory")
    try:
        import resource
    except ImportError:
        return
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = 0 <= files < NEEDED_OPEN_FILES
    mend = f"Raise it to {NEEDED_OPEN_FILES} or more: ulimit -n, or LimitNOFILE of the service." if few else ""
    yield Check("open files", "note" if few else "ok", f"{files} at once" if files >= 0 else "any number", mend)


def _readers(wanted: Wanted) -> Iterator[Check]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield Check("openslide", "bad", f"cannot be loaded ({error})", "Install openslide-python and openslide-bin.")
    else:
        yield Check("openslide", "ok", f"library {openslide.__library_version__}")
    for package in ("tiffslide", "tifffile", "imagecodecs", "simplejpeg", "opencv-python-headless"):
        yield _package(package)
    yield from _read_one()
    try:
        version("opencv-python")
    except PackageNotFoundError:
        return
    yield Check(
        "opencv-python", "note", "stands beside opencv-python-headless, in the same folder", "Uninstall one of them."
    )


def _read_one() -> Iterator[Check]:
    """Write a small slide and read it with every reader that takes such."""
    from pathotune_pipeline.slides.open import READERS, open_slide
    from pathotune_pipeline.slides.slide import SlideSpec
    from pathotune_pipeline.testing.slides import write_slide

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.tif"
        write_slide(path, size_px=(512, 512))
        for name in READERS.names():
            try:
                with closing(open_slide(path, SlideSpec(reader=name))) as slide:
                    slide.read_region((0, 0), 0, (64, 64))
            except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
                told = f"{type(error).__name__}: {error}".replace(str(folder), "").splitlines()[0]
                if name in _OF_TIFF:
                    yield Check(
                        f"reader {name}",
                        "bad",
                        f"cannot read a plain TIFF ({told})",
                        f"Install it again: {_OF_TIFF[name]}.",
                    )
                continue
            yield Check(f"reader {name}", "ok", "reads a slide")


_OF_TIFF = {
    "jpeg": "simplejpeg",
    "openslide": "openslide-python and openslide-bin",
    "tiffslide": "tiffslide and imagecodecs",
}


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "bad", "not installed", f"Install it with: pip install {name}")


def _torch(wanted: Wanted) -> Iterator[Check]:
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        yield Check("torch", "bad", f"cannot be loaded ({error})", "Install torch and a torchvision made for it.")
        return
    yield Check("torch", "ok", f"{torch.__version__}, torchvision {torchvision.__version__}")
    yield from _device()
    yield _package("timm")


def _device() -> Iterator[Check]:
    import torch

    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi")
        mend = (
            "This torch has no CUDA, or the driver is too old for it: install another torch, or a newer driver."
            if driver
            else ""
        )
        yield Check("gpu", "note", "none found; encoders run on the CPU", mend)
        return
    for number in range(torch.cuda.device_count()):
        name = f"gpu {number}"
        try:
            ones = torch.ones(64, 64, device=f"cuda:{number}")
            good = float((ones @ ones).sum()) == 64.0**3
            free, whole = torch.cuda.mem_get_info(number)
        except RuntimeError as error:
            told = str(error).splitlines()[0]
            yield Check(
                name, "bad", f"cannot compute ({told})", "Look at nvidia-smi; restart what holds it, or the machine."
            )
            continue
        found = f"{torch.cuda.get_device_name(number)}, {free / 2**30:.0f} of {whole / 2**30:.0f} GiB free"
        yield Check(name, "ok" if good else "bad", found, "" if good else "It computes wrongly: take it out of use.")


def _store(wanted: Wanted) -> Iterator[Check]:
    for name in ("zarr", "dask", "distributed", "prefect"):
        yield _package(name)
    for name, limit in SERVER_LIMITS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        good = tuple(int(part) for part in found.split(".")[:2]) < limit
        mend = f"Prefect's server needs {name}<{'.'.join(map(str, limit))}."
        yield Check(name, "ok" if good else "bad", found, "" if good else mend)


def _dask(wanted: Wanted) -> Iterator[Check]:
    from pathotune_pipeline.errors import PathotuneError
    from pathotune_pipeline.execution.clusters import read_cluster
    from pathotune_pipeline.execution.reach import dask_workers

    if wanted.executor.endswith((".yaml", ".yml")):
        try:
            read_cluster(Path(wanted.executor))
        except PathotuneError as error:
            yield Check("cluster", "bad", str(error), "Mend the file; configs/execution/ has examples.")
        else:
            yield Check("cluster", "ok", f"{Path(wanted.executor).name} can be read")
        return
    if ":" not in wanted.executor:
        return
    from pathotune_pipeline.execution.reach import without_login

    shown = without_login(wanted.executor)
    try:
        workers = dask_workers(wanted.executor)
    except OSError as error:
        yield Check("dask scheduler", "bad", f"none answers at {shown} ({error})", "Start one with: dask scheduler")
        return
    if not workers:
        yield Check("dask scheduler", "bad", f"{shown} has no worker", f"Start one with: dask worker {shown}")
        return
    gpus = sum(facts["gpu"] for facts in workers.values())
    yield Check("dask scheduler", "ok", f"{shown} has {len(workers)} workers, {gpus} with a GPU to give")
    own = {name: version(name) for name in _SAME if name != "python"} | {"python": sys.version.split()[0]}
    for name in _SAME:
        others = sorted(
            {str(facts["versions"].get(name)).removesuffix(".final.0") for facts in workers.values()} - {own[name]}
        )
        if others:
            mend = f"Install the same on workers and here: what is sent between them may not be understood ({name})."
            yield Check(f"workers' {name}", "note", f"{', '.join(others)}; here {own[name]}", mend)


def _prefect(wanted: Wanted) -> Iterator[Check]:
    from pathotune_pipeline.execution.reach import answers, prefect_version, without_login

    address = os.environ.get("PREFECT_API_URL")
    start = (
        "Start one with `prefect server start` and set PREFECT_API_URL to its API, such as http://127.0.0.1:4200/api."
    )
    if not address:
        if wanted.prefect:
            yield Check("prefect server", "bad", "PREFECT_API_URL is not set", start)
        else:
            yield Check("prefect server", "note", "PREFECT_API_URL is not set; flows start their own")
        return
    shown = without_login(address)
    if not answers(address):
        yield Check("prefect server", "bad", f"none answers at {shown}", f"{start} Or take PREFECT_API_URL away.")
        return
    own, found = version("prefect"), prefect_version(address)
    differs = found is not None and found.split(".")[:2] != own.split(".")[:2]
    mend = f"Bring server and this machine to the same version; here it is {own}." if differs else ""
    yield Check("prefect server", "note" if differs else "ok", f"{shown} answers, version {found or 'not told'}", mend)


def _weights(wanted: Wanted) -> Iterator[Check]:
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        yield Check(
            "huggingface-hub", "bad", f"cannot be loaded ({error})", "Install it with: pip install huggingface-hub"
        )
        return
    if constants.HF_HUB_OFFLINE:
        yield Check("weights", "note", "HF_HUB_OFFLINE is set: only cached weights can be used")
    if get_token():
        yield Check("hub login", "ok", "a token is set")
    else:
        yield Check(
            "hub login", "note", "no token; gated encoders (UNI, Virchow2, ...) need one", "Log in with: hf auth login"
        )
    for name in wanted.encoders:
        yield _encoder(name)


def _encoder(name: str) -> Check:
    """Whether an encoder's weights are here, or would be given to us."""
    from huggingface_hub import HfApi

    from pathotune_pipeline.encoders import catalogue
    from pathotune_pipeline.encoders.create import ENCODERS
    from pathotune_pipeline.encoders.hub import cached_file, hub_errors, split_revision
    from pathotune_pipeline.errors import PathotuneError
    from pathotune_pipeline.registry import nearest

    title, (kind, _, rest) = f"encoder {name}", name.partition(":")
    repository, page, files = rest, f"https://huggingface.co/{rest}", _HUB_FILES
    if name in catalogue.names():
        card = catalogue.find_card(name)
        if card.hub is None:
            return Check(
                title, "bad", "its weights are not on the hub", f"See {card.page}, and give the file: --weights."
            )
        repository, page, files = card.hub, card.page, tuple(card.weight_files)
    elif kind not in ENCODERS.names():
        told = nearest(name, ENCODERS.names())
        return Check(title, "bad", f"there is no such encoder.{told}", "See `pathotune encoders list`.")
    elif kind != "hf-hub":
        return Check(title, "ok", "asks no hub for leave")
    if cached_file(repository, files):
        return Check(title, "ok", "its weights are in the cache")
    try:
        with hub_errors(name, page):
            HfApi().auth_check(split_revision(repository)[0])
    except PathotuneError as error:
        return Check(title, "bad", "its weights are not to be had", str(error))
    return Check(title, "ok", "the hub gives its weights to this login")


def _disk(wanted: Wanted) -> Iterator[Check]:
    folder = (wanted.store or Path.cwd()).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    little = free < NEEDED_FREE_GB
    mend = (
        f"A store may need more: {NEEDED_FREE_GB:.0f} GB or more; `extract --dry-run` tells how much." if little else ""
    )
    yield Check("disk", "note" if little else "ok", f"{free:.0f} GB free for {folder}", mend)
    files = os.statvfs(folder)
    if files.f_files:
        few = files.f_favail < NEEDED_FREE_FILES
        mend = "A store takes some 32 inodes a slide: use another disk, or one made with more of them." if few else ""
        yield Check("disk's inodes", "note" if few else "ok", f"{files.f_favail} free", mend)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as trial:
            (Path(trial) / "a").touch()
            linked = _can_link(Path(trial))
    except OSError as error:
        yield Check(
            "store's disk", "bad", f"cannot be written ({error.strerror})", f"Make {folder} writable, or give another."
        )
        return
    found = "writable, hard links work" if linked else "writable, no hard links: commits fall back to O_EXCL"
    yield Check("store's disk", "ok" if linked else "note", found)


def _can_link(folder: Path) -> bool:
    try:
        os.link(folder / "a", folder / "b")
    except OSError:
        return False
    return True


_LOOKS: tuple[Callable[[Wanted], Iterator[Check]], ...] = (
    _python, _machine, _readers, _torch, _store, _dask, _prefect, _weights, _disk,
)  # fmt: skip
