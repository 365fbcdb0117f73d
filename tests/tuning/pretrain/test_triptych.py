"""Triptychs show the image, what was given, and what came back where something was taken away."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.restore import Restored
from pathotune_pipeline.tuning.pretrain.spec import MaeSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from pathotune_pipeline.tuning.pretrain.triptych import restored_pixels, write_triptychs
from tests.tuning.pretrain.toy import spec_of, textures

VIEWS = torch.from_numpy(textures(3)).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("patch_norm", [True, False])
def test_a_perfect_answer_is_the_image(tmp_path, patch_norm):
    objective = build_objective(spec_of(tmp_path), MaeSpec(patch_norm=patch_norm)).eval()
    with torch.no_grad():
        restored = objective.restore(VIEWS, Draws(0, 0, rows=3))
    perfect = Restored(restored.target, restored.target, restored.taken, restored.given)
    pixels = restored_pixels(VIEWS, perfect, objective.trunk, patch_norm=patch_norm)
    torch.testing.assert_close(pixels, VIEWS, atol=1e-3, rtol=0)
    wrong = restored_pixels(VIEWS, restored, objective.trunk, patch_norm=patch_norm)
    taken = restored.taken.view(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = (wrong - VIEWS).abs().amax(1, keepdim=True) > 0.02
    assert not changed[taken == 0].any()
    assert changed[taken == 1].float().mean() > 0.5


def test_the_picture_has_a_row_for_each_view(tmp_path):
    objective = build_objective(spec_of(tmp_path), MaeSpec()).eval()
    with torch.no_grad():
        restored = objective.restore(VIEWS, Draws(0, 0, rows=3))
    path = tmp_path / "made" / "some.png"
    write_triptychs(path, VIEWS, restored, objective.trunk, patch_norm=True)
    page = cv2.imread(str(path))[..., ::-1]
    assert page.shape == (3 * 132 - 4, 3 * 132 - 4, 3)
    np.testing.assert_array_equal(page[:128:4, :128:4], textures(3)[0])
    grey = (restored.given[2] == 0.5).all(0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert (page[264:392, 132:260][grey.numpy()] == 128).all()
