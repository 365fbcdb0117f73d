"""Deployments from a file: which flow runs when, where, how many at once, and with which parameters.

Everything is checked before anything is sent: flows' names, parameters and settings, schedules, time zones, work pools.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast
from zoneinfo import available_timezones

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from pydantic import ValidationError

from flows.crossval import crossval_flow
from flows.environment import refuse_remote
from flows.extract import extract_flow
from flows.nightly import nightly_flow
from flows.predict import predict_flow
from flows.train import train_flow
from pathotune_pipeline import config
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.spec import Spec, load_yaml, setting

FLOWS: Mapping[str, Flow[..., Any]] = {
    "nightly": nightly_flow, "extract": extract_flow, "train": train_flow, "predict": predict_flow, "crossval": crossval_flow,
}  # fmt: skip
PATHS = ("store", "out", "slides", "manifest", "pseudonymise", "labels", "cache", "model", "predict_with")
"""Parameters that name places; a worker runs in another folder, so they are whole paths."""


class WorkPoolSpec(Spec):
    """A work pool: workers that start flow runs."""

    type: str = setting("process", "Kind of its workers: process, docker, kubernetes, ...", hashed=False)
    concurrency_limit: int | None = setting(None, "Most flow runs of the pool at once; empty: any.", hashed=False, ge=1)


class DeploymentSpec(Spec):
    """A flow that runs by itself, or at the press of a button."""

    flow: str = setting("nightly", f"Which flow: {', '.join(FLOWS)}.", hashed=False)
    cron: str | None = setting(None, "When, such as 0 22 * * 1-5; empty: only when it is asked for.", hashed=False)
    timezone: str | None = setting(None, "Time zone of cron, such as Europe/Amsterdam; empty: UTC.", hashed=False)
    paused: bool = setting(False, "Whether the schedule waits until somebody resumes it.", hashed=False)
    work_pool: str | None = setting(None, "Work pool; `pathotune serve` needs none.", hashed=False)
    concurrency_limit: int | None = setting(1, "Most runs of the deployment at once; empty: any.", hashed=False, ge=1)
    collision: Literal["enqueue", "cancel-new"] = setting(
        "cancel-new", "What becomes of a run that is one too many: it waits, or is cancelled.", hashed=False
    )
    tags: tuple[str, ...] = setting((), "Tags of its runs.", hashed=False)
    parameters: dict[str, Any] = setting({}, "The flow's parameters.", hashed=False)


class DeploymentsSpec(Spec):
    """A file of deployments."""

    work_pools: dict[str, WorkPoolSpec] = setting({}, "Work pools, by name; made where they are missing.", hashed=False)
    deployments: dict[str, DeploymentSpec] = setting({}, "Deployments, by name.", hashed=False)


def read_deployments(path: Path, only: Iterable[str] = ()) -> DeploymentsSpec:
    """A file of deployments, checked.

    Args:
        path: a YAML file such as `configs/deployments.yaml`.
        only: names of the deployments to keep; all where none is named.

    Raises:
        SpecError: something in it is not known or not allowed; the message names the deployment.
    """
    where = f"--file {path}"
    loaded = load_yaml(path, where)
    if not isinstance(loaded, dict):
        raise SpecError(f"{where}: must hold work_pools and deployments, found {type(loaded).__name__}.")
    spec = DeploymentsSpec.parse(loaded, where)
    if not spec.deployments:
        raise SpecError(f"{where}: it has no deployment. Give one under `deployments:`.")
    for name in only:
        if name not in spec.deployments:
            raise SpecError(f"{where}: there is no deployment {name!r}.{nearest(name, spec.deployments)}")
    chosen = {name: each for name, each in spec.deployments.items() if not {*only} or name in {*only}}
    for name, each in chosen.items():
        _check(each, spec.work_pools, f"{where}: {name}")
    return spec.with_values(deployments={name: each.model_dump() for name, each in chosen.items()})


def _check(spec: DeploymentSpec, pools: Mapping[str, WorkPoolSpec], where: str) -> None:
    if spec.flow not in FLOWS:
        raise SpecError(
            f"{where}: there is no flow {spec.flow!r}.{nearest(spec.flow, FLOWS)} Flows: {', '.join(FLOWS)}."
        )
    known = inspect.signature(FLOWS[spec.flow].fn).parameters
    for parameter in spec.parameters:
        if parameter not in known:
            raise SpecError(f"{where}: {spec.flow} has no parameter {parameter!r}.{nearest(parameter, known)}")
    missing = [
        each for each, info in known.items() if info.default is inspect.Parameter.empty and each not in spec.parameters
    ]
    if missing:
        raise SpecError(f"{where}: {spec.flow} needs {', '.join(missing)} under parameters.")
    config.check((), spec.parameters.get("settings") or {}, where)
    for parameter in PATHS:
        place = spec.parameters.get(parameter)
        if isinstance(place, str) and "://" not in place and not Path(place).is_absolute():
            raise SpecError(f"{where}: {parameter} is {place!r}. Give a whole path: workers run in other folders.")
    if spec.work_pool is not None and pools and spec.work_pool not in pools:
        raise SpecError(f"{where}: no work pool {spec.work_pool!r} stands in the file.{nearest(spec.work_pool, pools)}")
    if spec.timezone is not None and spec.timezone not in available_timezones():
        raise SpecError(
            f"{where}: there is no time zone {spec.timezone!r}.{nearest(spec.timezone, available_timezones())}"
        )
    if spec.cron is not None:
        try:
            CronSchedule(cron=spec.cron, timezone=spec.timezone)
        except ValidationError:
            raise SpecError(f"{where}: cron is {spec.cron!r}. Give five fields, such as 0 22 * * 1-5.") from None


def deployments_of(spec: DeploymentsSpec) -> list[RunnerDeployment]:
    """What Prefect is told of each deployment; the package's module is named, and no path."""
    found = []
    for name, each in spec.deployments.items():
        strategy = ConcurrencyLimitStrategy(each.collision.replace("-", "_").upper())
        limit = each.concurrency_limit and ConcurrencyLimitConfig(
            limit=each.concurrency_limit, collision_strategy=strategy
        )
        schedule = Cron(each.cron, timezone=each.timezone or "UTC") if each.cron else None
        made = FLOWS[each.flow].to_deployment(
            name, schedule=schedule, paused=each.paused, concurrency_limit=limit or None, parameters=each.parameters,
            tags=list(each.tags) or None, work_pool_name=each.work_pool, entrypoint_type=EntrypointType.MODULE_PATH,
        )  # fmt: skip
        found.append(cast(RunnerDeployment, made))  # called where no loop runs, it gives no coroutine
    return found


def deploy(spec: DeploymentsSpec) -> dict[str, str]:
    """Make work pools and deployments on the Prefect server, or bring them up to date.

    Returns:
        The deployments' ids by `flow/name`.

    Raises:
        SpecError: a deployment names no work pool.
        UsageError: the server is another machine's, and nobody allowed it.
    """
    refuse_remote()
    for name, each in spec.deployments.items():
        if each.work_pool is None:
            raise SpecError(f"{name}: no work_pool is named. Name one, or use `pathotune serve`, which needs none.")
    with get_client(sync_client=True) as client:
        for name, pool in spec.work_pools.items():
            try:
                client.read_work_pool(name)
                client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=pool.concurrency_limit))
            except ObjectNotFound:
                client.create_work_pool(
                    WorkPoolCreate(name=name, type=pool.type, concurrency_limit=pool.concurrency_limit)
                )
    return {f"{each.flow_name}/{each.name}": str(each.apply()) for each in deployments_of(spec)}


def serve_here(spec: DeploymentsSpec, *, limit: int | None = None) -> None:
    """Run what is due in processes of this machine, until interrupted. Its schedules pause then.

    Args:
        spec: which deployments; their work pools are left aside.
        limit: most runs at once.

    Raises:
        UsageError: the Prefect server is another machine's, and nobody allowed it.
    """
    refuse_remote()
    from prefect import serve

    bare = {name: {**each.model_dump(), "work_pool": None} for name, each in spec.deployments.items()}
    serve(*deployments_of(spec.with_values(deployments=bare)), limit=limit)
