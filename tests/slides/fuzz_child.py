"""Run in a child process: opens damaged files one by one and prints what became of each, a line of JSON a file.

    python fuzz_child.py LIMIT_BYTES < lines of "damaged file <TAB> .npz of the undamaged tiles"

What dies or hangs is the last file that was announced. The alarm's default action ends the process.
"""

from __future__ import annotations

import json
import resource
import signal
import sys

import numpy as np

from pathotune_pipeline.errors import SlideError, TileReadError, UnreadableSlideError
from pathotune_pipeline.slides import SlideSpec, open_slide, read_overview

TILE = 64
SECONDS = 10


def places(levels: list[list[int]]) -> list[tuple[int, int, int]]:
    """(level, x, y) of each tile that is read, in px of level 0: up to 24 on level 0, the first 6 of others."""
    found = []
    for level, (width, height) in enumerate(levels):
        factor = levels[0][0] // width
        grid = [(level, x * factor, y * factor) for y in range(0, height, TILE) for x in range(0, width, TILE)]
        found += grid[: 6 if level else 24]
    return found


def examine(path: str, reference: str | None) -> dict[str, object]:
    try:
        slide = open_slide(path, SlideSpec(), mpp=0.5)
    except UnreadableSlideError as error:
        return {"opened": False, "reason": str(error)}
    levels = [[level.size.width, level.size.height] for level in slide.info.levels]
    told: dict[str, object] = {"opened": True, "reader": slide.info.reader, "tiles": {}}
    try:
        read_overview(slide, 8.0)
        told["overview"] = ""
    except SlideError as error:
        told["overview"] = str(error)
    wanted = np.load(reference) if reference else None
    same_shape = wanted is None or levels == wanted["levels"].tolist()
    told["same_shape"] = same_shape
    tiles: dict[str, str] = {}
    kept = {"levels": np.array(levels)}
    for level, x, y in places(levels if same_shape else levels[:1]):
        name = f"{level}-{x}-{y}"
        try:
            pixels = slide.read_region((x, y), level, (TILE, TILE))
        except TileReadError as error:
            tiles[name] = f"error: {error}"
            continue
        kept[name] = pixels
        if wanted is not None and same_shape:
            if np.array_equal(pixels, wanted[name]):
                tiles[name] = "equal"
            else:
                tiles[name] = "white" if (pixels == 255).all() and not (wanted[name] == 255).all() else "differs"
    slide.close()
    told["tiles"] = tiles
    if reference is None:
        np.savez(path + ".npz", **kept)
    return told


def main() -> None:
    import cv2  # noqa: F401  (what reading needs is loaded before the limit is set)
    import imagecodecs
    import openslide  # noqa: F401
    import simplejpeg  # noqa: F401
    import tifffile  # noqa: F401
    import tiffslide  # noqa: F401
    from PIL import ImageCms, JpegImagePlugin, PngImagePlugin  # noqa: F401

    imagecodecs.jpeg2k_check(b"")
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        path, _, reference = line.rstrip("\n").partition("\t")
        print(json.dumps({"begin": path}), flush=True)
        signal.alarm(SECONDS)
        told = examine(path, reference or None)
        signal.alarm(0)
        print(json.dumps({"path": path, **told}), flush=True)


if __name__ == "__main__":
    main()
