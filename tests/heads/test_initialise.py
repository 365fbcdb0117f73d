from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.errors import CorruptDataError, UsageError, WeightsError
from pathotune_pipeline.evaluation.crossval import CrossvalSpec, crossval
from pathotune_pipeline.heads import HeadFitSpec, create_head, fit_head, load_head, save_head
from pathotune_pipeline.heads.initialise import by_class, initialise

CLASSES = ("normal", "tumour")
SMALL = {"hidden": 24, "attention_dim": 8}


def some(count: int, dim: int = 12) -> list[Bag]:
    rng = np.random.default_rng(3)
    return [
        Bag(rng.normal(7, 2, (9, dim)).astype(np.float32), np.zeros((9, 2), np.int64), f"b{i}", f"p{i}", CLASSES[i % 2])
        for i in range(count)
    ]


def spec(head: str = "abmil", init_from: Path | None = None, **train) -> HeadFitSpec:
    return HeadFitSpec(
        head=head,
        settings=SMALL,
        train={"epochs": 1, **train},
        device="cpu",
        init_from=str(init_from) if init_from else None,
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    save_head(folder, fit_head(some(4), (), classes=CLASSES, spec=spec(), feature_set="f@1"))
    return folder


def test_the_same_head_takes_everything(earlier, tmp_path):
    old = load_head(earlier)
    new = fit_head(some(8)[4:], (), classes=CLASSES, spec=spec(init_from=earlier, lr=1e-12, seed=5))
    for key, value in old.model.state_dict().items():
        assert (new.model.state_dict()[key] - value).abs().max() < 1e-9, key
    assert (new.initial.fresh, new.initial.left) == ((), ())
    assert set(new.initial.taken) == set(new.model.head.state_dict())
    save_head(tmp_path, new)
    assert load_head(tmp_path).initial == new.initial
    assert new.initial.feature_set == "f@1"
    assert old.initial is None


@pytest.mark.parametrize("classes", [("a", "b", "c"), ("tumour", "normal")])
def test_other_classes_begin_at_random(earlier, classes):
    head = create_head("abmil", in_dim=12, n_classes=len(classes), **SMALL)
    before = head.classifier.weight.detach().clone()
    said, mean, std = initialise(head, earlier, name="abmil", classes=classes)
    old = load_head(earlier).model
    assert said.fresh == ("classifier.weight", "classifier.bias")
    assert said.left == ("classifier.bias", "classifier.weight")
    assert torch.equal(head.classifier.weight, before)
    assert torch.equal(head.attention_v.weight, old.head.attention_v.weight)
    assert torch.equal(mean, old.mean)
    assert torch.equal(std, old.std)


def test_another_head_takes_what_it_shares(earlier):
    head = create_head("clam-sb", in_dim=12, n_classes=2, **SMALL)
    said, _, _ = initialise(head, earlier, name="clam-sb", classes=CLASSES)
    assert set(said.taken) == {"embed.0.weight", "embed.0.bias", "classifier.weight", "classifier.bias"}
    assert "attention_v.weight" in said.left
    assert "attention.v.weight" in said.fresh
    assert torch.equal(head.embed[0].weight, load_head(earlier).model.head.embed[0].weight)
    assert "(trained on f@1; 4 parameters were taken; began at random: attention.v.weight" in said.sentence()


def test_what_hangs_on_the_number_of_classes():
    state = torch.get_rng_state()
    found = {name: by_class(create_head(name, in_dim=6, n_classes=2)) for name in ("clam-mb", "dsmil", "dtfd", "max")}
    both = {name: {key.rpartition(".")[0] for key in keys} for name, keys in found.items()}
    assert both == {
        "clam-mb": {"classifier", "instance_classifiers", "attention.w"},
        "dsmil": {"classifier", "instance_classifier"},
        "dtfd": {"first.classifier", "second.classifier"},
        "max": {"classifier"},
    }
    torch.set_rng_state(state)
    with torch.random.fork_rng(devices=[]):
        head = create_head("max", in_dim=6, n_classes=2)
        before = torch.get_rng_state()
        by_class(head)
        assert torch.equal(before, torch.get_rng_state())


def test_what_does_not_fit_is_refused_and_named(earlier, tmp_path):
    def begin(name: str, source: Path, in_dim: int = 12, **settings) -> None:
        initialise(create_head(name, in_dim=in_dim, n_classes=2, **settings), source, name=name, classes=CLASSES)

    with pytest.raises(WeightsError, match=r"embed.0.weight \[24, 12\] for \[32, 12\]"):
        begin("abmil", earlier, hidden=32, attention_dim=8)
    with pytest.raises(WeightsError, match="12-d features; these are 10-d"):
        begin("abmil", earlier, in_dim=10, **SMALL)
    with pytest.raises(WeightsError, match="share no parameter"):
        initialise(create_head("mean", in_dim=12, n_classes=3), earlier, name="mean", classes=("a", "b", "c"))
    with pytest.raises(WeightsError, match="no such folder or file"):
        begin("abmil", tmp_path / "absent", **SMALL)
    with pytest.raises(WeightsError, match="no trained head is in it"):
        begin("abmil", tmp_path, **SMALL)
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="no published weights are known for transformer"):
        begin("transformer", tmp_path / "weights.pt")
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "head.json").write_bytes((earlier / "head.json").read_bytes())
    (folder / "head.safetensors").write_bytes((earlier / "head.safetensors").read_bytes()[:-1])
    with pytest.raises(CorruptDataError):
        begin("abmil", folder, **SMALL)


def test_published_weights_come_without_a_scale(tmp_path):
    settings = {**SMALL, "embed": False}
    shapes = {"attention.0": (8, 12), "attention.2": (1, 8), "classifier.0": (2, 12)}
    state = {f"{key}.weight": torch.full(size, 0.1) for key, size in shapes.items()}
    state |= {f"{key}.bias": torch.zeros(size[0]) for key, size in shapes.items()}
    torch.save(state, tmp_path / "abmil.pt")
    wanted = spec("abmil-ungated", tmp_path / "abmil.pt", lr=1e-12).with_values(settings=settings)
    trained = fit_head(some(4), (), classes=CLASSES, spec=wanted)
    assert trained.model.mean.tolist() == [0] * 12
    assert trained.model.std.tolist() == [1] * 12
    assert (trained.model.head.attention_v.weight - 0.1).abs().max() < 1e-6
    assert trained.initial.head == "published abmil weights"


def test_a_cross_validation_says_what_it_began_with(earlier):
    settings = CrossvalSpec(
        head="abmil", settings=SMALL, train={"epochs": 1}, folds=2, seeds=1, bootstrap=1000, init_from=str(earlier)
    )
    result = crossval(some(16), settings)
    notes = [note for note in result.notes if str(earlier) in note]
    assert len(notes) == 1
    assert "scores are too high" in notes[0]
    assert result.settings["init_from"] == str(earlier)
