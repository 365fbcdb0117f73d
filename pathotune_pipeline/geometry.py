"""Sizes, places and scales, and the rule by which a pyramid level serves a target scale.

Locations are (x, y) in level-0 pixels. Sizes are (width, height). Arrays are indexed [row, column].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ENLARGEMENT_TOLERANCE = 0.05
"""A level may be coarser than the target by this share; the enlargement is recorded. More is refused."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels of the level they speak of."""

    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Point:
    """A location in level-0 pixels."""

    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in level-0 pixels: top-left corner and extent."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Mpp:
    """Micrometres per pixel along x and y."""

    x: float
    y: float

    @classmethod
    def square(cls, mpp: float) -> Mpp:
        return cls(mpp, mpp)

    @property
    def mean(self) -> float:
        """The one number a square pixel of the same area would have."""
        return float((self.x * self.y) ** 0.5)

    @property
    def anisotropy(self) -> float:
        """How much longer the longer side of a pixel is: 0 for square pixels, 0.05 for 5 %."""
        return max(self.x, self.y) / min(self.x, self.y) - 1.0

    def scaled(self, factor: float) -> Mpp:
        return Mpp(self.x * factor, self.y * factor)


def um_to_px(length_um: float, mpp: float) -> float:
    """Micrometres to pixels of that mpp."""
    return length_um / mpp


def magnification_to_mpp(magnification: float) -> float:
    """The field's convention: 40x is 0.25 um/px, 20x is 0.5, 10x is 1.0."""
    return 10.0 / magnification


@dataclass(frozen=True, slots=True)
class LevelChoice:
    """Which level serves a target scale, and by what factor it is resampled.

    Attributes:
        level: index of the pyramid level.
        level_mpp: its um/px.
        shrink: target mpp / level mpp. Above 1 the level is shrunk; between 0.952 and 1 it is enlarged.
    """

    level: int
    level_mpp: float
    shrink: float

    @property
    def enlargement(self) -> float:
        """Share by which pixels are enlarged, 0 where the level is finer than the target."""
        return max(0.0, 1.0 / self.shrink - 1.0)


def choose_level(level_mpps: Sequence[float], target_mpp: float) -> LevelChoice | None:
    """The scale rule: the coarsest level whose mpp is at most the target's times 1.05.

    Args:
        level_mpps: um/px of each level, level 0 first.
        target_mpp: um/px asked for.

    Returns:
        The choice, or None where even the finest level is too coarse (reading would invent detail).
    """
    limit = target_mpp * (1.0 + ENLARGEMENT_TOLERANCE) * (1.0 + 1e-9)
    fitting = [(mpp, -level) for level, mpp in enumerate(level_mpps) if mpp <= limit]
    if not fitting:
        return None
    mpp, negative_level = max(fitting)
    return LevelChoice(level=-negative_level, level_mpp=mpp, shrink=target_mpp / mpp)
