"""Dilated attention equals a dense reference, token by token and head by head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pathotune_pipeline.slide_encoders.dilated import dilated_attention

GIGAPATH = ((1024, 1), (5792, 2), (32768, 4), (185363, 8), (1048576, 16))


def reference(
    q: Tensor, k: Tensor, v: Tensor, branches: tuple[tuple[int, int], ...], *, attends_padding: bool
) -> Tensor:
    """Each token's and head's sum, with its keys written out as a list."""
    tokens, heads, width = q.shape
    out = torch.zeros_like(q)
    for head in range(heads):
        for i in range(tokens):
            made, sums = [], []
            for segment, ratio in branches:
                length = min(segment, tokens)
                offset = head // math.ceil(heads / ratio)
                first = i // length * length
                if (i - first) % ratio != offset:
                    continue
                keys = [j for j in range(first, min(first + length, tokens)) if (j - first) % ratio == offset]
                scores = q[i, head] @ k[keys, head].T / math.sqrt(width)
                values = v[keys, head]
                if attends_padding:
                    zeros = math.ceil(length / ratio) - len(keys)
                    scores = torch.cat([scores, scores.new_zeros(zeros)])
                    values = torch.cat([values, values.new_zeros(zeros, width)])
                made.append(scores.softmax(0) @ values)
                sums.append(scores.logsumexp(0))
            shares = torch.stack(sums).detach().softmax(0)
            out[i, head] = sum(share * part for share, part in zip(shares, made, strict=True))
    return out


def heads_of(tokens: int, heads: int, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens * 31 + heads)
    q, k, v = (2 * torch.randn(tokens, heads, width, dtype=torch.float64, generator=generator) for _ in range(3))
    return q, k, v


@pytest.mark.parametrize("attends_padding", [False, True])
@pytest.mark.parametrize(
    ("tokens", "heads", "branches"),
    [
        (1, 4, ((4, 1), (8, 2))),
        (5, 4, ((8, 1), (16, 2), (32, 4))),  # one segment, not filled
        (24, 4, ((8, 1), (12, 2), (24, 4))),  # segments and dilations fit
        (23, 4, ((8, 1), (12, 2), (24, 4))),  # padding behind the last segment
        (22, 5, ((7, 1), (9, 2), (11, 3))),  # dilations divide neither segments nor heads
        (19, 2, ((19, 1), (19, 4))),  # more offsets than heads: some tokens are in no head's branch
        (17, 16, ((4, 1), (6, 2), (10, 4), (14, 8), (40, 16))),  # GigaPath's dilations and heads
    ],
)
def test_equals_the_dense_reference(
    tokens: int, heads: int, branches: tuple[tuple[int, int], ...], *, attends_padding: bool
) -> None:
    q, k, v = heads_of(tokens, heads)
    found = dilated_attention(q, k, v, branches, attends_padding=attends_padding)
    torch.testing.assert_close(found, reference(q, k, v, branches, attends_padding=attends_padding))


def test_gradients_equal_those_of_the_dense_reference() -> None:
    ours, theirs = ([each.requires_grad_() for each in heads_of(13, 4)] for _ in range(2))
    branches, weights = ((5, 1), (8, 2), (13, 3)), torch.randn(13, 4, 3, dtype=torch.float64)
    (dilated_attention(*ours, branches) * weights).sum().backward()
    (reference(*theirs, branches, attends_padding=False) * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_one_branch_that_holds_all_is_plain_attention() -> None:
    q, k, v = heads_of(30, 2, width=4)
    plain = torch.nn.functional.scaled_dot_product_attention(*(each.transpose(0, 1) for each in (q, k, v)))
    torch.testing.assert_close(dilated_attention(q, k, v, ((100, 1),)), plain.transpose(0, 1))


def test_padding_that_is_attended_to_changes_results() -> None:
    """The two ways are told apart, so that weights of the one are not run in the other unseen."""
    q, k, v = heads_of(23, 4)
    branches = ((8, 1), (12, 2))
    masked, attended = (dilated_attention(q, k, v, branches, attends_padding=way) for way in (False, True))
    assert (masked - attended).abs().max() > 1e-3
    torch.testing.assert_close(masked[:8, 0], attended[:8, 0])  # a head that is in the filled segments' branches alone


def test_gigapaths_branches_on_a_short_bag() -> None:
    q, k, v = heads_of(40, 16)
    found = dilated_attention(q, k, v, GIGAPATH, attends_padding=True)
    torch.testing.assert_close(found, reference(q, k, v, GIGAPATH, attends_padding=True))
