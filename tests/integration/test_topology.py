"""What docker/compose.yaml starts, as processes: a Dask worker and then Prefect's server are killed in the middle of a night.

PostgreSQL, a Prefect server on it, a Dask scheduler with two workers, and a Prefect worker, each on loopback, by the commands,
environments and health checks of that file. Failpoints stop both Dask workers after some commits, so that the kills always
come in mid-run.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import yaml

from pathotune_pipeline.store import open_store
from pathotune_pipeline.testing.slides import write_slide
from tests import composed
from tests.serving import (
    answers,
    ask,
    free_port,
    kill_group,
    pathotune,
    prefect_environment,
    running,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # five minutes on a machine that others use too
SLIDES = 8


def postgres_programs() -> Path:
    """The folder of initdb and pg_ctl; a skip with the reason where there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    if not found or not (Path(found).resolve().parent / "pg_ctl").exists():
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed (Debian: postgresql)")
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("PostgreSQL refuses to be root, and there is no setpriv to be somebody else")
    return Path(found).resolve().parent


@contextlib.contextmanager
def postgresql(port: int, password: Path) -> Iterator[None]:
    """A PostgreSQL server with a user, a database and a password; it refuses to be root, so it is another."""
    programs, user = postgres_programs(), []
    folder = Path(tempfile.mkdtemp(prefix="pathotune-postgres-"))
    if os.geteuid() == 0:
        account = next(each for each in pwd.getpwall() if each.pw_name in ("postgres", "nobody"))
        user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        os.chown(folder, account.pw_uid, account.pw_gid)

    def run(program: str, *words: object, **more: str) -> None:
        command = [*user, str(programs / program), *map(str, words)]
        done = subprocess.run(
            command, env={**os.environ, **more}, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False
        )
        assert done.returncode == 0, (folder / "log").read_text()

    shutil.copy(password, folder / "password")
    (folder / "password").chmod(0o644)  # in a folder that is the user's alone
    with (folder / "log").open("ab") as log:
        run("initdb", "-D", folder / "data", "-U", "prefect", "-A", "scram-sha-256", "--pwfile", folder / "password")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        run("pg_ctl", "-D", folder / "data", "-w", "-t", 120, "-o", options, "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", port, "-U", "prefect", "prefect", PGPASSWORD=password.read_text())
            yield
        finally:
            run("pg_ctl", "-D", folder / "data", "-w", "-m", "immediate", "stop")
            shutil.rmtree(folder)


class Topology:
    """The services of compose.yaml, started one by one on ports of this machine.

    Args:
        folder: for logs and files; `secret` in it holds the database's password.
        block: ends what was started.
    """

    def __init__(self, folder: Path, block: ExitStack) -> None:
        self.folder, self.block, self.services = folder, block, composed.services()
        self.ports = {name: str(free_port()) for name in ("4200", "8786", "5432")}
        self.hosts = dict.fromkeys(("postgres", "prefect-server", "dask-scheduler", "0.0.0.0"), "127.0.0.1")
        self.files = {"/run/secrets/postgres-password": str(folder / "secret"), "/tmp": str(folder)}
        self.address = f"http://127.0.0.1:{self.ports['4200']}/api"
        self.logs: list[Path] = []

    def start(self, service: str, name: str = "", **more: str) -> subprocess.Popen[bytes]:
        """Start a service; once its health check finds it well, its process."""
        facts, log = self.services[service], self.folder / f"{name or service}.log"
        table = {**self.hosts, **self.ports, **self.files, "8787": str(free_port()), "8080": str(free_port())}
        base = {**prefect_environment(self.folder / f"{name or service}.home"), "PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.environment = composed.environment_here(facts, table, base)
        process = self.block.enter_context(
            running(composed.here(facts["command"], table), log, {**self.environment, **more})
        )
        self.logs.append(log)
        check = composed.here(facts["healthcheck"]["test"][1:], table)

        def well() -> bool:
            assert process.poll() is None, log.read_text()
            return not subprocess.run(check, env=self.environment, capture_output=True, check=False).returncode

        wait_for(f"{service} is well", well, log, seconds=300)
        return process

    def end_of(self, run: str) -> str:
        """How a flow run ended."""

        def ended() -> str | None:
            state = ask(self.address, f"flow_runs/{run}")["state"]["type"]
            return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return str(wait_for("the flow run ended", ended, *self.logs, seconds=400))


def process_of(nanny: subprocess.Popen[bytes]) -> psutil.Process | None:
    """The stopped worker process under a Dask nanny; None while none is stopped."""
    assert nanny.poll() is None
    below = psutil.Process(nanny.pid).children(recursive=True)
    return next((each for each in below if each.status() == psutil.STATUS_STOPPED), None)


def test_a_worker_and_then_the_server_are_killed_in_mid_run(tmp_path: Path) -> None:
    for number in range(SLIDES):
        write_slide(tmp_path / "archive" / f"s{number}.tif", size_px=(1024, 1024), seed=number)
    commits = tmp_path / "store" / "commits"
    (tmp_path / "secret").write_text(secrets.token_hex(16))
    with ExitStack() as block:
        servers = Topology(tmp_path, block)
        block.enter_context(postgresql(int(servers.ports["5432"]), tmp_path / "secret"))
        server = servers.start("prefect-server")
        servers.start("dask-scheduler")
        stop = {"PATHOTUNE_FAILPOINT": "store.committed:5:stop"}
        both = [servers.start("dask-worker", name, **stop) for name in ("worker-a", "worker-b")]
        servers.start("prefect-worker")
        deployed = pathotune(servers.environment, "deploy", "--file", deployments(tmp_path, servers.ports["8786"]))
        assert deployed.returncode == 0, deployed.stderr
        address, log = servers.address, tmp_path / "prefect-worker.log"
        deployment = ask(address, "deployments/name/nightly/night")["id"]

        def trigger() -> str:
            return str(ask(address, f"deployments/{deployment}/create_flow_run", {})["id"])

        run = trigger()
        wait_for("both Dask workers stopped in mid-run", lambda: all(map(process_of, both)), *servers.logs, seconds=400)
        before = features_of(commits)
        assert 0 < len(before) < SLIDES
        assert ask(address, f"flow_runs/{run}")["state_name"] == "Running"
        kill_group(both[0])
        kill_group(server)
        assert not answers(address)
        left = process_of(both[1])
        assert left is not None
        left.resume()
        wait_for(
            "slides are done without Prefect", lambda: len(features_of(commits)) == SLIDES, *servers.logs, seconds=400
        )
        servers.start("prefect-server")
        assert servers.end_of(run) == "COMPLETED", log.read_text()
        after = features_of(commits)
        assert len(after) == len({*after}) == SLIDES
        assert {*before} < {*after}, "what was committed before the kills stays"
        assert servers.end_of(trigger()) == "COMPLETED", log.read_text()
        told = ask(address, "artifacts/filter", {"artifacts": {"key": {"any_": ["extract-summary"]}}, "limit": 9})

    assert features_of(commits) == after, "the next night has nothing to do"
    rows = [re.findall(r"^\| (\d+) \| (\d+) \| 0 \| 0 \| (\d+) ", str(each["data"]), re.MULTILINE) for each in told]
    assert all(len(each) == 1 and each[0][:2] == (str(SLIDES), str(SLIDES)) for each in rows), "both nights tell of all"
    assert "0" in {each[0][2] for each in rows}
    verified = pathotune(
        servers.environment, "verify", "--store", tmp_path / "store"
    )  # what the kill left of files is gone, too
    assert verified.returncode == 0, verified.stdout + verified.stderr
    store = open_store(tmp_path / "store")
    (features,) = [name for name in store.sets() if str(name).startswith("features-")]
    assert sorted(store.records(features)) == [f"s{number}.tif" for number in range(SLIDES)]
    assert len(list((tmp_path / "nights").glob("night-*.html"))) == 2


def features_of(commits: Path) -> list[str]:
    """The slide of every commit of features."""
    return sorted(path.name.rpartition("@")[0] for path in commits.glob("features-*/*.json"))


def deployments(folder: Path, port: str) -> Path:
    """A night on the Dask scheduler, when it is asked for."""
    night = {
        "flow": "nightly",
        "work_pool": "archive",
        "parameters": {
            "slides": str(folder / "archive"),
            "store": str(folder / "store"),
            "out": str(folder / "nights"),
            "settings": {
                "tiles": {"tile_px": 128},
                "audit": {"samples": 4, "jobs": 1},
                "leases": {"lease_s": 5},  # of the killed worker's slides, until they are taken over
                "execution": {"executor": f"tcp://127.0.0.1:{port}"},
            },
        },
    }
    path = folder / "deployments.yaml"
    path.write_text(yaml.safe_dump({"work_pools": {"archive": {}}, "deployments": {"night": night}}))
    return path
