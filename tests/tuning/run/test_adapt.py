from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import SpecError, UnknownNameError, UsageError
from pathotune_pipeline.evaluation.metrics import auroc
from pathotune_pipeline.tuning.run.adapt import COURSE, adapt_patches
from pathotune_pipeline.tuning.run.learner import PatchLearner
from pathotune_pipeline.tuning.run.spec import AdaptSpec, Method
from tests.tuning.run.conftest import make_encoder, stained

TRAIN, VAL, TEST = np.arange(80), np.arange(80, 120), np.arange(120, 160)
QUICK = {"epochs": 6, "warmup_epochs": 1, "lr": 0.003}


def spec_of(method: Method, **train) -> AdaptSpec:
    adapter = {"n_prompts": 4, "rank": 4, "lora_dropout": 0.0}
    return AdaptSpec.parse({"method": method, "adapter": adapter, "cnn": "resnet10t", "train": {**QUICK, **train}})


def trained(result) -> PatchLearner:
    assert isinstance(result.model, PatchLearner)
    return result.model


@pytest.mark.parametrize(
    "method", ["linear", "knn", "vpt-shallow", "vpt-deep", "pathotune", "lora", "partial", "full", "cnn"]
)
def test_every_method_learns_and_leaves_the_encoder_alone(encoder, pink_and_blue, method):
    before = state_sha256(encoder.module)
    result = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec_of(method))
    right = result.predict(pink_and_blue, TEST).argmax(1) == pink_and_blue.labels[TEST]
    assert right.mean() > 0.9
    assert state_sha256(encoder.module) == before
    assert not any(p.requires_grad for p in encoder.module.parameters())
    assert 0 <= result.trained_parameters <= result.parameters


def test_what_learns_is_what_the_method_says(encoder, pink_and_blue):
    backbone, head, p, d = sum(x.numel() for x in encoder.module.parameters()), 2 * 65, 4, 64
    block = sum(x.numel() for x in encoder.module.blocks[0].parameters())
    expected = {
        "linear": head,
        "knn": 0,
        "vpt-shallow": p * d + head,
        "vpt-deep": 3 * p * d + head,
        "lora": 3 * 4 * (4 * d + 2 * d) + head,
        "partial": 2 * block + 2 * d + head,
        "full": backbone + head,
    }
    for method, count in expected.items():
        result = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec_of(method, epochs=1))
        assert result.trained_parameters == count, method
    assert result.parameters == backbone + head


def test_every_trained_tensor_moves_and_no_other(encoder, pink_and_blue):
    for method in ("vpt-deep", "pathotune", "lora", "partial", "full"):
        one = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL[:0], spec=spec_of(method, epochs=1))
        more = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL[:0], spec=spec_of(method, epochs=8))
        states = [dict(trained(each).named_parameters()) for each in (one, more)]
        for name, tensor in states[0].items():
            moved = not torch.equal(tensor, states[1][name])
            assert moved is tensor.requires_grad, (method, name)


def test_the_same_call_gives_the_same_bits(encoder, pink_and_blue):
    for method in ("pathotune", "full"):
        rows = []
        for noise in range(2):
            torch.manual_seed(noise)  # the process's own random state does not matter
            result = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec_of(method, epochs=2))
            rows.append(result.predict(pink_and_blue, TEST))
        assert np.array_equal(*rows)
        other = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec_of(method, epochs=2, seed=1))
        assert not np.array_equal(rows[0], other.predict(pink_and_blue, TEST))


def test_a_poisoned_last_epoch_changes_nothing(encoder, pink_and_blue, monkeypatch):
    losses, steps, learners, states = PatchLearner.losses, [], [], []

    def poisoned(self, batch):
        steps.append(batch)
        learners[:] = [self]
        if len(steps) == 3 * 5 + 1:  # three batches an epoch: the sixth epoch begins, and it is the last
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.normal_()
        return losses(self, batch)

    def keep(record):
        states.append({name: tensor.clone() for name, tensor in learners[0].state_dict().items()})

    monkeypatch.setattr(PatchLearner, "losses", poisoned)
    spec = spec_of("vpt-deep", lr=0.01)
    result = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec, on_epoch=keep)
    assert len(states) == 6
    assert result.best_epoch < 5
    assert result.history[5].validation > 5 * result.history[result.best_epoch].validation
    found = trained(result).state_dict()
    assert all(torch.equal(found[name], states[result.best_epoch][name]) for name in found)
    assert not any(torch.equal(found[name], states[5][name]) for name in found)
    assert auroc(pink_and_blue.labels[TEST], result.predict(pink_and_blue, TEST)).value > 0.95


def test_shuffled_labels_give_chance(encoder, pink_and_blue):
    scores = []
    for seed in range(5):
        labels = np.random.default_rng(seed).permutation(pink_and_blue.labels)
        shuffled = pink_and_blue.with_labels(labels)
        result = adapt_patches(encoder, shuffled, train=TRAIN, val=VAL, spec=spec_of("vpt-deep", epochs=4))
        scores.append(auroc(labels[TEST], result.predict(shuffled, TEST)).value)
    assert abs(np.mean(scores) - 0.5) < 0.12


def adapt_toy(out: str, method: Method):
    """One training, as the test and the process that is killed both make it."""
    patches = stained(160, [(200, 120, 180), (120, 90, 190)])
    return adapt_patches(
        make_encoder(), patches, train=TRAIN, val=VAL, spec=spec_of(method), out=Path(out) if out else None
    ), patches


@pytest.mark.parametrize("method", ["pathotune", "full"])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, method):
    code = f"import tests.tuning.run.test_adapt as t; t.adapt_toy({str(tmp_path)!r}, {method!r})"
    environment = {
        **os.environ,
        "PATHOTUNE_FAILPOINT": "course.saved:2",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    died = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (tmp_path / COURSE).is_file()
    resumed, patches = adapt_toy(str(tmp_path), method)
    whole, _ = adapt_toy("", method)
    assert [r.losses for r in resumed.history] == [w.losses for w in whole.history]
    assert np.array_equal(resumed.predict(patches, TEST), whole.predict(patches, TEST))


def test_a_state_of_another_training_is_not_gone_on_from(encoder, pink_and_blue, tmp_path):
    spec = spec_of("vpt-deep", epochs=2)

    def learn(patches=pink_and_blue, spec=spec, train=TRAIN):
        return adapt_patches(encoder, patches, train=train, val=VAL, spec=spec, out=tmp_path)

    learn()
    labels = pink_and_blue.labels.copy()
    labels[0] = 1 - labels[0]
    for changed in (
        {"patches": pink_and_blue.with_labels(labels)},
        {"train": TRAIN[1:]},
        {"spec": spec_of("vpt-deep", epochs=2, seed=3)},
        {"spec": spec.with_values(balance="class")},
    ):
        with pytest.raises(UsageError, match="other data or settings"):
            learn(**changed)
    learn(spec=spec.with_values(predict_batch=7))


def test_checkpointing_changes_no_result(encoder, pink_and_blue):
    for method in ("vpt-deep", "full"):
        spec = spec_of(method, epochs=2)
        kept, computed = (
            adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec.with_values(checkpointing=each))
            for each in (False, True)
        )
        assert np.allclose(kept.predict(pink_and_blue, TEST), computed.predict(pink_and_blue, TEST), atol=1e-6)


def test_accumulated_batches_and_bf16_train(encoder, pink_and_blue):
    spec = spec_of("lora", accumulate=2, precision="bf16").with_values(batch=10)
    result = adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec)
    assert (result.predict(pink_and_blue, TEST).argmax(1) == pink_and_blue.labels[TEST]).mean() > 0.9


def test_what_does_not_go_together_is_said(encoder, new_encoder, pink_and_blue):
    def learn(spec, encoder=encoder):
        return adapt_patches(encoder, pink_and_blue, train=TRAIN, val=VAL, spec=spec)

    with pytest.raises(SpecError, match="no weights that could be adapted"):
        learn(spec_of("vpt-deep"), EncoderSpec(name="stain-texture"))
    with pytest.raises(SpecError, match="has 3 blocks"):
        learn(spec_of("partial").with_values(partial_blocks=9))
    with pytest.raises(UnknownNameError, match="resnet"):
        learn(spec_of("cnn").with_values(cnn="resnett50"))
    half = Encoder(new_encoder().module, encoder.card, EncoderSpec(name="toy", precision="bf16"), encoder.device)
    for method in ("lora", "full"):
        with pytest.raises(SpecError, match="--train-precision bf16"):
            learn(spec_of(method), half)
    assert learn(spec_of("linear"), EncoderSpec(name="stain-texture")).encoder.name == "stain-texture"
