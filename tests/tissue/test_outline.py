from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathotune_pipeline.tissue.outline import trace

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
INSIDE = ((0, 0), (-1, 0), (-1, -1), (0, -1))


def walked(mask: np.ndarray) -> list[list[list[tuple[int, int]]]]:
    """The outlines by walking along every edge: right where one can, else straight on, else left."""
    inside = {(int(x), int(y)) for y, x in np.argwhere(mask)}
    edges: dict[tuple[int, int], list[int]] = {}
    for turn in (0, 2, 3, 1):
        for x, y in sorted(inside, key=lambda at: at[::-1]):
            (dx, dy), (ix, iy) = STEPS[(turn + 3) % 4], INSIDE[turn]
            if (x + dx, y + dy) not in inside:
                edges.setdefault((x - ix, y - iy), []).append(turn)
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    pieces: dict[int, list[list[tuple[int, int]]]] = {}
    left = [(at, turn) for at, turns in edges.items() for turn in turns]
    seen: set[tuple[tuple[int, int], int]] = set()
    for at, turn in left:
        if (at, turn) in seen:
            continue
        label = int(labels[at[1] + INSIDE[turn][1], at[0] + INSIDE[turn][0]])
        corners = []
        while (at, turn) not in seen:
            seen.add((at, turn))
            end = (at[0] + STEPS[turn][0], at[1] + STEPS[turn][1])
            after = next(each for each in ((turn + 1) % 4, turn, (turn + 3) % 4) if each in edges[end])
            if after != turn:
                corners.append(end)
            at, turn = end, after
        pieces.setdefault(label, []).append([corners[-1], *corners[:-1]])
    return [pieces[label] for label in sorted(pieces)]


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_are_those_of_a_walk_along_every_edge(mask):
    found = trace(mask, (1.0, 1.0))
    assert [[[tuple(corner) for corner in ring.tolist()] for ring in rings] for rings in found] == walked(mask)


def test_corners_are_scaled_along_each_axis():
    ((ring,),) = trace(np.array([[0, 0, 0], [0, 1, 1]], bool), (2.5, 3.0))
    assert ring.dtype == np.float64
    assert ring.tolist() == [[2.5, 3.0], [7.5, 3.0], [7.5, 6.0], [2.5, 6.0]]
    assert trace(np.zeros((3, 4), bool), (1.0, 1.0)) == []
