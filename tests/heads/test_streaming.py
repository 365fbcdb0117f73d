"""Long bags in chunks give what the whole bag gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads import streaming
from pathotune_pipeline.heads.learner import HeadModel
from pathotune_pipeline.heads.streaming import OnlinePool, TileChunks

CASES = [
    ("mean", {}),
    ("max", {}),
    ("abmil", {}),
    ("abmil-ungated", {}),
    ("abmil", {"embed": False}),
    ("clam-sb", {}),
    ("clam-mb", {}),
    ("transmil", {}),
    ("transmil", {"landmarks": 7}),
    ("dsmil", {}),
    ("dsmil", {"values": "relu", "average": True}),
    ("dtfd", {}),
    ("dtfd", {"distill": "MaxMinS", "instances": 3}),
    ("dtfd", {"distill": "MaxS"}),
    ("transformer", {}),
]
MODULES = ("nystrom", "transmil", "transformer", "learner")


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of ten tiles, so that a small bag is a long one."""
    for name in MODULES:
        monkeypatch.setattr(f"pathotune_pipeline.heads.{name}.CHUNK_ROWS", 10)
    monkeypatch.setattr("pathotune_pipeline.heads.transformer.QUERY_ROWS", 7)
    monkeypatch.setattr("pathotune_pipeline.heads.transmil.CHANNELS", 5)
    monkeypatch.setattr(TileChunks.__init__, "__kwdefaults__", {"rows": 10})


def model_of(head, dtype):
    model = HeadModel(head).to(dtype).eval()
    model.mean.copy_(torch.linspace(-1, 1, head.in_dim))
    model.std.copy_(torch.linspace(0.5, 2, head.in_dim))
    return model


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("n", [11, 53])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda value: str(value))
def test_chunks_give_what_the_whole_bag_gives(name, settings, n, dtype, near, small_head, some_bags, small_chunks):
    model = model_of(small_head(name, **settings), dtype)
    (features,) = some_bags(n)
    bag = BagBatch.of((3 * features).to(dtype))
    with torch.enable_grad():  # without gradients the layers of long bags take chunks too
        whole = model(bag)
    streamed = model.read(bag)
    assert (streamed.logits - whole.logits).abs().max() < near
    assert not streamed.logits.requires_grad
    assert (streamed.attention is None) == (whole.attention is None)
    if whole.attention is not None:
        assert streamed.attention[0].shape == (n,)
        assert (streamed.attention[0] - whole.attention[0]).abs().max() < near


def test_a_head_that_knows_no_chunks_takes_its_bag_whole(some_bags, small_chunks):
    from pathotune_pipeline.heads.head import HeadOutput, HeadSpec, MILHead

    class Last(MILHead):
        def forward(self, batch):
            return HeadOutput(batch.features[-1:, :2] * len(batch.features))

    model = model_of(Last(6, 2, HeadSpec()), torch.float64)
    (features,) = some_bags(25)
    said = model.read(BagBatch.of(features)).logits
    assert torch.equal(said, model(BagBatch.of(features)).logits)
    assert said[0, 0] == (features[-1, 0] + 1) / 0.5 * 25


def test_the_online_pool_is_a_softmax_whatever_comes_first():
    rng = torch.Generator().manual_seed(0)
    scores = 200 * torch.randn(40, 2, generator=rng, dtype=torch.float64)
    values = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    for order in (torch.arange(40), scores[:, 0].argsort(), scores[:, 0].argsort(descending=True)):
        pool = OnlinePool()
        for rows in order.split(7):
            pool.add(scores[rows], values[rows])
        pool.add(scores[:0], values[:0])
        assert torch.allclose(pool.weights(), scores[order].softmax(dim=0), atol=1e-14)
        assert torch.allclose(pool.pooled(), scores.softmax(dim=0).mT @ values, atol=1e-12)


def test_stored_features_and_coords_come_in_chunks(small_chunks):
    features = torch.arange(46, dtype=torch.float16).reshape(23, 2)
    bag = BagBatch(features, torch.tensor([0, 23]), coords=torch.arange(46).reshape(23, 2))
    scale = (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    tiles = TileChunks(replace(bag, scale=scale), torch.device("cpu"), torch.float32)
    chunks = [chunk.scaled() for chunk in tiles]
    assert [len(chunk.features) for chunk in chunks] == [10, 10, 3]
    assert torch.equal(torch.cat([chunk.features for chunk in chunks]), (features.float() - scale[0]) / scale[1])
    assert torch.equal(torch.cat([chunk.coords for chunk in chunks]), bag.coords)
    assert torch.equal(tiles.take(torch.tensor([4, 22])).features, features[[4, 22]])
    assert streaming.CHUNK_ROWS == 8192


LONG = """
import sys
from pathlib import Path
import numpy as np, torch
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.heads import HeadFitSpec, create_head, predict
from pathotune_pipeline.heads.learner import HeadModel, TrainedHead

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

path, name, tiles = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
features = np.memmap(path, np.float16, mode="c", shape=(tiles, 1024))
bag = Bag(features, np.zeros((tiles, 2), np.int64), "long", "long")
torch.manual_seed(0)
model = HeadModel(create_head(name, in_dim=1024, n_classes=2)).eval()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = memory("VmRSS")
said = predict(TrainedHead(model, HeadFitSpec(head=name), ("a", "b")), [bag])
peak = memory("VmHWM")
assert said.attention is None or said.attention[0].shape == (tiles,)
assert np.isfinite(said.probs).all()
print(peak - before - features.nbytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tiles", "most_mb"),
    [
        ("mean", 200_000, 400),
        ("max", 200_000, 400),
        ("abmil", 200_000, 400),
        ("clam-mb", 200_000, 400),
        ("dsmil", 200_000, 400),
        ("dtfd", 200_000, 400),
        ("transmil", 200_000, 2500),  # tokens of layer 1 are needed whole: five arrays of 0.4 GB, no landmark weights
        ("transformer", 20_000, 500),  # its time grows with the square
    ],
)
def test_a_long_bag_takes_little_more_memory_than_its_features(name, tiles, most_mb, tmp_path):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no /proc/self/clear_refs to measure with")
    rng, flat = np.random.default_rng(0), np.memmap(tmp_path / "x", np.float16, mode="w+", shape=(tiles, 1024))
    for start in range(0, tiles, 20_000):
        flat[start : start + 20_000] = rng.standard_normal((min(20_000, tiles - start), 1024), dtype=np.float32)
    flat.flush()
    command = [sys.executable, "-c", LONG, str(tmp_path / "x"), name, str(tiles)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(f"{name}: {int(done.stdout) / 1e6:.0f} MB beside the features")
    assert int(done.stdout) < most_mb * 1e6
