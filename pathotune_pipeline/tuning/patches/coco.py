"""Patches as COCO JSON: boxes with a category on images, such as MIDOG++'s."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.tuning.patches.files import NamedFiles
from pathotune_pipeline.tuning.patches.ref import Listing, PatchRef, listed
from pathotune_pipeline.tuning.patches.spec import PatchSpec

_SLACK_PX = 1.0


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Box:
    name: str
    image: _Image
    label: str
    numbers: tuple[float, float, float, float]

    def fits_corners(self) -> bool:
        x0, y0, x1, y1 = self.numbers
        return x1 > x0 and y1 > y0

    def fits_size(self) -> bool:
        x, y, width, height = self.numbers
        inside = x + width <= self.image.width + _SLACK_PX and y + height <= self.image.height + _SLACK_PX
        return width > 0 and height > 0 and inside


def list_coco(path: Path, spec: PatchSpec) -> Listing:
    """A patch around the middle of each box; its group is the image. Images are looked for below `spec.images`.

    COCO writes a box as x, y, width, height, MIDOG as two corners; which it is follows from the numbers where only one
    of the two makes sense for all boxes: second corners lie beyond the first, and boxes with a size end in the image.

    Args:
        path: the JSON.
        spec: how boxes are written.

    Raises:
        ManifestError: it is no COCO JSON, refers to what it does not hold, or boxes make sense in both ways or neither.
    """
    where = path.name
    boxes = _boxes(_parsed(path), where)
    if not boxes:
        raise ManifestError(f"{where}: it holds no annotation.")
    corners = _has_corners(boxes, spec, where)
    files = NamedFiles(spec.images or path.parent)
    refs = []
    for box in boxes:
        x, y, third, fourth = box.numbers
        centre = ((x + third) / 2, (y + fourth) / 2) if corners else (x + third / 2, y + fourth / 2)
        file = files.find(box.image.name, where, slide=True)
        refs.append(PatchRef(box.name, file, box.label, group=box.image.name, centre=centre))
    return Listing(tuple(refs), where, (f"{where}: boxes read as {'corners' if corners else 'x, y, width, height'}.",))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{path.name}: cannot be read ({error.strerror or error}). Check the path.") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path.name}: is not JSON ({' '.join(str(error).split())[:200]}).") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(part), list) for part in parts):
        raise ManifestError(f"{path.name}: is no COCO JSON: lists {', '.join(parts)} are needed.")
    return document


def _boxes(document: dict[str, Any], where: str) -> list[_Box]:
    part, entry = "images", None
    try:
        images = {}
        for entry in document["images"]:
            size = (float(entry.get(side, math.inf)) for side in ("width", "height"))
            images[entry["id"]] = _Image(str(entry["file_name"]), *size)
        part = "categories"
        names = {}
        for entry in document["categories"]:
            names[entry["id"]] = str(entry["name"])
        part = "annotations"
        boxes: list[_Box] = []
        for entry in document["annotations"]:
            image, (first, second, third, fourth) = images[entry["image_id"]], map(float, entry["bbox"])
            numbers = (first, second, third, fourth)
            if not all(map(math.isfinite, numbers)):
                raise ValueError("a box of four finite numbers is needed")
            name = f"{image.name}#{entry.get('id', len(boxes))}"
            boxes.append(_Box(name, image, names[entry["category_id"]], numbers))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is absent" if isinstance(error, KeyError) else str(error)
        raise ManifestError(f"{where}: an entry of {part!r} cannot be used ({what}): {str(entry)[:200]}.") from None
    return boxes


def _has_corners(boxes: Sequence[_Box], spec: PatchSpec, where: str) -> bool:
    if spec.boxes != "auto":
        return spec.boxes == "corners"
    against = {
        "corners": [box.name for box in boxes if not box.fits_corners()],
        "xywh": [box.name for box in boxes if not box.fits_size()],
    }
    fitting = [way for way, names in against.items() if not names]
    if len(fitting) == 1:
        return fitting == ["corners"]
    if fitting:
        raise ManifestError(f"{where}: its boxes make sense as corners and as x, y, width, height. Give patches.boxes.")
    told = "; ".join(f"not as {way}: {listed(names, shown=3)}" for way, names in against.items())
    raise ManifestError(f"{where}: its boxes make sense neither way ({told}). Mend them, or give patches.boxes.")
