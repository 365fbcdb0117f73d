from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.errors import CorruptDataError, SpecError, UsageError
from pathotune_pipeline.heads import HeadFitSpec, fit_head, load_head, predict, save_head
from pathotune_pipeline.heads.moments import feature_scale

CLASSES = ("normal", "tumour")
SMALL = {
    "abmil": {"hidden": 32, "attention_dim": 16},
    "clam-sb": {"hidden": 32, "attention_dim": 16, "instances": 4},
    "clam-mb": {"hidden": 32, "attention_dim": 16, "instances": 4, "subtyping": True},
    "transmil": {"dim": 32, "heads": 4, "landmarks": 8},
    "dsmil": {"query_dim": 16},
    "dtfd": {"hidden": 32, "attention_dim": 16},
    "transformer": {"dim": 32, "heads": 4, "feedforward": 32},
}
HEADS = ["mean", "max", "abmil", "abmil-ungated", "clam-sb", "clam-mb", "transmil", "dsmil", "dtfd", "transformer"]


def planted(count: int, seed: int = 0, dim: int = 12) -> list[Bag]:
    rng = np.random.default_rng(seed)
    bags = []
    for i in range(count):
        x = rng.standard_normal((20 + i % 7, dim)) + 40
        if i % 2:
            x[:4, :3] += 3
        bags.append(Bag(x.astype(np.float32), np.zeros((len(x), 2), np.int64), f"b{i}", f"p{i}", CLASSES[i % 2]))
    return bags


@pytest.fixture(scope="module")
def cohort() -> list[Bag]:
    return planted(32)


def spec(head: str, **train) -> HeadFitSpec:
    return HeadFitSpec(head=head, settings=SMALL.get(head, {}), train=train, device="cpu")


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_and_comes_back_from_disk(head, cohort, tmp_path):
    # Max pooling hears one tile of each bag: with 18 bags it hangs on where it begins.
    start = {"lr": 3e-2, "seed": 4} if head == "max" else {"lr": 3e-3}
    wanted = spec(head, epochs=30, min_epochs=0, patience=8, **start)
    trained = fit_head(cohort[:18], cohort[18:24], classes=CLASSES, spec=wanted, feature_set="f@1")
    said = predict(trained, cohort[24:])
    assert (said.probs.argmax(axis=1) == [0, 1] * 4).mean() >= 0.75
    assert said.probs.sum(axis=1) == pytest.approx(np.ones(8))
    save_head(tmp_path / "h", trained)
    again = load_head(tmp_path / "h")
    assert np.array_equal(predict(again, cohort[24:]).probs, said.probs)
    assert (again.classes, again.feature_set, again.spec) == (CLASSES, "f@1", trained.spec)
    assert again.history == trained.history
    record = json.loads((tmp_path / "h" / "head.json").read_text())
    assert record["in_dim"] == 12
    assert "torch" in record["versions"]


@pytest.mark.parametrize("head", ["abmil", "clam-mb", "dsmil", "dtfd"])
def test_attention_is_on_what_was_planted(head, cohort):
    wanted = spec(head, lr=3e-3, epochs=30, min_epochs=0)
    trained = fit_head(cohort[:18], cohort[18:24], classes=CLASSES, spec=wanted)
    attention = predict(trained, cohort[25::2]).attention
    assert np.mean([w[:4].sum() for w in attention]) > 0.5


@pytest.mark.parametrize("head", ["abmil", "clam-sb", "transmil", "dtfd", "transformer"])
def test_the_same_seed_gives_the_same_bits(head, cohort):
    one, two, other = (
        predict(
            fit_head(cohort[:6], cohort[6:10], classes=CLASSES, spec=spec(head, epochs=2, seed=seed)), cohort[10:14]
        )
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one.probs, two.probs)
    assert not np.array_equal(one.probs, other.probs)


def test_a_bag_is_judged_by_itself(cohort):
    trained = fit_head(cohort[:6], (), classes=CLASSES, spec=spec("abmil", epochs=1))
    together = predict(trained, cohort[6:10]).probs
    assert np.array_equal(together[2:3], predict(trained, cohort[8:9]).probs)
    assert predict(trained, []).probs.shape == (0, 2)


def test_the_scale_is_that_of_all_instances(cohort):
    mean, std = feature_scale(cohort)
    everything = np.concatenate([bag.features for bag in cohort]).astype(np.float64)
    assert np.allclose(mean, everything.mean(axis=0))
    assert np.allclose(std, everything.std(axis=0))
    flat = [Bag(np.full((3, 2), 7, np.float16), np.zeros((3, 2)), "a", "a", 0)]
    assert feature_scale(flat)[1].tolist() == [1, 1]


def test_published_recipes_of_more_heads_are_the_presets():
    facts = {
        "clam-sb": {"lr": 1e-4, "weight_decay": 1e-5, "epochs": 200, "min_epochs": 50, "patience": 20},
        "dsmil": {"lr": 1e-4, "weight_decay": 1e-3, "epochs": 50, "schedule": "cosine"},
        "dtfd": {"lr": 1e-4, "weight_decay": 1e-4, "epochs": 200, "grad_clip": 5.0},
        "transformer": {"optimizer": "adamw", "lr": 1e-4, "epochs": 32, "patience": 16},
    }
    for head, wanted in facts.items():
        preset = HeadFitSpec(head=head).train_spec().model_dump()
        assert {"optimizer": "adam", **wanted}.items() <= preset.items()


def test_published_recipes_are_the_presets():
    abmil, transmil = HeadFitSpec(head="abmil").train_spec(), HeadFitSpec(head="transmil").train_spec(seed=3)
    assert (abmil.optimizer, abmil.lr, abmil.weight_decay) == ("adam", 5e-4, 1e-4)
    assert (transmil.optimizer, transmil.lookahead, transmil.accumulate, transmil.seed) == ("radam", True, 2, 3)
    assert not transmil.decay_vectors
    with pytest.raises(SpecError, match="Did you mean 'epochs'"):
        HeadFitSpec(train={"epoch": 3}).train_spec()


def test_what_cannot_be_trained_is_said(cohort):
    broken = Bag(np.full((3, 12), np.inf, np.float32), np.zeros((3, 2)), "bad", "bad", "normal")
    with pytest.raises(UsageError, match="bag bad has features that are not finite"):
        fit_head([*cohort[:4], broken], (), classes=CLASSES)
    with pytest.raises(UsageError, match="target is 'odd'"):
        fit_head([Bag(np.zeros((3, 12)), np.zeros((3, 2)), "x", "x", "odd")], (), classes=CLASSES)
    with pytest.raises(UsageError, match="none was given"):
        fit_head([], (), classes=CLASSES)
    with pytest.raises(UsageError, match="two classes"):
        fit_head(cohort[:2], (), classes=("normal",))


def test_a_damaged_head_is_not_loaded(cohort, tmp_path):
    trained = fit_head(cohort[:4], (), classes=CLASSES, spec=spec("mean", epochs=1))
    save_head(tmp_path, trained)
    data = bytearray((tmp_path / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "head.safetensors").write_bytes(bytes(data))
    with pytest.raises(CorruptDataError):
        load_head(tmp_path)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("abmil", {"bag"}),
        ("clam-sb", {"bag", "instance"}),
        ("dsmil", {"bag", "max"}),
        ("dtfd", {"bag", "pseudo"}),
    ],
)
def test_the_history_tells_each_loss(head, names, cohort):
    trained = fit_head(cohort[:4], cohort[4:8], classes=CLASSES, spec=spec(head, epochs=1))
    assert set(trained.history[0].losses) == names | {"total"}
    probs = predict(trained, cohort[4:8]).probs[np.arange(4), [0, 1, 0, 1]]
    assert trained.history[0].validation == pytest.approx(float(-np.log(probs).mean()), rel=1e-5)  # the task's alone


def test_training_leaves_the_random_state_alone(cohort):
    before = torch.get_rng_state()
    fit_head(cohort[:4], cohort[4:6], classes=CLASSES, spec=spec("transmil", epochs=1))
    assert torch.equal(before, torch.get_rng_state())
