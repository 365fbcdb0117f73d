"""How large a puzzle's pieces are, and how many stay in place, in each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pathotune_pipeline.errors import SpecError

Strategy = Literal["loop", "linear", "reverse", "decay", "random", "fixed", "loss-hold", "loss-back"]
STRATEGIES = get_args(Strategy)

LOOP_EPOCHS = 3
BETTER = 0.933
"""A loss at or below so much of the last mark counts as progress."""
HARDER, EASIER = 0.9, 1.1


@dataclass(frozen=True, slots=True)
class Stage:
    """What the puzzles of an epoch are like.

    Attributes:
        piece_px: side of a piece.
        fix_share: share of the pieces that stay in place.
    """

    piece_px: int
    fix_share: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a curriculum that follows the loss has come to.

    Attributes:
        place: in the sizes from the largest down; -1 before its first epoch.
        fix_share: share of the pieces that stay in place.
        mark: the loss that the next one is held against; None before there is one.
    """

    place: int = -1
    fix_share: float = 0.0
    mark: float | None = None


def piece_sizes(input_px: int, patch_px: int) -> tuple[int, ...]:
    """Sides that pieces may have: multiples of the network's patch that divide its input, without the whole image.

    Raises:
        SpecError: there is none.
    """
    sizes = tuple(side for side in range(patch_px, input_px, patch_px) if input_px % side == 0)
    if not sizes:
        raise SpecError(f"puzzle: an input of {input_px} px with patches of {patch_px} px cannot be cut into pieces.")
    return sizes


@dataclass(frozen=True, slots=True)
class Curriculum:
    """The published courses of PuzzleTuning, each a function of the epoch; two of them follow the loss.

    In the warm-up all but "decay" and "fixed" have pieces of the second smallest size. Where the published code was to
    follow the loss, the loss never reached it; "loss-hold" and "loss-back" are our reading: pieces begin at the
    largest size with the largest share in place. The first epoch of a stage sets a mark; one whose mean loss is at most
    0.933 of it makes the next epoch a step harder: the next smaller size, 0.9 of the share. "loss-back" also goes a step
    back, to the next larger size and 1.1 of the share, where the loss is above the mark by as much.

    Attributes:
        strategy: its name.
        sizes: from the smallest up.
        epochs: of the whole run.
        warmup: epochs of the warm-up.
        fix_share: share of the pieces that stay, where the strategy does not change it.
        piece_px: side of the pieces with "fixed"; 0 for the smallest.
        seed: of "random".
    """

    strategy: Strategy
    sizes: tuple[int, ...]
    epochs: int
    warmup: int
    fix_share: float = 0.25
    piece_px: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.piece_px and self.piece_px not in self.sizes:
            raise SpecError(f"piece_px {self.piece_px}: pieces may have sides of {', '.join(map(str, self.sizes))} px.")

    @property
    def plain(self) -> Stage:
        """The stage of the warm-up; also the one on which watched images are judged."""
        if self.strategy == "fixed":
            return Stage(self.piece_px or self.sizes[0], self.fix_share)
        if self.strategy == "decay":
            return Stage(self.sizes[0], self.fix_share)
        return Stage(self.sizes[min(1, len(self.sizes) - 1)], self.fix_share)

    def stage(self, epoch: int, standing: Standing, loss: float | None = None) -> tuple[Stage, Standing]:
        """What an epoch's puzzles are like.

        Args:
            epoch: from 0.
            standing: as the last call gave it.
            loss: the mean of the last epoch; None before there is one.

        Returns:
            The stage, and the standing for the next call.
        """
        if epoch < self.warmup:
            return self.plain, standing
        since, length = epoch - self.warmup, max(1, self.epochs - self.warmup)
        share = min(since * len(self.sizes) // length, len(self.sizes) - 1)
        match self.strategy:
            case "loop":
                found = Stage(self.sizes[since // LOOP_EPOCHS % len(self.sizes)], self.fix_share)
            case "linear":
                found = Stage(self.sizes[share], self.fix_share)
            case "reverse":
                found = Stage(self.sizes[-1 - share], self.fix_share)
            case "decay":
                left = (self.epochs - epoch) / length * self._most
                found = Stage(self.sizes[0], min(max(left, self._least), self._most))
            case "random":
                found = Stage(int(np.random.default_rng([self.seed, epoch]).choice(self.sizes)), self.fix_share)
            case "fixed":
                found = self.plain
            case "loss-hold" | "loss-back":
                standing = self._follow(standing, loss)
                found = Stage(self.sizes[-1 - standing.place], standing.fix_share)
        return found, standing

    @property
    def _most(self) -> float:
        return min(3 * self.fix_share, 0.9)

    @property
    def _least(self) -> float:
        return min(max(0.5 * self.fix_share, 0.2), self._most)

    def _follow(self, standing: Standing, loss: float | None) -> Standing:
        if standing.place < 0:  # the warm-up's loss says nothing about these pieces
            return Standing(0, self._most)
        if loss is None or standing.mark is None:
            return Standing(standing.place, standing.fix_share, loss)
        if loss <= BETTER * standing.mark:
            return self._moved(standing, 1, HARDER)
        if self.strategy == "loss-back" and loss >= standing.mark / BETTER:
            return self._moved(standing, -1, EASIER)
        return standing

    def _moved(self, standing: Standing, step: int, factor: float) -> Standing:
        place = min(max(standing.place + step, 0), len(self.sizes) - 1)
        return Standing(place, min(max(standing.fix_share * factor, self._least), self._most))
