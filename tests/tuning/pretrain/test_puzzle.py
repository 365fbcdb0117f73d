"""Puzzles: nothing is lost, what stays stays, what moves moves across images, and only within its group."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.puzzle import by_patch, make_puzzle


def numbered(count: int, pieces: int, side: int = 8) -> torch.Tensor:
    """Images whose every piece has a constant of its own: [count, 3, pieces * side, pieces * side]."""
    constants = torch.arange(count * pieces * pieces).float().view(count, 1, pieces, pieces)
    return constants.repeat_interleave(side, 2).repeat_interleave(side, 3).expand(-1, 3, -1, -1)


def constants(images: torch.Tensor, side: int = 8) -> torch.Tensor:
    """[B, n] of `numbered` images; every pixel of a piece must agree."""
    blocks = images.unflatten(2, (-1, side)).unflatten(4, (-1, side))
    first = blocks[:, :1, :, :1, :, :1]
    assert torch.equal(blocks, first.expand_as(blocks))
    return first[:, 0, :, 0, :, 0].flatten(1)


@pytest.mark.parametrize(("group", "share"), [(1, 0.25), (2, 0.25), (4, 0.5), (0, 0.3), (8, 0.0)])
def test_pieces_are_conserved_and_the_fixed_ones_stay(group, share):
    images = numbered(8, 4)
    puzzle = make_puzzle(images, Draws(0, 0, rows=8), piece_px=8, fix_share=share, group=group)
    before, after = constants(images), constants(puzzle.pixels)
    assert (~puzzle.moved).sum(1).tolist() == [int(16 * share + 1e-9)] * 8
    assert torch.equal(after[~puzzle.moved], before[~puzzle.moved])
    for start in range(0, 8, group or 8):
        part = slice(start, start + (group or 8))
        assert Counter(after[part].flatten().tolist()) == Counter(before[part].flatten().tolist())
    assert len({tuple(row) for row in puzzle.moved.tolist()}) > 1 or share == 0


def test_exact_counts_where_a_share_is_no_binary_number():
    for share, kept in ((0.7, 7 * 10), (0.29, 29), (1.0, 100)):
        puzzle = make_puzzle(numbered(2, 10), Draws(0, 0, rows=2), piece_px=8, fix_share=share)
        assert (~puzzle.moved).sum(1).tolist() == [kept] * 2
    whole = make_puzzle(numbered(2, 10), Draws(0, 0, rows=2), piece_px=8, fix_share=1.0)
    assert torch.equal(whole.pixels, numbered(2, 10))


def test_pieces_travel_between_images():
    found, slots = 0, 0
    for number in range(200):
        images = numbered(4, 4)
        puzzle = make_puzzle(images, Draws(0, number, rows=4), piece_px=8, fix_share=0.25, group=4)
        home = constants(images) // 16
        away = (constants(puzzle.pixels) // 16 != home)[puzzle.moved]
        found, slots = found + int(away.sum()), slots + len(away)
    assert found / slots == pytest.approx(0.75, abs=0.05)


def test_the_same_seed_makes_the_same_puzzle():
    images = torch.rand(4, 3, 32, 32)
    first, second = (make_puzzle(images, Draws(5, 2, rows=4), piece_px=16, fix_share=0.25) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    other = make_puzzle(images, Draws(5, 3, rows=4), piece_px=16, fix_share=0.25)
    assert not torch.equal(first.pixels, other.pixels)


def test_flags_of_pieces_become_those_of_patches():
    moved = torch.tensor([[True, False, False, True]])
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert by_patch(moved, pieces_a_row=2, patches_a_piece=2).view(4, 4).int().tolist() == expected


@pytest.mark.parametrize(("piece_px", "group"), [(12, 0), (8, 3)])
def test_what_does_not_fill_is_refused(piece_px, group):
    with pytest.raises(SpecError, match="Choose a divisor"):
        make_puzzle(numbered(4, 4), Draws(0, 0, rows=4), piece_px=piece_px, fix_share=0.25, group=group)
