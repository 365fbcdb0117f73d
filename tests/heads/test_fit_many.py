"""Many heads in one pass learn what each would learn alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.coding import TargetCoding
from pathotune_pipeline.bags.placement import PlacedBags
from pathotune_pipeline.errors import PathotuneError, UsageError
from pathotune_pipeline.heads import FitJob, HeadFitSpec, fit_head, fit_many, predict
from pathotune_pipeline.heads.fit_many import _order
from pathotune_pipeline.heads.task import Task

CLASSES = ("normal", "tumour")
KINDS = {
    "abmil": ({"hidden": 16, "attention_dim": 8, "dropout": 0.3}, {"lr": 3e-3}),
    "clam-mb": ({"hidden": 16, "attention_dim": 8, "instances": 3}, {"lr": 1e-3, "accumulate": 3}),
    "transmil": ({"dim": 16, "heads": 2, "landmarks": 4}, {}),
    "dtfd": ({"hidden": 16, "attention_dim": 8}, {"lr": 1e-3}),
    "mean": ({}, {}),
    "dsmil": ({"query_dim": 8}, {"lr": 1e-3}),
}


def cohort(count: int = 20, dtype=np.float64) -> list[Bag]:
    rng = np.random.default_rng(3)
    bags = []
    for i in range(count):
        x = rng.standard_normal((6 + 3 * (i % 5), 9)) + 5
        x[:3, :3] += 2 * (i % 2)
        coords = np.zeros((len(x), 2), np.int64)
        bags.append(Bag(x.astype(dtype), coords, f"b{i}", f"p{i}", CLASSES[i % 2]))
    return bags


def jobs_of(*heads: str, seeds=(0, 1), folds: int = 3, count: int = 20, **common) -> list[FitJob]:
    jobs = []
    for head in heads:
        settings, train = KINDS[head]
        for seed in seeds:
            for fold in range(folds):
                test, val = (set(range(at % folds, count, folds)) for at in (fold, fold + 1))
                wanted = {"epochs": 4, "min_epochs": 0, "patience": 1, "seed": 10 * seed + fold, **train}
                spec = HeadFitSpec(head=head, settings=settings, train=wanted, device="cpu", **common)
                rest = sorted(set(range(count)) - test - val)
                jobs.append(FitJob(spec, rest, sorted(val), CLASSES, name=f"{head} {seed} {fold}"))
    return jobs


def alone(bags: list[Bag], job: FitJob):
    return fit_head(
        [bags[i] for i in job.train],
        [bags[i] for i in job.val],
        classes=job.classes,
        task=job.task,
        spec=job.spec,
    )


def difference(one, other) -> float:
    states = (each.model.state_dict() for each in (one, other))
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(*(s.values() for s in states), strict=True))


def test_all_at_once_equals_one_by_one_in_float64():
    bags = cohort()
    jobs = [
        *jobs_of(*KINDS, seeds=(0,)),
        *jobs_of("abmil", seeds=(1,)),
        *jobs_of("mean", "abmil", seeds=(5,), batch_bags=4, class_weights="balanced"),
        *jobs_of("abmil", seeds=(6,), batch_tiles=30, standardise=False),
    ]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    together = fit_many(bags, jobs, feature_set="f@1")
    assert torch.equal(before, torch.get_rng_state())
    for job, outcome in zip(jobs, together, strict=True):
        one, other = outcome.head(), alone(bags, job)
        assert one.model.dtype == torch.float64
        assert difference(one, other) < 1e-6, job.name
        assert (one.best_epoch, len(one.history)) == (other.best_epoch, len(other.history)), job.name
        assert [h.losses["total"] for h in one.history] == pytest.approx([h.losses["total"] for h in other.history])
    assert len({len(outcome.head().history) for outcome in together}) > 1  # each stopped by itself
    assert together[0].head().feature_set == "f@1"


def test_half_precision_features_give_the_same_bits_together_and_alone():
    bags = cohort(dtype=np.float16)
    jobs = jobs_of("abmil", "transmil", seeds=(0,))
    for job, outcome in zip(jobs, fit_many(bags, jobs), strict=True):
        assert outcome.head().model.dtype == torch.float32
        assert difference(outcome.head(), alone(bags, job)) == 0


def test_targets_of_all_kinds_learn_together():
    bags = [
        Bag(
            bag.features,
            bag.coords,
            bag.bag_id,
            bag.group,
            {"grade": str(i % 3), "time": f"{1 + i}{'+' * (i % 4 == 0)}"},
        )
        for i, bag in enumerate(cohort())
    ]
    grade = TargetCoding("grade", "multiclass", classes=("0", "1", "2"))
    time = TargetCoding("time", "survival-cox", horizons=(5.0, 10.0))
    (plain, *rest) = jobs_of("abmil", seeds=(1,))
    jobs = [
        FitJob(plain.spec, job.train, job.val, task=task, name=f"{len(task.codings)} {n}")
        for n, job in enumerate((plain, *rest))
        for task in (Task((grade,)), Task((grade, time)))
    ]
    for job, outcome in zip(jobs, fit_many(bags, jobs), strict=True):
        one, other = outcome.head(), alone(bags, job)
        assert difference(one, other) < 1e-6
        assert [c.baseline for c in one.task.codings] == [c.baseline for c in other.task.codings]
        assert np.allclose(predict(one, bags).probs, predict(other, bags).probs, atol=1e-9)


def test_a_job_that_fails_leaves_the_others_alone():
    bags = cohort()
    good = jobs_of("abmil", seeds=(0,))
    fast = good[0].spec.with_values(train={"lr": 1e300, "epochs": 5})
    wild = FitJob(fast, good[0].train, classes=CLASSES, name="wild")
    strange = FitJob(good[0].spec, good[0].train, classes=("normal", "odd"), name="strange")
    told = []
    outcomes = fit_many(bags, [wild, *good, strange], on_trained=told.append)
    assert len(told) == len(outcomes) == 5
    with pytest.raises(PathotuneError, match=r"^wild: epoch \d, batch \d+: the loss is"):
        outcomes[0].head()
    with pytest.raises(UsageError, match=r"^strange: bag b5: its target is 'tumour'"):
        outcomes[-1].head()
    for job, outcome in zip(good, outcomes[1:-1], strict=True):
        assert difference(outcome.head(), alone(bags, job)) < 1e-12


def test_every_epoch_is_told_with_its_job():
    jobs = jobs_of("mean", seeds=(0,))
    told = []
    outcomes = fit_many(cohort(), jobs, on_epoch=lambda job, record: told.append((job.name, record.epoch)))
    assert sorted(told) == sorted((o.job.name, h.epoch) for o in outcomes for h in o.head().history)


def test_bags_are_read_once_an_epoch_whatever_the_number_of_jobs(monkeypatch):
    walks = []
    real = PlacedBags.walk
    monkeypatch.setattr(PlacedBags, "walk", lambda self, order: walks.append(list(order)) or real(self, order))
    fixed = {"epochs": 2, "patience": 0}
    jobs = [FitJob(job.spec.with_values(train=fixed), job.train, job.val, CLASSES) for job in jobs_of("abmil", "mean")]
    fit_many(cohort(), jobs)
    assert [sorted(walk) for walk in walks] == [list(range(20))] * 5  # scale; then twice training and validation
    assert walks[1] != walks[3]


def test_the_order_of_a_bag_hangs_on_its_id_and_the_epoch_alone():
    bags = cohort()
    orders = [_order(bags, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    few = bags[3:15:2]
    kept = [bags[place].bag_id for place in orders[1] if bags[place] in few]
    assert [few[place].bag_id for place in _order(few, 1)] == kept


def test_batches_keep_to_their_budget_of_tiles(monkeypatch):
    from pathotune_pipeline.heads.learner import HeadLearner

    seen = []
    real = HeadLearner.losses
    monkeypatch.setattr(HeadLearner, "losses", lambda self, batch: seen.append(batch) or real(self, batch))
    bags = cohort()
    lengths = {bag.bag_id: len(bag) for bag in bags}

    def batches(**changes) -> list[list[int]]:
        seen.clear()
        fit_head(bags, [], classes=CLASSES, spec=HeadFitSpec(train={"epochs": 1}, device="cpu", **changes))
        assert sorted(name for batch in seen for name in batch.bag_ids) == sorted(lengths)
        assert all(batch.lengths.tolist() == [lengths[name] for name in batch.bag_ids] for batch in seen)
        return [batch.lengths.tolist() for batch in seen]

    assert {len(batch) for batch in batches()} == {1}
    packed = batches(batch_tiles=40)
    assert all(sum(batch) <= 40 for batch in packed)
    assert all(sum(a) + b[0] > 40 for a, b in pairwise(packed))  # none is closed early
    assert max(len(batch) for batch in batches(batch_tiles=40, batch_bags=2)) == 2
    assert all(len(batch) == 1 for batch in batches(batch_tiles=1))  # long bags alone


def test_jobs_share_a_device_and_bags_a_dimension():
    jobs = jobs_of("mean", seeds=(0,))
    other = FitJob(jobs[0].spec.with_values(device="auto"), jobs[0].train, classes=CLASSES)
    with pytest.raises(UsageError, match="share a device; found auto, cpu"):
        fit_many(cohort(), [jobs[0], other])
    odd = Bag(np.zeros((3, 4)), np.zeros((3, 2)), "odd", "odd", "normal")
    with pytest.raises(UsageError, match="bag odd has 4-d features and bag b0 9-d"):
        fit_many([*cohort(), odd], jobs)
    assert fit_many(cohort(), []) == []
