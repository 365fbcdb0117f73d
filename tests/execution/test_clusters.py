"""Clusters from their files: each is constructed from the one in configs/execution, as far as it goes without its site."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pathotune_pipeline.errors import MissingExtraError, SpecError
from pathotune_pipeline.execution import ExecutionSpec, create_executor
from pathotune_pipeline.execution.clusters import (
    ClusterSpec,
    kubernetes_resource,
    local_cluster,
    read_cluster,
    settings,
    slurm_cluster,
)
from pathotune_pipeline.execution.dask import Staffing
from pathotune_pipeline.execution.gpus import parse_listing, visible_gpus

FILES = Path(__file__).resolve().parents[2] / "configs" / "execution"


def process_of(_: object) -> tuple[int, str | None, str | None]:
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.filterwarnings("ignore")
def test_a_local_cluster_from_its_file_and_one_process_for_each_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    with create_executor(ExecutionSpec(executor=str(FILES / "local.yaml"), slides_at_once=2)) as executor:
        assert executor.workers == 2
        found = {result.value for result in executor.map(process_of, range(12))}
        for worker in executor._workers.values():
            assert (worker.gpus, worker.slots) == (1.0, 2)
            assert worker.resources(alone=False) == {"GPU": 0.5}
            assert worker.resources(alone=True) == {"GPU": 1.0}
    assert len({pid for pid, _, _ in found}) == 2
    assert {(device, threads) for _, device, threads in found} == {("GPU-a", "1"), ("GPU-b", "1")}


@pytest.mark.filterwarnings("ignore")
def test_without_gpus_to_be_used_workers_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with settings():
        cluster, count = local_cluster(ClusterSpec(workers=1, use_gpus=False), 1)
    try:
        assert count == 1
        (spec,) = cluster.worker_spec.values()
        assert "resources" not in spec["options"]
    finally:
        cluster.close()


def test_slurm_jobs_from_their_file() -> None:
    pytest.importorskip("dask_jobqueue")
    spec = read_cluster(FILES / "slurm.yaml")
    slurm = spec.slurm.with_values(interface="lo")  # else Dask asks which address leads to the internet
    with settings(), slurm_cluster(spec.with_values(slurm=slurm)) as cluster:
        script = cluster.job_script()
        assert len(cluster.workers) == 0
    for line in ("#SBATCH -p gpu", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=16", "#SBATCH -t 08:00:00"):
        assert line in script.splitlines()
    command = script.splitlines()[-1]
    assert "--resources GPU=1" in command
    assert "--lifetime '7h 50m' --lifetime-stagger '4m'" in command
    assert "export OMP_NUM_THREADS=1" in script
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=False" in script


def test_kubernetes_pods_from_their_file() -> None:
    pytest.importorskip("dask_kubernetes")
    made = kubernetes_resource(read_cluster(FILES / "kubernetes.yaml"), 2)
    assert made["kind"] == "DaskCluster"
    worker = made["spec"]["worker"]
    (container,) = worker["spec"]["containers"]
    assert worker["replicas"] == 1
    assert " ".join(container["args"][:2]) == "dask worker"
    assert " ".join(container["args"][-6:]) == "--nthreads 2 --memory-limit 0 --resources GPU=1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/slides", "/store"}
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in worker["spec"]["volumes"]}
    assert claims == {"slides", "store"}
    (scheduler,) = made["spec"]["scheduler"]["spec"]["containers"]
    assert {"name": "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "value": "0"} in scheduler["env"]
    assert "nvidia.com/gpu" not in str(scheduler["resources"])


class Asked:
    """A cluster that only notes what is asked of it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def scale(self, workers: int) -> None:
        self.sizes.append(workers)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_is_asked_for_as_many_workers_as_there_is_work_for() -> None:
    with create_executor(ExecutionSpec(executor="local", workers=1, slides_at_once=2)) as executor:
        asked, own = Asked(), executor._cluster
        executor._cluster, executor._staffing, executor._asked = asked, Staffing(most=5), 0
        assert executor.workers == 5
        assert len(list(executor.map(process_of, range(6)))) == 6
        executor._scaled_s = float("-inf")
        assert len(list(executor.map(process_of, range(100)))) == 100
        executor._cluster = own
    assert asked.sizes == [3, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: slrum", "kind"),
        ("kind: slurm\nslurm: {walltme: 1}", "Did you mean 'walltime'"),
        ("minimum: 9", "minimum is 9, above maximum, 8"),
        ("- a", "must hold settings"),
        ("a: [", "is not YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "cluster.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SpecError, match=message) as raised:
        create_executor(ExecutionSpec(executor=str(file)))
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(("kind", "module"), [("slurm", "dask_jobqueue"), ("kubernetes", "dask_kubernetes.operator")])
def test_an_absent_library_names_its_extra(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pathotune_pipeline\[{kind}\]"):
        create_executor(ExecutionSpec(executor=str(FILES / f"{kind}.yaml")))


LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-22)
  MIG 3g.20gb     Device  0: (UUID: MIG-aa)
  MIG 3g.20gb     Device  1: (UUID: MIG-bb)
"""


def test_gpus_are_found_by_their_listing_and_the_environment_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_listing(LISTING) == ["GPU-11", "MIG-aa", "MIG-bb"]
    assert parse_listing("No devices were found\n") == []
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<EOF\n{LISTING}EOF\n")
    program.chmod(0o755)
    assert subprocess.run([program], capture_output=True, check=True).stdout
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["GPU-11", "MIG-aa", "MIG-bb"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert visible_gpus() == ["1", "3"]
    program.write_text("#!/bin/sh\nexit 9\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == []
