from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.coding import TargetCoding, fit_coding
from pathotune_pipeline.bags.targets import TargetSpec
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.heads import HeadFitSpec, fit_head, load_head, predict, save_head
from pathotune_pipeline.heads.losses import classification_loss, cox_loss, label_loss, ordinal_loss, survival_loss
from pathotune_pipeline.heads.task import Task, breslow


def test_the_discrete_survival_loss_has_its_golden_value():
    """Equal to SurvPath's in float64, with alpha 0 (the reference notes of this project)."""
    h = torch.tensor([[-1, 0.5, 0.2, -0.3], [0.1, -0.7, 1.2, 0]], dtype=torch.float64)
    bins, events = torch.tensor([2, 1]), torch.tensor([True, False])
    assert float(survival_loss(h, bins, events)) == pytest.approx(1.516530, abs=5e-7)
    hazard, alpha = h.sigmoid(), 0.3
    alive = (1 - hazard).cumprod(dim=1)
    first = -(alive[0, 1].log() + hazard[0, 2].log())
    second = -(1 - alpha) * alive[1, 1].log()
    assert float(survival_loss(h, bins, events, alpha=alpha)) == pytest.approx(float((first + second) / 2))


def test_the_survival_loss_is_a_likelihood():
    """Over all that may happen - an event in an interval, or none - the probabilities add up to 1."""
    h = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    ways = [(k, True) for k in range(3)] + [(2, False)]
    total = sum(float((-survival_loss(h, torch.tensor([k]), torch.tensor([seen]))).exp()) for k, seen in ways)
    assert total == pytest.approx(1)
    huge = survival_loss(torch.tensor([[500.0, -500.0]]), torch.tensor([1]), torch.tensor([True]))
    assert torch.isfinite(huge)


def test_the_cox_loss_is_that_of_the_definition_and_zero_without_an_event():
    rng = np.random.default_rng(0)
    risks, times = rng.standard_normal(12), rng.integers(1, 6, 12).astype(float)
    events = rng.random(12) < 0.6
    each = [np.log(np.exp(risks[times >= times[i]]).sum()) - risks[i] for i in np.flatnonzero(events)]
    found = cox_loss(torch.tensor(risks), torch.tensor(times), torch.tensor(events))
    assert float(found) == pytest.approx(np.mean(each))
    logits = torch.ones(3, requires_grad=True)
    nothing = cox_loss(logits, torch.arange(3.0), torch.zeros(3))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert logits.grad.tolist() == [0, 0, 0]


def test_breslows_hazard_by_hand():
    # without covariates it is Nelson-Aalen: 1/4, + 1/2 at a time with two at risk
    times, events = np.array([1.0, 2, 3, 3]), np.array([True, False, True, True])
    hazard = breslow(np.zeros(4), times, events, horizons=[0.5, 1, 2.5, 3])
    assert hazard == pytest.approx([0, 0.25, 0.25, 0.25 + 2 / 2])


def test_ordinal_probabilities_are_those_of_the_loss():
    coding = TargetCoding("grade", "ordinal", ("1", "2", "3"))
    logits = torch.tensor([[0.4, -1.1]], dtype=torch.float64)
    probs = Task((coding,)).read(logits)[0]
    assert probs.sum() == pytest.approx(1)
    costs = [float(ordinal_loss(logits, torch.tensor([grade]))) for grade in range(3)]
    assert np.exp(-np.array(costs)) == pytest.approx(probs)


def test_labels_that_are_not_known_cost_nothing():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    loss = label_loss(logits, torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))
    loss.backward()
    assert logits.grad[0, 1] == 0
    expected = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(0.5)), np.log1p(np.exp(-3.0))]
    assert float(loss.detach()) == pytest.approx(np.mean(expected))


SEVERAL = Task(
    (
        TargetCoding("status", "binary", ("a", "b")),
        TargetCoding("age", "regression", mean=50, std=10, weight=0.5),
        TargetCoding("os", "survival-discrete", cuts=(2.0, 4.0, 8.0), horizons=(2.0, 4.0, 6.0)),
    )
)


def bag(target, n: int = 3, name: str = "b") -> Bag:
    return Bag(np.zeros((n, 2), np.float32), np.zeros((n, 2), np.int64), name, name, target)


def test_targets_side_by_side_are_masked_each_for_itself():
    encoded = np.stack([SEVERAL.encode(bag(t)) for t in ({"status": "b", "os": "3+"}, {"age": "70"})])
    assert encoded[0, [0, 2, 3]].tolist() == [1, 1, 0]
    assert np.isnan(encoded[0, 1])
    assert encoded[1, 1] == 2
    assert np.isnan(encoded[1, [0, 2, 3]]).all()
    logits = torch.randn(2, SEVERAL.outputs, dtype=torch.float64, requires_grad=True)
    loss = SEVERAL.loss(logits, torch.tensor(encoded))
    loss.backward()
    parts = logits.detach()
    expected = (
        classification_loss(parts[:1, :2], torch.tensor([1]))
        + 0.5 * (parts[1, 2] - 2) ** 2
        + survival_loss(parts[:1, 3:], torch.tensor([1]), torch.tensor([0.0]))
    )
    assert float(loss.detach()) == pytest.approx(float(expected))
    assert logits.grad[0, 2] == 0
    assert logits.grad[1, [0, 1, 3, 4, 5]].tolist() == [0] * 5
    nothing = SEVERAL.loss(logits, torch.full((2, 4), float("nan")))
    assert float(nothing.detach()) == 0


def test_logits_are_read_as_what_they_mean():
    logits = torch.tensor([[0.0, np.log(3), 1.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    said = SEVERAL.split(SEVERAL.read(logits))
    assert said["status"][0] == pytest.approx([0.25, 0.75])
    assert said["age"][0] == pytest.approx([65])
    # S is 1/2, 1/4, 1/8 at 2, 4 and 8; at 6 half way; lived of 6: 2 x 3/4 + 2 x 3/8 + 2 x 7/32
    assert said["os"][0] == pytest.approx([-(1.5 + 0.75 + 0.4375) / 6, 0.5, 0.25, 0.1875])


def test_scale_and_cuts_come_from_the_values_given():
    number = fit_coding("age", TargetSpec(kind="regression"), ["1", None, "3"], kind="regression")
    assert (number.mean, number.std) == (2, 1)
    assert fit_coding("age", TargetSpec(kind="regression"), ["5", "5"], kind="regression").std == 1
    values = [f"{t}" for t in range(1, 9)] + ["20+", "0.5+"]
    survival = fit_coding("os", TargetSpec(kind="survival-discrete"), values, kind="survival-discrete")
    assert survival.cuts == (2.75, 4.5, 6.25, 20.0)
    assert [survival.encode(v)[0] for v in ("0", "2.75", "2.8", "20", "99")] == [0, 0, 1, 3, 3]
    with pytest.raises(ManifestError, match="event was seen"):
        fit_coding("os", TargetSpec(kind="survival-cox"), ["3+"], kind="survival-cox")
    with pytest.raises(ManifestError, match="no training slide has a value"):
        fit_coding("age", TargetSpec(kind="regression"), [None], kind="regression")


def planted(count: int = 40) -> list[Bag]:
    """Slides whose risk is written into four of their tiles; time falls with it, and some are censored."""
    rng = np.random.default_rng(0)
    bags = []
    for i in range(count):
        risk = float(rng.standard_normal())
        x = rng.standard_normal((12, 6)).astype(np.float32)
        x[:4, :2] += 2 * risk
        time = float(np.exp(1 - risk + 0.2 * rng.standard_normal()))
        text = f"{time:.3f}" if rng.random() < 0.7 else f"{time * rng.random():.3f}+"
        bags.append(Bag(x, np.zeros((12, 2), np.int64), f"b{i}", f"p{i}", text))
    return bags


@pytest.mark.parametrize("kind", ["survival-discrete", "survival-cox"])
def test_a_survival_head_learns_and_comes_back_from_disk(kind, tmp_path):
    bags = planted()
    coding = fit_coding("os", TargetSpec(kind=kind), [b.target for b in bags], kind=kind, horizons=(1.0, 2.0, 4.0))
    spec = HeadFitSpec(head="mean", train={"lr": 1e-2, "epochs": 30}, device="cpu")
    trained = fit_head(bags[:24], bags[24:30], task=Task((coding,)), spec=spec)
    said = predict(trained, bags[30:])
    truth = [float(each.target.rstrip("+")) for each in bags[30:]]
    assert np.corrcoef(said.probs[:, 0], np.log(truth))[0, 1] < -0.5
    assert (np.diff(said.probs[:, 1:], axis=1) <= 0).all()
    assert ((said.probs[:, 1:] >= 0) & (said.probs[:, 1:] <= 1)).all()
    save_head(tmp_path / "h", trained)
    again = load_head(tmp_path / "h")
    assert again.task == trained.task
    assert np.array_equal(predict(again, bags[30:]).probs, said.probs)
    assert json.loads((tmp_path / "h" / "head.json").read_text())["revision"] == 2
    if kind == "survival-cox":
        assert all(b > a for a, b in pairwise(trained.task.codings[0].baseline))


def test_a_cox_model_needs_more_than_one_bag_in_a_batch():
    bags = planted(6)
    coding = fit_coding("os", TargetSpec(kind="survival-cox"), [b.target for b in bags], kind="survival-cox")
    with pytest.raises(UsageError, match="Try 32"):
        fit_head(bags, [], task=Task((coding,)), spec=HeadFitSpec(batch_bags=1))
