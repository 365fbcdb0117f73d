"""A network that tells tissue, from flag to store, also in worker processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
from pathotune_pipeline.features.extract import extract, run_jobs
from pathotune_pipeline.features.persist import load_tissue
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.planning import plan_extract
from pathotune_pipeline.store import FeatureStore


class NotWhite(torch.nn.Module):
    """Tissue is what is not white, by one convolution that takes the colours' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Conv2d(3, 1, 1)
        torch.nn.init.constant_(self.mean.weight, -40 / 3)
        torch.nn.init.constant_(self.mean.bias, 40 * 0.88)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.mean(pixels)


@pytest.fixture
def spec(tmp_path: Path) -> ExtractSpec:
    path = tmp_path / "net.pt"
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(NotWhite(), torch.zeros(1, 3, 64, 64)), str(path))
    card = {"mpp": 4.0, "tile_px": 64, "mean": [0, 0, 0], "std": [1, 1, 1]}
    path.with_suffix(".json").write_text(json.dumps(card))
    tissue = {"segmenter": f"network:{path}", "segmenter_device": "cpu"}
    return ExtractSpec.parse({"tiles": {"tile_px": 128}, "tissue": tissue})


@pytest.mark.parametrize("executor", ["serial", "local"])
def test_the_networks_mask_is_the_tissue(spec: ExtractSpec, small_archive: Path, tmp_path: Path, executor: str) -> None:
    store = FeatureStore(tmp_path / "s")
    with create_executor(ExecutionSpec.parse({"executor": executor, "workers": 1})) as where:
        told = extract(read_manifest(small_archive / "case-1"), spec, store, where)
    assert [outcome.status for outcome in told.outcomes] == ["committed", "committed"]
    [name] = store.sets("tissue")
    assert name.label == "network-8mpp"
    record = store.records(name)["s2.tif"]
    mask = load_tissue(store, record)
    assert mask.mpp_x == 4.0
    assert 0.1 < mask.share < 0.95
    segmenter = store.group(record).attrs["segmenter"]
    assert segmenter["mpp"] == 4.0
    assert len(segmenter["weights_sha256"]) == 64


def test_a_file_that_changed_after_the_plan_is_not_used(spec: ExtractSpec, small_archive: Path, tmp_path: Path) -> None:
    plan = plan_extract(read_manifest(small_archive / "case-1"), spec, FeatureStore(tmp_path / "s"))
    card = tmp_path / "net.json"
    card.write_text(card.read_text().replace("4.0", "2.0"))
    told = list(run_jobs(plan, plan.jobs, SerialExecutor()))
    assert [outcome.status for outcome in told] == ["failed", "failed"]
    assert "differs from that the run was planned with" in told[0].reason
