from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathotune_pipeline.tissue.pieces import Pieces, drop_pieces, fill_holes

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@pytest.mark.parametrize("connectivity", [4, 8])
@settings(max_examples=80, deadline=None)
@given(mask=masks, data=st.data())
def test_pieces_are_those_that_labels_of_pixels_tell(connectivity, mask, data):
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    pieces = Pieces.of(mask, connectivity=connectivity)
    assert pieces.count == count - 1
    assert pieces.areas.tolist() == stats[1:, cv2.CC_STAT_AREA].tolist()
    assert pieces.boxes.tolist() == stats[1:, :4].tolist()
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    assert np.flatnonzero(pieces.at_rim).tolist() == [label - 1 for label in np.unique(rim) if label]
    part = mask & data.draw(arrays(bool, mask.shape))
    assert pieces.count_of(part).tolist() == np.bincount(labels[part], minlength=count)[1:].tolist()
    wanted = data.draw(arrays(bool, pieces.count))
    chosen = np.concatenate([[False], wanted])[labels]
    np.testing.assert_array_equal(pieces.only(wanted), chosen)
    places, whose = pieces.pixels(wanted)
    assert places.tolist() == np.flatnonzero(chosen).tolist()
    assert whose.tolist() == (labels[chosen] - 1).tolist()


def test_small_pieces_go_and_holes_are_filled_unless_the_slide_ends_there():
    mask = np.zeros((9, 12), np.uint8)
    mask[:7, :8] = 1
    mask[2:4, 2:4] = mask[0, 5] = mask[5, 6] = 0
    mask[8, 10:] = 1
    kept = drop_pieces(mask, under_px=3)
    assert not kept[8].any()
    np.testing.assert_array_equal(kept[:8], mask[:8])
    assert drop_pieces(mask, under_px=2) is mask
    filled = fill_holes(kept, under_px=4)
    assert filled.dtype == bool
    assert (~filled[:7, :8]).sum() == 5  # the hole of four, and the one at the rim
    assert fill_holes(kept, under_px=5)[:7, :8].sum() == 55
