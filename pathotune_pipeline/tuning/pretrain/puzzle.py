"""Puzzles: pieces of several images change places with one another, and some stay where they are.

"PuzzleTuning: Explicitly Bridge Pathological and Natural Image with Puzzles", arXiv 2311.06712.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.restore import from_patches, to_patches


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Images whose pieces have changed places.

    Attributes:
        pixels: as the images, [B, 3, H, W].
        moved: bool [B, n] by piece, in raster order: whether another piece may lie there now.
    """

    pixels: Tensor
    moved: Tensor


def make_puzzle(images: Tensor, draws: Draws, *, piece_px: int, fix_share: float, group: int = 0) -> Puzzle:
    """Cut images into pieces, keep some in place, and deal the others out again among a group of images.

    Of the n pieces of an image, floor(n * fix_share) stay, drawn for each image by itself. Those that do not stay are
    put together over `group` images that follow one another, shuffled, and dealt back into the places that they left.

    Args:
        images: [B, C, S, S].
        draws: random numbers for these rows.
        piece_px: side of a piece; divides S.
        fix_share: share of the pieces that stay, 0 to 1.
        group: images among which pieces travel; 0 for all of these, 1 for each by itself.

    Raises:
        SpecError: pieces that do not fill an image, or groups that do not fill the batch.
    """
    count, side = len(images), images.shape[-1]
    if side % piece_px:
        raise SpecError(f"puzzle: pieces of {piece_px} px do not fill images of {side} px. Choose a divisor.")
    group = group or count
    if count % group:
        raise SpecError(f"puzzle: groups of {group} images do not fill a batch of {count}. Choose a divisor.")
    pieces = to_patches(images, piece_px)  # [B, n, K]
    total = pieces.shape[1]
    fixed = math.floor(total * fix_share + 1e-9)
    order = draws.uniform(total).to(images.device).argsort(dim=1, stable=True)
    places = order[:, fixed:].sort(1).values  # [B, n - fixed], where pieces leave and come in
    moving = pieces.gather(1, _wide(places, pieces)).reshape(count // group, -1, pieces.shape[-1])
    lots = draws.uniform(total - fixed).to(images.device).reshape(count // group, -1)
    dealt = moving.gather(1, _wide(lots.argsort(dim=1, stable=True), moving)).reshape(count, -1, pieces.shape[-1])
    puzzled = pieces.scatter(1, _wide(places, pieces), dealt)
    moved = places.new_zeros(order.shape).scatter(1, places, 1).bool()
    return Puzzle(from_patches(puzzled, piece_px, side // piece_px), moved)


def by_patch(moved: Tensor, *, pieces_a_row: int, patches_a_piece: int) -> Tensor:
    """Flags of pieces [B, n] to flags of the network's smaller patches, [B, N], both in raster order."""
    grid = moved.unflatten(1, (pieces_a_row, pieces_a_row))
    return grid.repeat_interleave(patches_a_piece, 1).repeat_interleave(patches_a_piece, 2).flatten(1)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[:, :, None].expand(-1, -1, like.shape[-1])
