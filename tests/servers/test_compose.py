"""docker/compose.yaml: what it starts can be started, is healthy before others wait for it, and is nobody's but this machine's.

No container engine is needed. tests/integration/test_topology.py runs the same commands as processes.
"""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from flows.deployments import read_deployments
from pathotune_pipeline.cli.main import verb_parser
from pathotune_pipeline.execution.clusters import KubernetesSpec, _environment, read_cluster
from tests import composed
from tests.serving import ROOT

SERVICES = composed.services()
OURS = [name for name in SERVICES if name != "postgres"]
ONE_SHOT = {"deploy"}
WORKERS = {"dask-worker", "dask-worker-gpu"}


def words_of(name: str) -> list[str]:
    """A service's command, without the shell that reads its secret."""
    words = SERVICES[name]["command"]
    return shlex.split(words[2].partition(" exec ")[2]) if words[:2] == ["sh", "-c"] else words


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    user = str(service["user"]).partition(":")[0]
    assert user not in ("0", "root", "")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "cap_add", "container_name"} & {*service}
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    slides = [each for each in service.get("volumes", []) if each.startswith("/slides:")]
    assert all(each.endswith(":ro") for each in slides)
    image, _, tag = service["image"].rpartition(":")
    assert image
    assert tag not in ("", "latest")
    assert ("build" in service) == (image == "pathotune")


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_waited_for_before_it_is_well(name: str) -> None:
    service = SERVICES[name]
    check = service["healthcheck"]
    assert check == {"disable": True} if name in ONE_SHOT else check["test"][0] == "CMD"
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    for other, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert SERVICES[other]["healthcheck"]["test"]
        assert {*SERVICES[other]["networks"]} & {*service["networks"]}, "they can talk to each other"


def test_no_secret_stands_in_the_file_or_in_an_environment() -> None:
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET|AUTH", variable):
                assert variable.endswith("_FILE")
                assert value.startswith("/run/secrets/")
            assert "@" not in str(value), "an address with a login"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"docker/.env", "docker/webhook.env", "docker/secrets/"} <= {*ignored}


def check_dask(words: list[str]) -> None:
    command = import_module(f"distributed.cli.dask_{words[0]}").main
    command.make_context(words[0], [*words[1:]], resilient_parsing=False)


@functools.cache
def prefect_flags(*words: str) -> set[str]:
    command = [sys.executable, "-W", "ignore", "-m", "prefect", *words, "--help"]
    return {*re.findall(r"--[a-z-]+", subprocess.run(command, capture_output=True, text=True, check=True).stdout)}


def check_prefect(words: list[str]) -> None:
    assert {word for word in words if word.startswith("--")} <= prefect_flags(*words[:2])


def check_pathotune(words: list[str]) -> None:
    verb_parser(words[0]).parse_args(words[1:])


@pytest.mark.parametrize("name", OURS)
def test_a_command_is_one_that_its_program_takes(name: str) -> None:
    program, *words = words_of(name)
    {"dask": check_dask, "prefect": check_prefect, "pathotune": check_pathotune}[program](words)


def test_the_check_of_commands_can_fail() -> None:
    from click import UsageError

    with pytest.raises(UsageError):
        check_dask(["worker", "tcp://x:1", "--nworker=1"])
    with pytest.raises(AssertionError):
        check_prefect(["worker", "start", "--pol", "x"])
    with pytest.raises(SystemExit):
        check_pathotune(["deploy", "--files", "x"])


def test_prefect_knows_its_settings() -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    named = {name for service in SERVICES.values() for name in service.get("environment", {})}
    known = {*_get_settings_fields(Settings)}
    assert {name for name in named if name.startswith("PREFECT_")} <= known


@pytest.mark.parametrize("name", ["dask-scheduler", *sorted(WORKERS)])
def test_dask_is_set_as_clusters_of_our_own_are(name: str) -> None:
    assert _environment().items() <= SERVICES[name]["environment"].items()


def test_workers_and_flows_see_the_same_paths_and_one_scheduler() -> None:
    volumes: list[Any] = [SERVICES[name]["volumes"] for name in (*sorted(WORKERS), "prefect-worker")]
    assert volumes[0] == volumes[1] == volumes[2]
    mounted = [each.split(":")[1] for each in volumes[0]]
    spec = read_deployments(ROOT / "docker" / "deployments.yaml")
    (scheduler,) = {word for name in WORKERS for word in words_of(name) if word.startswith("tcp://")}
    host, _, port = scheduler.removeprefix("tcp://").partition(":")
    assert words_of(host)[words_of(host).index("--port") + 1] == port
    pool = words_of("prefect-worker")[words_of("prefect-worker").index("--pool") + 1]
    for each in spec.deployments.values():
        assert each.work_pool == pool
        assert each.parameters["settings"]["execution"]["executor"] == scheduler
        for place in ("slides", "store", "out"):
            assert any(each.parameters[place].startswith(f"{folder}/") for folder in mounted) or (
                each.parameters[place] in mounted
            )


def test_another_containers_prefect_server_is_meant() -> None:
    """Its address is no loopback, and flows would refuse it."""
    for service in SERVICES.values():
        environment = service.get("environment", {})
        if "PREFECT_API_URL" in environment:
            assert environment["PATHOTUNE_ALLOW_REMOTE_PREFECT"] == "1"
            host = re.fullmatch(r"http://([a-z-]+):(\d+)/api", environment["PREFECT_API_URL"])
            assert host
            assert host[2] in words_of(host[1])


def test_the_gpu_worker_says_that_it_has_one_and_is_asked_for() -> None:
    service = SERVICES["dask-worker-gpu"]
    assert service["profiles"] == ["gpu"]
    assert "--resources=GPU=1" in service["command"]
    assert {*service["command"]} - {"--resources=GPU=1", "--nthreads=8"} < {*SERVICES["dask-worker"]["command"]}
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    kubernetes = read_cluster(ROOT / "configs" / "execution" / "kubernetes.yaml").kubernetes
    assert service["image"] == kubernetes.image == KubernetesSpec().image
