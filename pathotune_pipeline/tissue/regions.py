"""Which classes of a slide's annotations tiles may lie in, and how much of each tile each class covers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tissue.annotations import Annotations, draw
from pathotune_pipeline.tissue.mask import TissueMask

Missing = Literal["fail", "whole", "empty"]


class RegionSpec(Spec):
    """Which annotated regions tiles are taken from. Without a folder of annotations: all tissue."""

    annotations: str | None = setting(
        None,
        "Folder of QuPath GeoJSON or ASAP XML files, each named after its slide; class shares of each tile are stored.",
        hashed=False,
    )
    roi: tuple[str, ...] = setting((), "Classes of which a tile must hold its share of tissue; none given: anywhere.")
    exclude: tuple[str, ...] = setting((), "Classes whose area does not count as tissue.")
    missing: Missing = setting(
        "fail",
        "A slide without an annotation file: fail it, take its whole tissue, or leave it empty (decides only for such).",
        flag="annotations-missing",
    )


@dataclass(frozen=True)
class Regions:
    """Where tiles may be taken from in one slide.

    Attributes:
        allowed: tissue inside the regions asked for and outside those excluded.
        classes: every class of the annotations, in the order of the names.
        draw_class: the mask of one class.
    """

    allowed: TissueMask
    classes: tuple[str, ...]
    draw_class: Callable[[str], np.ndarray]

    def class_fraction(self, boxes: np.ndarray) -> np.ndarray:
        """Share of each box that each class covers, with or without tissue.

        Args:
            boxes: float64 [N, 4], (x, y, width, height) in level-0 pixels.

        Returns:
            float32 [N, C], 0 to 1, in the order of `classes`.
        """
        shares = np.zeros((len(boxes), len(self.classes)), np.float32)
        for index, name in enumerate(self.classes):
            shares[:, index] = replace(self.allowed, mask=self.draw_class(name)).fraction(boxes)
        return shares


def find_regions(tissue: TissueMask, annotations: Annotations | None, spec: RegionSpec) -> Regions:
    """Join tissue and annotations, at the mask's resolution.

    Args:
        tissue: of the whole slide.
        annotations: of the slide, or None where it has none: `spec.missing` decides then.
        spec: which classes.

    Raises:
        AnnotationError: a class of `spec.roi` is not annotated, or an annotation lies outside the slide. An excluded
            class may be absent: most slides have nothing of it.
    """
    if annotations is None:
        mask = tissue.mask if spec.missing == "whole" else np.zeros_like(tissue.mask)
        return Regions(replace(tissue, mask=mask), (), lambda _: mask)
    shape: tuple[int, int] = (tissue.mask.shape[0], tissue.mask.shape[1])

    def draw_class(name: str) -> np.ndarray:
        return draw(annotations.of(name), shape, tissue.level0_size)

    inside = np.zeros(shape, bool) if spec.roi else np.ones(shape, bool)
    for name in spec.roi:
        inside |= draw_class(name)
    for name in spec.exclude:
        if name in annotations.classes:
            inside &= ~draw_class(name)
    return Regions(replace(tissue, mask=tissue.mask & inside), tuple(annotations.classes), draw_class)
