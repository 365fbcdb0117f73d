"""Small, exact operations on arrays of pixels that every reader shares."""

from __future__ import annotations

import numpy as np

WHITE = 255


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Composite straight (not premultiplied) alpha over white.

    Args:
        rgba: uint8 [H, W, 4].

    Returns:
        uint8 [H, W, 3]. Alpha 0 gives white, alpha 255 gives the colour unchanged.
    """
    rgb = np.ascontiguousarray(rgba[..., :3])
    alpha = rgba[..., 3]
    if int(alpha.min(initial=WHITE)) == WHITE:
        return rgb
    rows, columns = np.nonzero(alpha != WHITE)
    share = alpha[rows, columns].astype(np.uint32)[:, None]
    mixed = (rgb[rows, columns].astype(np.uint32) * share + WHITE * (WHITE - share) + 127) // WHITE
    rgb[rows, columns] = mixed.astype(np.uint8)
    return rgb


def to_rgb(samples: np.ndarray) -> np.ndarray:
    """Bring grey, RGB or RGBA samples to RGB.

    Args:
        samples: uint8 [H, W, 1], [H, W, 3] or [H, W, 4].

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: another number of samples.
    """
    count = samples.shape[-1]
    if count == 3:
        return samples
    if count == 1:
        return np.repeat(samples, 3, axis=-1)
    if count == 4:
        return over_white(samples)
    raise ValueError(f"{count} samples per pixel; 1 (grey), 3 (RGB) or 4 (RGBA) can be read")


def white(width: int, height: int) -> np.ndarray:
    """A white uint8 [height, width, 3]."""
    return np.full((height, width, 3), WHITE, np.uint8)
