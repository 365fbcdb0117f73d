from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag, BagBatch, collate
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics import auroc
from pathotune_pipeline.tuning.studies.eva import Rules, Samples, fit_head, rules_for, schedule_for
from pathotune_pipeline.tuning.studies.eva_heads import AttentionHead, ClassHead, LinearHead
from pathotune_pipeline.tuning.studies.protocol import SlideHeads, fewer_tiles
from pathotune_pipeline.tuning.studies.spec import ProtocolSpec

DIM = 8
# Training images of the public sets, and the patience that eva's authors state for them.
PUBLISHED = {
    "BACH": (268, 1250),
    "BreakHis": (1132, 500),
    "MHIST": (2175, 278),
    "BRACS": (3657, 167),
    "UniToPatho": (6270, 100),
    "Gleason": (15303, 42),
    "CRC": (100000, 7),
    "PCam": (262144, 3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_patience_is_a_fifth_of_the_epochs_as_published(name: str) -> None:
    images, patience = PUBLISHED[name]
    schedule = schedule_for(images, rules_for("patch", ProtocolSpec()), steps=ProtocolSpec().steps)
    assert schedule.patience == patience
    assert sum(schedule.steps_of(epoch) for epoch in range(schedule.epochs)) == 12_500


def test_slides_train_for_a_hundred_epochs_at_most() -> None:
    rules = rules_for("slide", ProtocolSpec())
    assert (rules.batch, rules.lr, rules.patience, rules.runs) == (32, 1e-3, 20, 20)
    few = schedule_for(216, rules, steps=12_500)
    assert (few.epochs, few.steps) == (100, 700)
    many = schedule_for(32 * 1000, rules, steps=12_500)
    assert (many.epochs, many.steps) == (13, 12_500)
    assert many.steps_of(12) == 500


def samples(images: int = 120, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, images)
    features = torch.from_numpy((rng.normal(size=(images, DIM)) + targets[:, None]).astype(np.float32))
    cut = np.arange(images)
    return Samples(lambda index: features[torch.from_numpy(index)], targets, cut[: images // 2], cut[images // 2 :], 64)


def spec_of(**values: object) -> ProtocolSpec:
    return ProtocolSpec.parse({"batch": 16, "lr": 0.02, "steps": 100, **values})


def fitted(spec: ProtocolSpec, *, seed: int = 0, of: Samples | None = None, make=lambda: LinearHead(DIM, 2)):
    return fit_head(make, of or samples(), rules_for("patch", spec), spec=spec, seed=seed)


def test_seeds_differ_and_the_same_seed_does_not() -> None:
    every = np.arange(120)
    first, again, other = (fitted(spec_of(), seed=seed)[0](every) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert auroc(samples().targets, first).value > 0.9


def test_training_stops_when_patience_runs_out_and_the_best_epoch_counts() -> None:
    """The head is told the wrong way round from the fourth epoch on."""
    good = samples()
    steps = 0

    class Turned(LinearHead):
        def losses(self, batch):
            nonlocal steps
            steps += 1
            inputs, targets = batch
            return super().losses((inputs, targets if steps <= 12 else 1 - targets))

    spec = spec_of(steps=400, patience=12)
    predict, result = fitted(spec, of=good, make=lambda: Turned(DIM, 2))
    values = [record.validation for record in result.history]
    assert result.stopped_early
    assert len(values) == int(np.argmin(values)) + 1 + 12
    assert result.best_epoch == int(np.argmin(values)) <= 4
    assert auroc(good.targets, predict(np.arange(120))).value > 0.8
    last = LinearHead(DIM, 2)
    last.load_state_dict(result.last_state)
    assert auroc(good.targets, last.probabilities(good.take(np.arange(120))).numpy()).value < 0.5


def test_steps_end_the_last_epoch() -> None:
    _, result = fitted(spec_of(steps=10, patience=50))
    assert len(result.history) == 3


def needles(bags: int, *, tiles: int = 200, seed: int = 0) -> list[Bag]:
    """Every other slide has one tile in two hundred that is not noise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(bags):
        features = rng.normal(size=(tiles, DIM)).astype(np.float32)
        if number % 2:
            features[rng.integers(tiles), :2] += 6
        made.append(Bag(features, np.zeros((tiles, 2), np.int64), f"s{number}", f"p{number}", number % 2))
    return made


class MeanHead(ClassHead):
    """The mean of the tiles: what attention has to beat."""

    def __init__(self) -> None:
        super().__init__(2)
        self.linear = torch.nn.Linear(DIM, 1)

    def forward(self, bags: BagBatch) -> torch.Tensor:
        return self.linear(torch.stack([each.mean(dim=0) for each in bags]))


def test_attention_finds_a_needle_that_the_mean_does_not() -> None:
    bags = needles(200)
    cut = np.arange(200)
    of = Samples(lambda index: collate([bags[place] for place in index.tolist()]), cut % 2, cut[:100], cut[100:140], 40)
    spec = spec_of(lr=1e-3, batch=None, steps=400)
    rules = rules_for("slide", spec)
    heads: list[AttentionHead] = []

    def make() -> AttentionHead:
        heads.append(AttentionHead(DIM, 2))
        return heads[-1]

    predict, _ = fit_head(make, of, rules, spec=spec, seed=0)
    mean, _ = fit_head(MeanHead, of, rules, spec=spec, seed=0)
    test = cut[140:]
    assert auroc(test % 2, predict(test)).value > 0.95
    assert auroc(test % 2, mean(test)).value < 0.8
    for place in test[test % 2 == 1]:
        _, (weights,) = heads[0].read(collate([bags[place]]))
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
        assert int(weights.argmax()) == int(np.argmax(bags[place].features[:, :2].sum(axis=1)))


def test_neither_order_nor_neighbours_nor_padding_matter_to_a_bag() -> None:
    torch.manual_seed(0)
    head = AttentionHead(DIM, 3).eval()
    one, other = (torch.randn(rows, DIM) for rows in (5, 9))
    alone = head(BagBatch.of(one))
    torch.testing.assert_close(head(BagBatch.of(one[torch.randperm(5)])), alone)
    torch.testing.assert_close(head(BagBatch.of(other, one))[1:], alone)
    padded = torch.full((2, 9, DIM), float("-inf"))
    padded[0, :5], padded[1] = one, other
    mask = torch.arange(9) < torch.tensor([[5], [9]])
    torch.testing.assert_close(head(BagBatch.of_padded(padded, mask))[:1], alone)


def test_a_bag_of_padding_alone_is_an_error() -> None:
    empty = Bag(np.zeros((0, DIM), np.float32), np.zeros((0, 2), np.int64), "s", "p", 0)
    with pytest.raises(UsageError, match="no tiles"):
        collate([empty])


def test_three_classes_are_softmax_and_two_one_logit() -> None:
    two, three = LinearHead(DIM, 2), LinearHead(DIM, 3)
    x = torch.randn(4, DIM)
    assert two(x).shape == (4, 1)
    for head, classes in ((two, 2), (three, 3)):
        probs = head.probabilities(x)
        assert probs.shape == (4, classes)
        torch.testing.assert_close(probs.sum(dim=1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(two.probabilities(x)[:, 1], two(x)[:, 0].double().sigmoid())


def test_rules_give_way_to_settings() -> None:
    assert rules_for("patch", ProtocolSpec()) == Rules(256, 3e-4, None, None, 5)
    assert rules_for("slide", ProtocolSpec()) == Rules(32, 1e-3, 100, 20, 20)
    spec = ProtocolSpec(batch=8, lr=0.1, max_epochs=3, patience=2, runs=4)
    assert rules_for("slide", spec) == rules_for("patch", spec) == Rules(8, 0.1, 3, 2, 4)


def test_a_slides_tiles_are_drawn_once_and_in_their_order() -> None:
    (bag,) = needles(1)
    few = fewer_tiles(bag, 20, seed=0)
    places = [int(np.flatnonzero((bag.features == row).all(axis=1))[0]) for row in few.features]
    assert places == sorted(set(places))
    assert len(places) == 20
    np.testing.assert_array_equal(fewer_tiles(bag, 20, seed=0).features, few.features)
    assert not np.array_equal(fewer_tiles(bag, 20, seed=1).features, few.features)
    assert fewer_tiles(bag, None, seed=0) is fewer_tiles(bag, 500, seed=0) is bag


def test_drawn_tiles_are_part_of_what_decides_a_head() -> None:
    def recipe(**values: object) -> object:
        spec = spec_of(**values)
        return SlideHeads({}, {"set": "features"}, None, spec).contenders()[0].recipe

    assert recipe(max_tiles=5) != recipe(max_tiles=6)
    assert recipe(max_tiles=5) != recipe(max_tiles=5, split_seed=1)
    assert recipe(bootstrap=2000) == recipe()
    assert recipe(steps=50) != recipe()
