from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pathotune_pipeline.engine import TrainSpec, fit
from pathotune_pipeline.engine.optimizer import Lookahead, build_optimizer
from pathotune_pipeline.engine.schedule import lr_factor
from pathotune_pipeline.errors import PathotuneError, SpecError, UsageError


class Line(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.dropout = nn.Dropout(dropout)

    def losses(self, batch):
        x, y = batch
        return {"square": (self.layer(self.dropout(x))[:, 0] - y).square().mean()}


@pytest.fixture
def data():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, generator=rng)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)]


@pytest.fixture
def line():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Line(dropout=0.2)


def test_the_loss_falls_and_every_epoch_is_recorded(line, data):
    line.dropout.p = 0.0
    seen = []
    result = fit(line, data, TrainSpec(lr=0.1, epochs=40), on_epoch=seen.append)
    assert result.history[-1].losses["total"] < 0.01 * result.history[0].losses["total"]
    assert tuple(seen) == result.history
    assert [record.epoch for record in seen] == list(range(40))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "radam"])
def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_state_alone(line, data, optimizer):
    spec = TrainSpec(lr=0.01, epochs=4, optimizer=optimizer, lookahead=True, accumulate=2, grad_clip=1.0, seed=5)
    before = torch.get_rng_state()
    first = fit(copy.deepcopy(line), data, spec)
    torch.rand(3)
    second = fit(copy.deepcopy(line), data, spec)
    other = fit(copy.deepcopy(line), data, spec.with_values(seed=6))
    torch.set_rng_state(before)
    assert all(torch.equal(first.last_state[name], second.last_state[name]) for name in first.last_state)
    assert not torch.equal(first.last_state["layer.weight"], other.last_state["layer.weight"])


def test_fit_does_not_move_the_random_state(line, data):
    before = torch.get_rng_state()
    fit(line, data, TrainSpec(epochs=2))
    assert torch.equal(before, torch.get_rng_state())


def test_the_best_state_is_that_of_the_lowest_validation(line, data):
    values = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    states = []

    def validate() -> float:
        assert not line.training
        assert not torch.is_grad_enabled()
        states.append(copy.deepcopy(line.state_dict()))
        return next(values)

    result = fit(line, data, TrainSpec(epochs=50, patience=2), validate=validate)
    assert (result.best_epoch, len(result.history), result.stopped_early) == (1, 4, True)
    assert torch.equal(result.best_state["layer.weight"], states[1]["layer.weight"])
    assert torch.equal(result.last_state["layer.weight"], states[3]["layer.weight"])


def test_min_epochs_are_trained_whatever_validation_says(line, data):
    result = fit(line, data, TrainSpec(epochs=50, patience=1, min_epochs=7), validate=iter(range(99)).__next__)
    assert len(result.history) == 7


def test_accumulated_batches_make_the_step_of_one_large_batch(data):
    torch_line = Line()
    other = copy.deepcopy(torch_line)
    whole = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    one = fit(torch_line, whole, TrainSpec(epochs=3, lr=0.1))
    four = fit(other, data, TrainSpec(epochs=3, lr=0.1, accumulate=4))
    assert torch.allclose(one.last_state["layer.weight"], four.last_state["layer.weight"], atol=1e-5)


def test_left_over_batches_step_at_the_epochs_end(data):
    model = Line()
    before = model.layer.weight.detach().clone()
    fit(model, data[:1], TrainSpec(epochs=1, lr=0.1, accumulate=4))
    assert not torch.equal(before, model.layer.weight)


def test_a_loss_that_is_not_finite_says_where(line, data):
    data[2][0][0, 0] = float("nan")
    with pytest.raises(PathotuneError, match="epoch 0, batch 2"):
        fit(line, data, TrainSpec(epochs=1))


def test_no_batches_and_nothing_to_train_are_said(line):
    with pytest.raises(UsageError, match="no batches"):
        fit(line, [], TrainSpec(epochs=1))
    with pytest.raises(UsageError, match="frozen"):
        fit(line.requires_grad_(False), [], TrainSpec(epochs=1))


def test_batches_may_come_from_a_function_of_the_epoch(line, data):
    asked = []
    fit(line, lambda epoch: asked.append(epoch) or data, TrainSpec(epochs=3))
    assert asked == [0, 1, 2]


def test_lookahead_pulls_to_the_middle_every_k_steps():
    weight = nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([weight], lr=1.0)
    lookahead = Lookahead(sgd, steps=2, alpha=0.5)
    seen = []
    for _ in range(4):
        weight.grad = torch.tensor([-1.0])
        sgd.step()
        lookahead.step()
        seen.append(float(weight.detach()))
    assert seen == [1.0, 1.0, 2.0, 2.0]


def test_vectors_can_be_spared_the_decay():
    groups = build_optimizer(Line().parameters(), TrainSpec(decay_vectors=False, weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 1), (0.0, 1)]


def test_schedules():
    cosine = TrainSpec(schedule="cosine", warmup_epochs=2, epochs=12)
    factors = [lr_factor(cosine, epoch) for epoch in range(12)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factors[7] == pytest.approx(0.5)
    assert 0 < factors[-1] < factors[-2]
    assert lr_factor(TrainSpec(), 40) == 1


def test_an_unknown_setting_offers_the_nearest():
    with pytest.raises(SpecError, match="weight_decay"):
        TrainSpec.parse({"weigth_decay": 1})
