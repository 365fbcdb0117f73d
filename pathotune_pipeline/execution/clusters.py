"""Clusters of Dask workers: on this machine, as SLURM jobs, as Kubernetes pods, or somebody else's.

A cluster of our own is described by a file (`configs/execution/*.yaml`), which is a ClusterSpec. Every worker is one
process, with one GPU where there are some, and has a few items in hand that share it.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pathotune_pipeline.errors import MissingExtraError, SpecError, UsageError
from pathotune_pipeline.execution.dask import DaskExecutor, Staffing
from pathotune_pipeline.execution.deadline import NEVER, Deadline
from pathotune_pipeline.execution.executor import usable_cores
from pathotune_pipeline.execution.gpus import visible_gpus
from pathotune_pipeline.spec import Spec, load_yaml, setting

CONNECT_TIMEOUT_S = 10.0
WORKERS_TIMEOUT_S = 120.0
PATIENCE_S = 600.0
"""Without any worker process on this machine for so long a run ends."""
LOST_S = 300.0
"""So long a nanny of this machine may take to have its worker up again."""
MOST_LOCAL_WORKERS = 8

WORKER_ENVIRONMENT = {
    # Threads are set where the work is; what memory is kept, `features.process` says in every worker.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_QUIET_SCHEDULER = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""No page, and for what Dask serves all the same a free port of this machine: two runs never meet on Dask's own."""
_SETTINGS = {
    "distributed.admin.low-level-log-length": 100,  # the scheduler keeps so many messages of each worker, with the jobs in them
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    "distributed.scheduler.allowed-failures": 0,  # the executor does again what a worker died under, by itself
    "distributed.scheduler.work-stealing": False,  # the executor says which worker does what
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
}


class SlurmSpec(Spec):
    """Workers as SLURM jobs: one job, one worker, one GPU."""

    partition: str | None = setting(None, "Partition (-p); empty: the site's default.", hashed=False)
    account: str | None = setting(None, "Account (-A).", hashed=False)
    walltime: str = setting("08:00:00", "Time limit of a job.", hashed=False)
    cores: int = setting(16, "Cores of a job, for its readers.", hashed=False, ge=1)
    memory: str = setting("64GB", "Memory of a job.", hashed=False)
    gpus: int = setting(1, "GPUs of a job, 0 or 1: a worker drives one.", hashed=False, ge=0, le=1)
    lifetime: str = setting(
        "7h 50m", "A worker takes nothing new after so long; less than the time limit by a slide's time.", hashed=False
    )
    lifetime_stagger: str = setting(
        "4m", "Workers' lifetimes differ by so much, that not all end at once.", hashed=False
    )
    directives: tuple[str, ...] = setting((), "Further #SBATCH directives, such as --constraint=a100.", hashed=False)
    prologue: tuple[str, ...] = setting(
        (), "Lines of the job before the worker starts: modules, staging.", hashed=False
    )
    interface: str | None = setting(None, "Network interface that workers and scheduler share.", hashed=False)
    logs: str | None = setting(None, "Folder of the jobs' logs.", hashed=False)


class KubernetesSpec(Spec):
    """Workers as pods of the Dask operator."""

    image: str = setting("pathotune:gpu", "Image of scheduler and workers, with this package in it.", hashed=False)
    namespace: str = setting("default", "Namespace.", hashed=False)
    name: str = setting("pathotune", "Name of the cluster.", hashed=False)
    cores: int = setting(16, "Cores of a pod, for its readers.", hashed=False, ge=1)
    memory: str = setting("64Gi", "Memory of a pod.", hashed=False)
    gpus: int = setting(1, "GPUs of a pod, 0 or 1: a worker drives one.", hashed=False, ge=0, le=1)
    claims: dict[str, str] = setting(
        {}, "Persistent volume claims by the path at which they are mounted: slides and store.", hashed=False
    )
    environment: dict[str, str] = setting({}, "Further environment variables.", hashed=False)
    node_selector: dict[str, str] = setting({}, "Labels of the nodes to use.", hashed=False)


class ClusterSpec(Spec):
    """A cluster of workers."""

    kind: Literal["local", "slurm", "kubernetes"] = setting("local", "local, slurm or kubernetes.", hashed=False)
    workers: int | None = setting(
        None, "Local workers; empty: one a GPU, or without any one a core, at most 8.", hashed=False, ge=1, le=512
    )
    use_gpus: bool = setting(True, "Whether local workers are made for this machine's GPUs.", hashed=False)
    threads: int | None = setting(
        None, "Threads of a worker process; empty: its share of the cores.", hashed=False, ge=1
    )
    minimum: int = setting(0, "Workers to ask for at once.", hashed=False, ge=0)
    maximum: int = setting(8, "Workers to ask for where there is work for as many.", hashed=False, ge=1)
    slurm: SlurmSpec = SlurmSpec()
    kubernetes: KubernetesSpec = KubernetesSpec()


def read_cluster(path: Path) -> ClusterSpec:
    """A cluster's file.

    Raises:
        SpecError: it cannot be read, or has a setting that is not known or not allowed.
    """
    loaded = load_yaml(path, f"--executor {path}")
    if not isinstance(loaded, dict):
        raise SpecError(f"--executor {path}: must hold settings of a cluster, found {type(loaded).__name__}.")
    spec = ClusterSpec.parse(loaded, f"--executor {path}")
    if spec.minimum > spec.maximum:
        raise SpecError(f"--executor {path}: minimum is {spec.minimum}, above maximum, {spec.maximum}.")
    return spec


def start(spec: ClusterSpec, *, slides_at_once: int, until: Deadline = NEVER) -> DaskExecutor:
    """Start a cluster.

    Args:
        spec: which.
        slides_at_once: items a worker has in hand.
        until: when no further item begins.

    Raises:
        MissingExtraError: what that kind of cluster needs is not installed.
    """
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.ERROR)  # what became of items is told by results
    with settings():
        if spec.kind == "local":
            cluster, workers = local_cluster(spec, slides_at_once)
            threads = spec.threads or max(1, usable_cores() // workers)
            return DaskExecutor(
                Client(cluster), cluster, slides_at_once=slides_at_once, threads=threads,
                staffing=Staffing(workers, workers, PATIENCE_S), until=until,
            )  # fmt: skip
        cluster = slurm_cluster(spec) if spec.kind == "slurm" else kubernetes_cluster(spec, slides_at_once)
        if spec.minimum:
            cluster.scale(spec.minimum)
        cores = spec.slurm.cores if spec.kind == "slurm" else spec.kubernetes.cores
        return DaskExecutor(
            Client(cluster), cluster, slides_at_once=slides_at_once, threads=spec.threads or cores,
            staffing=Staffing(spec.minimum, spec.maximum), until=until,
        )  # fmt: skip


def settings() -> AbstractContextManager[Any]:
    """Dask's settings for a cluster of our own, within a block."""
    import dask

    return dask.config.set(_SETTINGS)


def local_cluster(spec: ClusterSpec, slides_at_once: int) -> tuple[Any, int]:
    """Worker processes on this machine, one for each GPU where there are some; they restart when they die.

    Returns:
        The cluster, and how many workers it has.
    """
    import dask
    from distributed import Nanny, Scheduler, SpecCluster, Status

    class Restaffed(SpecCluster):
        """Gives nannies time to start a worker again, and makes up for those that gave up.

        Dask's own closes a nanny whose worker has been away for 15 s, which on a busy machine is while it starts; a slide
        that was sent to that worker would be blamed for its death. And it starts no other nanny by itself.
        """

        def __init__(self, **asked: Any) -> None:
            self._patient = dask.config.set({"distributed.deploy.lost-worker-timeout": f"{LOST_S:.0f} s"})
            super().__init__(**asked)

        def close(self, timeout: float | None = None) -> Any:
            self._patient.__exit__(None, None, None)
            return super().close(timeout)

        def scale(self, n: int = 0, **asked: Any) -> Any:
            self.loop.add_callback(self._drop_ended)
            return super().scale(n, **asked)

        def _drop_ended(self) -> None:
            for name in [name for name, each in self.workers.items() if each.status in (Status.closed, Status.failed)]:
                del self.workers[name]

    devices = visible_gpus() if spec.use_gpus else []
    count = spec.workers or len(devices) or min(MOST_LOCAL_WORKERS, usable_cores())
    workers = {}
    for number in range(count):
        options: dict[str, Any] = {
            "nthreads": slides_at_once, "memory_limit": 0, "host": "127.0.0.1", "dashboard": False,
            "silence_logs": logging.CRITICAL, "env": dict(WORKER_ENVIRONMENT),
        }  # fmt: skip
        if devices:
            options["env"]["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            options["resources"] = {"GPU": 1}
        workers[number] = {"cls": Nanny, "options": options}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, **_QUIET_SCHEDULER}}
    return Restaffed(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL), count


def slurm_cluster(spec: ClusterSpec) -> Any:
    """A cluster whose workers are SLURM jobs. None is asked for yet.

    Raises:
        MissingExtraError: dask-jobqueue is not installed.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise MissingExtraError("dask-jobqueue", "slurm", "a cluster of SLURM jobs") from None
    slurm = spec.slurm
    return SLURMCluster(
        queue=slurm.partition, account=slurm.account, walltime=slurm.walltime, cores=slurm.cores, processes=1,
        memory=slurm.memory, interface=slurm.interface, log_directory=slurm.logs, job_name="pathotune",
        python=sys.executable,
        job_extra_directives=[*([f"--gres=gpu:{slurm.gpus}"] if slurm.gpus else []), *slurm.directives],
        job_script_prologue=[*(f"export {name}={value}" for name, value in _environment().items()), *slurm.prologue],
        worker_extra_args=[
            *(["--resources", "GPU=1"] if slurm.gpus else []),
            "--memory-limit", "0", "--no-dashboard",
            "--lifetime", f"'{slurm.lifetime}'", "--lifetime-stagger", f"'{slurm.lifetime_stagger}'",
        ],
        scheduler_options={**_QUIET_SCHEDULER, "dashboard_address": ":0"},
    )  # fmt: skip


def kubernetes_resource(spec: ClusterSpec, slides_at_once: int) -> dict[str, Any]:
    """The DaskCluster that the operator is given.

    Raises:
        MissingExtraError: dask-kubernetes is not installed.
    """
    try:
        from dask_kubernetes.operator import make_cluster_spec
    except ImportError:
        raise MissingExtraError("dask-kubernetes", "kubernetes", "a cluster of Kubernetes pods") from None
    pod = spec.kubernetes
    limits: dict[str, str] = {"cpu": str(pod.cores), "memory": pod.memory}
    made: dict[str, Any] = make_cluster_spec(
        pod.name, image=pod.image, n_workers=spec.minimum, env={**_environment(), **pod.environment},
        resources={"limits": limits, "requests": dict(limits)}, worker_command="dask worker",
    )  # fmt: skip
    worker, scheduler = made["spec"]["worker"]["spec"], made["spec"]["scheduler"]["spec"]
    container = worker["containers"][0]
    container["args"] += ["--nthreads", str(max(slides_at_once, 1)), "--memory-limit", "0"]
    scheduler["containers"][0]["resources"] = {"requests": {"cpu": "1", "memory": "2Gi"}}
    if pod.gpus:
        container["args"] += ["--resources", "GPU=1"]
        container["resources"]["limits"]["nvidia.com/gpu"] = str(pod.gpus)
    if pod.node_selector:
        worker["nodeSelector"] = dict(pod.node_selector)
    if pod.claims:
        names = {path: f"volume-{number}" for number, path in enumerate(pod.claims)}
        worker["volumes"] = [
            {"name": names[path], "persistentVolumeClaim": {"claimName": claim}} for path, claim in pod.claims.items()
        ]
        container["volumeMounts"] = [{"name": name, "mountPath": path} for path, name in names.items()]
    return made


def kubernetes_cluster(spec: ClusterSpec, slides_at_once: int) -> Any:
    """A cluster whose workers are pods; needs the Dask operator in the cluster, and access to it."""
    resource = kubernetes_resource(spec, slides_at_once)
    from dask_kubernetes.operator import KubeCluster

    return KubeCluster(namespace=spec.kubernetes.namespace, custom_cluster_spec=resource, quiet=True)


def _environment() -> dict[str, str]:
    """What scheduler and workers elsewhere are told: threads, and `_SETTINGS` in the form in which Dask reads them."""
    plain = {name: value for name, value in _SETTINGS.items() if not isinstance(value, dict)}
    named = {f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": str(value) for name, value in plain.items()}
    return {**WORKER_ENVIRONMENT, **named}


def connect(address: str, *, slides_at_once: int, until: Deadline = NEVER) -> DaskExecutor:
    """The workers of a running scheduler. Their number and threads are theirs to choose.

    Args:
        address: of the scheduler.
        slides_at_once: items a worker has in hand, if it has as many threads.
        until: when no further item begins.

    Raises:
        UsageError: nothing answers there, or no worker appears.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--executor {address}: no Dask scheduler answers there ({type(error).__name__}). "
            "Start one with `dask scheduler`, or use --executor local."
        ) from None
    try:
        client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
    except TimeoutError:
        client.close()
        raise UsageError(
            f"--executor {address}: the scheduler has no worker. Start one with `dask worker {address}`."
        ) from None
    return DaskExecutor(client, slides_at_once=slides_at_once, until=until)
