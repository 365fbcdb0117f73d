"""Self-distillation: what is hidden stays hidden, the average follows exactly, and it works without a teacher."""

from __future__ import annotations

import pytest
import torch

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.distill import Crops
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import build_trunk
from pathotune_pipeline.tuning.pretrain.self_distill import draw_masks, encoded, let_sizes_vary
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from tests.tuning.pretrain.students import SMALL, distillation, step, views
from tests.tuning.pretrain.toy import spec_of, textures


def test_narrow_crops_are_seen_at_their_own_size(tmp_path):
    method = distillation(tmp_path)
    crops = method.cut(torch.from_numpy(textures(4)), spec_of(tmp_path).views, Draws(0, 0, rows=4))
    assert crops.wide.shape == (8, 3, 32, 32)
    assert crops.narrow is not None
    assert crops.narrow.shape == (8, 3, 16, 16)
    trunk = build_trunk(spec_of(tmp_path).network, 0)
    before = trunk.module.forward_features(views())
    let_sizes_vary(trunk.module)
    torch.testing.assert_close(encoded(trunk.module, views()), before)
    assert encoded(trunk.module, crops.narrow).shape == (8, 1 + 4, 32)
    large = DistillSpec.parse({**SMALL, "local_px": 12})
    with pytest.raises(SpecError, match="local_px 12"):
        build_objective(spec_of(tmp_path), large)


def test_hidden_patches_are_hidden_from_the_student_alone(tmp_path):
    method = distillation(tmp_path).eval()
    assert method.own is not None
    mask = torch.zeros(4, 16, dtype=torch.bool)
    mask[:, 5] = True
    hidden = views()
    hidden[:, :, 8:16, 8:16] += 0.3  # patch 5: row 1, column 1
    module, token = method.student.module, method.mask_token
    assert torch.equal(encoded(module, views(), mask, token), encoded(module, hidden, mask, token))
    assert not torch.allclose(encoded(method.own.average, views()), encoded(method.own.average, hidden))


def test_masks_have_the_asked_share_and_hang_on_the_row_alone():
    spec = DistillSpec(mask_chance=0.5, mask_min=0.1, mask_max=0.5)
    masks = draw_masks(Draws(0, 0, rows=400), 800, (8, 8), spec)
    counts = masks.sum(1)
    masked = counts[counts > 0]
    assert 0.42 < len(masked) / 800 < 0.58
    assert (int(masked.min()), int(masked.max())) == (6, 32)
    part = draw_masks(Draws(0, 0, rows=400, rank=1, world=2), 400, (8, 8), spec)
    assert torch.equal(part, torch.cat([masks[1:400:2], masks[401::2]]))
    clumped = masks.view(800, 8, 8)[counts > 20].float()
    beside = (clumped[:, :, 1:] * clumped[:, :, :-1]).mean() / clumped.mean()
    assert beside > 1.3 * clumped.mean()  # a hidden patch's neighbour is hidden more often than by chance


def test_the_average_follows_exactly_and_stands_still_at_the_end(tmp_path):
    method = distillation(tmp_path)
    own = method.own
    assert own is not None
    pairs = [(own.average, method.student.module), (own.average_head, own.head)]
    assert all(torch.equal(a, b) for old, new in pairs for a, b in zip(old.parameters(), new.parameters(), strict=True))
    with torch.no_grad():
        for parameter in [*method.student.module.parameters(), *own.head.parameters()]:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    method.begin_step(0, 5)
    before = [[p.clone() for p in old.parameters()] for old, _ in pairs]
    method.end_step()
    for was, (old, new) in zip(before, pairs, strict=True):
        for b, a, s in zip(was, old.parameters(), new.parameters(), strict=True):
            assert torch.equal(a, 0.992 * b + (1 - 0.992) * s)
    method.begin_step(4, 5)
    assert method.state_of_course()["momentum"] == 1
    still = [p.clone() for p in own.average.parameters()]
    method.end_step()
    assert all(torch.equal(a, b) for a, b in zip(still, own.average.parameters(), strict=True))


def test_centres_move_in_training_alone(tmp_path):
    method = distillation(tmp_path, mask_chance=1.0)
    own = method.own
    assert own is not None
    crops = Crops(torch.cat([views(), views().flip(3)]), None)
    method.eval()(crops, Draws(0, 0, rows=4))
    assert not own.class_centre.any()
    with torch.no_grad():
        tokens = encoded(own.average, method.student.normalised(crops.wide))
        expected = 0.1 * own.average_head(tokens[:, 1:].mean(1)).mean(0)
    method.train()(crops, Draws(0, 0, rows=4))
    torch.testing.assert_close(own.class_centre, expected)
    assert own.patch_centre.any()


def test_zero_teachers_are_plain_self_distillation(tmp_path):
    method = distillation(tmp_path)
    assert set(step(method)) == {"dino", "ibot", "koleo"}
    draws = Draws(0, 0, rows=4)
    crops = distillation(tmp_path, dino_weight=0).cut(torch.from_numpy(textures(4)), spec_of(tmp_path).views, draws)
    assert (len(crops.wide), crops.narrow) == (4, None)
    assert set(step(distillation(tmp_path, dino_weight=0, koleo_weight=0))) == {"ibot"}
    assert set(step(distillation(tmp_path, ibot_weight=0))) == {"dino", "koleo"}
