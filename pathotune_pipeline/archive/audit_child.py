"""The audit's child process: opens slides one after another, so that one that kills or hangs a reader costs itself only.

Requests come as lines of JSON on standard input, answers go as lines of JSON to standard output. Before each stage
the child says which one begins, so that the parent knows where it died.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.archive.companions import companion_files
from pathotune_pipeline.archive.identity import content_hash, redact
from pathotune_pipeline.errors import PathotuneError, ScaleError, TileReadError
from pathotune_pipeline.slides.illumination import glance, illumination_of
from pathotune_pipeline.slides.open import USER_SOURCES, check_scale, open_slide
from pathotune_pipeline.slides.slide import Slide, SlideInfo, SlideSpec

REGION_PX = 256
_SAMPLING_SHARE = 0.4
"""Share of the time limit after which no further region is sampled: a slow disk is no damage."""

Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    """Answer requests until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # native libraries print there

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    idle = _mapped_bytes()
    tell({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _limit(request, idle)
        tell(_answer(request, tell))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    path = Path(request["path"])
    try:
        if request["op"] == "hash":
            tell({"stage": "reading it whole"})
            return {"facts": {"identity": content_hash(path)}}
        return {"facts": look(path, request, tell)}
    except PathotuneError as error:
        if isinstance(error.__cause__, MemoryError):
            return _starved(request)
        problem = str(error)
    except MemoryError:
        return _starved(request)
    except OSError as error:
        problem = f"the disk does not answer: {error.strerror or type(error).__name__}"
    except Exception as error:  # noqa: BLE001 - one slide never ends the audit; its line says what happened
        problem = f"unexpected {type(error).__name__}: {error}"
    return {"problem": redact(" ".join(problem.split()), path, "the slide")}


def _starved(request: dict[str, Any]) -> dict[str, Any]:
    return {"problem": f"it needs more than {request['memory_bytes'] / 1e9:g} GB of memory", "last": True}


def look(path: Path, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Everything the audit asks of one slide, in plain values. No path, label or vendor tag is in them.

    Raises:
        SlideError: it cannot be opened.
    """
    began = time.monotonic()
    spec = SlideSpec.parse(request["slide"])
    tell({"stage": "opening it"})
    own = open_slide(path, SlideSpec(reader=spec.reader))
    own_mpp = own.info.mpp.mean if own.info.mpp else None
    slide = own
    try:
        if request["mpp"] is not None or spec.mpp_override is not None:
            slide = open_slide(path, spec, mpp=request["mpp"])
            own.close()
        facts = {**_plain(slide.info, spec), "own_mpp": own_mpp, "bytes": size_of(path)}
        tell({"stage": "reading regions of it"})
        facts |= _sample(slide, request, began + _SAMPLING_SHARE * request["time_limit_s"])
        tell({"stage": "reading its overview"})
        return facts | _light(slide)
    finally:
        slide.close()


def size_of(path: Path) -> int:
    """Bytes of a slide with all its files."""
    return sum(file.stat().st_size for file in companion_files(path))


def _plain(info: SlideInfo, spec: SlideSpec) -> dict[str, Any]:
    try:
        check_scale(info, spec, overridden=info.mpp_source in USER_SOURCES)
        problem = None
    except ScaleError as error:
        problem = str(error)
    return {
        "vendor": info.vendor,
        "reader": info.reader,
        "width": info.size.width,
        "height": info.size.height,
        "levels": len(info.levels),
        "mpp_x": info.mpp.x if info.mpp else None,
        "mpp_y": info.mpp.y if info.mpp else None,
        "mpp_source": info.mpp_source,
        "scale_problem": problem,
    }


def regions(info: SlideInfo, count: int, seed: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Location and size of level-0 regions drawn for a slide: the same ones for the same seed and size."""
    width, height = min(REGION_PX, info.size.width), min(REGION_PX, info.size.height)
    across, down = info.size.width - width, info.size.height - height
    if across == 0 and down == 0:
        count = min(count, 1)
    draw = np.random.default_rng((seed, info.size.width, info.size.height))
    for x, y in zip(draw.integers(0, across + 1, count), draw.integers(0, down + 1, count), strict=True):
        yield (int(x), int(y)), (width, height)


def _sample(slide: Slide, request: dict[str, Any], until: float) -> dict[str, Any]:
    sampled, unreadable, first = 0, 0, None
    for place, size in regions(slide.info, request["samples"], request["seed"]):
        if sampled and time.monotonic() > until:
            break
        sampled += 1
        try:
            slide.read_region(place, 0, size)
        except TileReadError as error:
            unreadable += 1
            first = first or redact(" ".join(str(error).split()), Path(request["path"]), "the slide")
    return {"sampled": sampled, "unreadable": unreadable, "first_problem": first}


def _light(slide: Slide) -> dict[str, Any]:
    try:
        return {"light": illumination_of(glance(slide))}
    except TileReadError:
        return {"light": None}


def _mapped_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().vms)


def _limit(request: dict[str, Any], idle: int) -> None:
    """Bound this process for one request.

    The address space may grow by the limit over what the libraries take and what the file takes when it is mapped.
    The alarm ends the process even inside native code, should the parent be gone.
    """
    import resource

    try:
        mapped = Path(request["path"]).stat().st_size
    except OSError:
        mapped = 0
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = idle + mapped + int(request["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.setitimer(signal.ITIMER_REAL, request["time_limit_s"] + 10.0)


if __name__ == "__main__":
    main()
