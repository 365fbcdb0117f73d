"""A slide's annotations on their way from file to tiles."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from pathotune_pipeline.errors import AnnotationError
from pathotune_pipeline.features.guidance import AnnotationFile
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tissue.annotations import parse_annotations
from pathotune_pipeline.tissue.mask import TissueMask
from pathotune_pipeline.tissue.regions import Regions, RegionSpec, find_regions


def regions_of(tissue: TissueMask, file: AnnotationFile | None, spec: RegionSpec) -> Regions | None:
    """Where tiles may be taken from; None where no regions are asked for.

    Raises:
        AnnotationError: the file is unreadable, lacks a class, is another slide's, or is not the one that was planned with.
    """
    if file is None:
        return None
    if file.path is None:
        return find_regions(tissue, None, spec)
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"its annotation file cannot be read ({error.strerror or 'unknown reason'}).") from None
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise AnnotationError("its annotation file changed after the run was planned. Run again.")
    return find_regions(tissue, parse_annotations(data, file.path.suffix), spec)


def region_arrays(
    regions: Regions | None, grid: TileGrid, file: AnnotationFile | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a tiles group holds of regions: `class_fraction` float32 [N, C], and facts with the names of the classes."""
    if regions is None or file is None:
        return {}, {}
    facts = {"classes": list(regions.classes), "annotation": file.digest}
    return {"class_fraction": regions.class_fraction(grid.boxes)}, facts
