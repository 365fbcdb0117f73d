"""The doctor: what is sound is told so, and each thing that fails says how it is mended and makes the exit code 1."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.doctor import Check, Wanted
from pathotune_pipeline.doctor import checks as doctor
from pathotune_pipeline.execution import ExecutionSpec, create_executor
from pathotune_pipeline.execution.dask import DaskExecutor
from tests.flows.hooked import hook


def checks(look: Any, **wanted: Any) -> dict[str, Check]:
    return {check.name: check for check in look(Wanted(**wanted))}


def test_a_sound_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["doctor", "--store", str(tmp_path / "new" / "store"), "--encoder", "stain-texture", "--json"]) == 0
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    for name in ("python", "machine", "openslide", "torch", "zarr", "distributed", "prefect", "disk", "store's disk"):
        assert told[name]["state"] == "ok", told[name]
    for reader in ("jpeg", "openslide", "tiffslide"):
        assert told[f"reader {reader}"]["found"] == "reads a slide"
    assert told["encoder stain-texture"]["state"] == "ok"
    assert told["prefect server"]["state"] == "note"
    assert all(each["mend"] for each in told.values() if each["state"] == "bad")
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_what_is_needed_and_fails_is_told_with_a_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://user:SECRET@127.0.0.1:1/api")
    words = ("--prefect", "--encoder", "uni2-h", "--encoder", "uni3", "--executor", str(tmp_path / "absent.yaml"))
    assert main(["doctor", *words]) == 1
    told = capsys.readouterr().out
    assert "SECRET" not in told
    lines = {line[6:31].strip(): line for line in told.splitlines() if line.startswith("bad")}
    assert lines.keys() == {"prefect server", "encoder uni2-h", "encoder uni3", "cluster"}
    assert "none answers at http://127.0.0.1:1/api. Start one with `prefect server start`" in lines["prefect server"]
    assert "its weights are not to be had" in lines["encoder uni2-h"]
    assert "Fetch it once on a machine with internet" in lines["encoder uni2-h"]
    assert "there is no such encoder. Did you mean" in lines["encoder uni3"]
    assert "configs/execution/ has examples" in lines["cluster"]


def test_missing_packages_and_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("zarr", "simplejpeg"):
            raise PackageNotFoundError(name)
        return {"fastapi": "0.200.0", "sqlalchemy": "2.1.9"}.get(name, "1.0")

    monkeypatch.setattr(doctor, "version", version)
    found = checks(doctor._store) | checks(doctor._readers)
    assert found["zarr"] == Check("zarr", "bad", "not installed", "Install it with: pip install zarr")
    assert found["simplejpeg"].state == "bad"
    assert found["fastapi"].mend == "Prefect's server needs fastapi<0.151."
    assert found["sqlalchemy"].mend == "Prefect's server needs sqlalchemy<2.1."
    monkeypatch.setattr(sys, "version_info", (3, 10, 1, "final", 0))
    assert checks(doctor._python)["python"].mend == "Use 3.11, 3.12 or 3.13."


def test_a_reader_that_is_broken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> Any:
        raise OSError(f"{path}: no such function in the library")

    from pathotune_pipeline.slides.open import READERS

    READERS.get("openslide")
    monkeypatch.setitem(READERS._loaded, "openslide", broken)
    found = checks(doctor._readers)
    assert found["reader openslide"].state == "bad"
    assert "Install it again: openslide-python and openslide-bin." in found["reader openslide"].mend
    assert found["reader tiffslide"].state == "ok"


def test_a_gated_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError

    class RefusedError(GatedRepoError):
        def __init__(self) -> None:
            Exception.__init__(self, "gated")

    def refuse(self: HfApi, repository: str) -> None:
        raise RefusedError

    monkeypatch.setattr(HfApi, "auth_check", refuse)
    (found,) = (check for check in doctor._weights(Wanted(encoders=("uni2-h",))) if "uni2-h" in check.name)
    assert found.state == "bad"
    assert "Ask for access on the page" in found.mend
    monkeypatch.setattr(HfApi, "auth_check", lambda self, repository: None)
    told = checks(doctor._weights, encoders=("uni2-h", "hf-hub:ORG/NAME"))
    assert {told["encoder uni2-h"].state, told["encoder hf-hub:ORG/NAME"].state} == {"ok"}


def test_prefect_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as server:
        monkeypatch.setenv("PREFECT_API_URL", server.address)
        found = checks(doctor._prefect)["prefect server"]
    assert found.state == "note"
    assert "answers, version 3.0.1" in found.found
    assert "Bring server and this machine to the same version" in found.mend
    monkeypatch.delenv("PREFECT_API_URL")
    assert checks(doctor._prefect, prefect=True)["prefect server"].state == "bad"


@pytest.mark.filterwarnings("ignore")
def test_dask_schedulers() -> None:
    with create_executor(ExecutionSpec(executor="local", workers=1)) as executor:
        assert isinstance(executor, DaskExecutor)
        found = checks(doctor._dask, executor=executor._cluster.scheduler_address)
    assert list(found) == ["dask scheduler"], "the same versions are no note"
    assert "has 1 workers, 0 with a GPU" in found["dask scheduler"].found
    gone = checks(doctor._dask, executor="tcp://127.0.0.1:1")["dask scheduler"]
    assert gone.state == "bad"
    assert gone.mend == "Start one with: dask scheduler"
    assert checks(doctor._dask) == {}


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> Any:
        return type("Usage", (), {"free": 2e9})()

    monkeypatch.setattr("shutil.disk_usage", full)
    found = checks(doctor._disk, store=tmp_path)
    assert found["disk"].state == "note"
    assert "extract --dry-run" in found["disk"].mend
    unwritable = checks(doctor._disk, store=Path("/proc/1/task/new-store"))["store's disk"]
    assert unwritable.state == "bad"
    assert "writable, or give another" in unwritable.mend
