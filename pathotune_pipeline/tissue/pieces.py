"""Which piece of tissue a box belongs to."""

from __future__ import annotations

import cv2
import numpy as np

from pathotune_pipeline.geometry import Size


def piece_of_boxes(mask: np.ndarray, boxes: np.ndarray, level0_size: Size) -> np.ndarray:
    """The piece of tissue that covers most of each box.

    Args:
        mask: bool [h, w] over the whole slide.
        boxes: float64 [N, 4], (x, y, width, height) in level-0 pixels.
        level0_size: of the slide in pixels.

    Returns:
        int64 [N]: number of the piece in the order of `outline.trace`, which is that of the outlines in a GeoJSON; -1
        where a box holds no tissue.
    """
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    across, down = mask.shape[1] / level0_size.width, mask.shape[0] / level0_size.height
    found = np.full(len(boxes), -1, np.int64)
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * (across, down, across, down)
    for row, (x, y, width, height) in enumerate(scaled):
        inside = labels[_span(y, height, mask.shape[0]), _span(x, width, mask.shape[1])]
        counts = np.bincount(inside.ravel())
        if len(counts) > 1:
            found[row] = int(counts[1:].argmax())  # label 1 is piece 0
    return found


def _span(start: float, length: float, limit: int) -> slice:
    first = min(max(0, int(start)), limit - 1)
    return slice(first, min(limit, max(first + 1, int(np.ceil(start + length)))))
