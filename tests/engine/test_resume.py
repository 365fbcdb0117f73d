from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from pathotune_pipeline.engine import CourseFile, ParameterGroup, TrainSpec, fit
from pathotune_pipeline.engine.optimizer import build_optimizer
from pathotune_pipeline.engine.schedule import lr_factor
from pathotune_pipeline.errors import CorruptDataError, UsageError

SPEC = TrainSpec(epochs=6, lr=0.02, optimizer="adamw", lookahead=True, lookahead_steps=2, schedule="cosine", per_step=True,
                 warmup_epochs=1, accumulate=2, patience=0, seed=4)  # fmt: skip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.head = nn.Linear(8, 1)

    def losses(self, batch):
        x, y = batch
        return {"square": (self.head(self.body(x))[:, 0] - y).square().mean()}


def batches(epoch: int):
    rng = torch.Generator().manual_seed(epoch)
    x = torch.randn(40, 3, generator=rng)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]


def train(kept: CourseFile | None, *, spec: TrainSpec = SPEC, width_lr: float = 0.1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
    groups = [
        ParameterGroup("body", list(net.body.parameters()), lr_scale=width_lr),
        ParameterGroup("head", list(net.head.parameters())),
    ]
    seen = validations(kept)
    return fit(net, batches, spec, validate=lambda: next(seen), groups=groups, kept=kept)


def validations(kept: CourseFile | None):
    yield from [5.0, 4.0, 1.0, 2.0, 3.0, 2.5][kept_epochs(kept) :]


def kept_epochs(kept: CourseFile | None) -> int:
    if kept is None or not kept.path.exists():
        return 0
    with safe_open(kept.path, framework="pt") as file:
        return int(json.loads(file.metadata()["course"])["epoch"])


@pytest.mark.parametrize("killed_after", [1, 2, 4, 6])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, killed_after):
    kept = CourseFile(tmp_path / "course.safetensors", key="net")
    code = f"import tests.engine.test_resume as t; t.train(t.CourseFile(t.Path({str(kept.path)!r}), key='net'))"
    environment = {
        **os.environ,
        "PATHOTUNE_FAILPOINT": f"course.saved:{killed_after}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    died = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert kept_epochs(kept) == killed_after
    resumed, whole = train(kept), train(None)
    assert resumed.best_epoch == whole.best_epoch == 2
    assert len(resumed.history) == len(whole.history)
    assert [r.losses for r in resumed.history] == [w.losses for w in whole.history]
    for state, other in ((resumed.last_state, whole.last_state), (resumed.best_state, whole.best_state)):
        assert all(torch.equal(state[name], other[name]) for name in other)
    assert not torch.equal(whole.best_state["head.weight"], whole.last_state["head.weight"])


def test_another_training_does_not_go_on_from_it(tmp_path):
    path = tmp_path / "course.safetensors"
    train(CourseFile(path, key="net"))
    with pytest.raises(UsageError, match="other data or settings"):
        train(CourseFile(path, key="another"))
    with pytest.raises(UsageError, match="other data or settings"):
        train(CourseFile(path, key="net"), spec=SPEC.with_values(seed=5))
    with pytest.raises(UsageError, match="another model"):
        fit(nn_line(), batches, SPEC, kept=CourseFile(path, key="net"))


def nn_line():
    class Line(nn.Linear):
        def losses(self, batch):
            return {"square": self(batch[0]).square().mean()}

    return Line(3, 1)


@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_a_damaged_state_is_said(tmp_path, harm):
    kept = CourseFile(tmp_path / "course.safetensors", key="net")
    train(kept)
    data = bytearray(kept.path.read_bytes())
    if harm == "flip":
        data[-3] ^= 1
    kept.path.write_bytes(data[: -10 if harm == "cut" else None])
    with pytest.raises(CorruptDataError, match="begin anew"):
        train(kept)


def test_groups_have_their_own_pace():
    net = Net()
    groups = [
        ParameterGroup("body", list(net.body.parameters()), lr_scale=0.1, weight_decay=0.0),
        ParameterGroup("head", list(net.head.parameters())),
    ]
    found = build_optimizer(groups, TrainSpec(lr=0.1, weight_decay=0.3)).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in found] == [(pytest.approx(0.01), 0.0), (0.1, 0.3)]
    still = train(None, width_lr=1e-12)
    torch.manual_seed(0)
    assert torch.allclose(still.last_state["body.0.weight"], Net().state_dict()["body.0.weight"], atol=1e-9)


def test_groups_must_hold_each_trained_parameter_once():
    net = Net()
    for groups in ([net.body], [net.body, net.head, net.head]):
        parts = [ParameterGroup("part", list(each.parameters())) for each in groups]
        with pytest.raises(UsageError, match="one group"):
            fit(net, batches, SPEC, groups=parts)


def test_a_schedule_by_steps_is_that_by_epochs_in_smaller_steps():
    fine, coarse = SPEC.with_values(warmup_epochs=2), SPEC.with_values(epochs=18, warmup_epochs=6)
    by_steps = [lr_factor(fine, epoch, step=step, steps=3) for epoch in range(6) for step in range(3)]
    assert by_steps == [lr_factor(coarse, epoch) for epoch in range(18)]


def test_a_schedule_by_steps_needs_to_know_how_many():
    with pytest.raises(UsageError, match="length"):
        fit(nn_line(), lambda epoch: iter(batches(epoch)), SPEC)


def test_the_rate_moves_at_every_step():
    rates = []

    class Watched(nn.Linear):
        def losses(self, batch):
            return {"square": self(batch[0]).square().mean()}

    class Spy(torch.optim.AdamW):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    import pathotune_pipeline.engine.optimizer as optimizer

    before, optimizer.AdamW = optimizer.AdamW, Spy
    try:
        fit(Watched(3, 1), batches, SPEC.with_values(epochs=2, lookahead=False))
    finally:
        optimizer.AdamW = before
    # five batches, two a step: three steps an epoch, the last of a batch alone
    spec = SPEC.with_values(epochs=2)
    assert rates == pytest.approx([0.02 * lr_factor(spec, e, step=s, steps=3) for e in range(2) for s in range(3)])
