"""Flows without a server, with a real one on loopback, with failures that pass."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import serving
from tests.adapt.files import write_adapter
from tests.encoders.checkpoints import write_checkpoint
from tests.serving import ask
from tests.serving import prefect_environment as environment

ROOT = Path(__file__).resolve().parents[2]


def pathotune(home: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    return serving.pathotune(environment(home, **more), *words)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home of the module's own: its database is migrated once."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on loopback."""
    home = tmp_path_factory.mktemp("server")
    with serving.prefect_server(home, serving.free_port(), home / "log") as (address, _):
        yield address


def test_the_extract_flow_runs_without_a_server_and_leaves_an_artifact(
    home: Path, small_archive: Path, tmp_path: Path
) -> None:
    words = (
        "flow",
        "run",
        "extract",
        "--slides",
        small_archive,
        "--store",
        tmp_path / "s",
        "--tile-px",
        128,
        "--workers",
        2,
    )
    done = pathotune(home, *words, "--json")
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert told["counts"] == {
        "slides": 7,
        "committed": 6,
        "empty": 0,
        "failed": 1,
        "left": 0,
        "computed": 6,
        "tiles": told["counts"]["tiles"],
    }
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        (artifact,) = database.execute("select data from artifact where key = 'extract-summary'").fetchall()
        states = database.execute("select name, state_name from task_run").fetchall()
    assert "| 7 | 6 | 0 | 1 | 6 |" in artifact[0]
    assert "broken.svs" in artifact[0]
    assert states
    assert {state for _, state in states} == {"Completed"}


@pytest.mark.slow
def test_a_flow_takes_adapters(home: Path, small_archive: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "toy")
    write_adapter(tmp_path / "breast.safetensors", tmp_path / "toy")
    encoder = ("--encoder", f"local:{tmp_path / 'toy'}", "--adapter", "none", tmp_path / "breast.safetensors")
    words = ("--slides", small_archive / "case-1", "--store", tmp_path / "s", "--tile-px", 128, "--executor", "serial")
    done = pathotune(home, "flow", "run", "extract", *words, *encoder, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [each["features"].partition("-128px")[0] for each in (told, *told["others"])] == [
        "local.toy",
        "local.toy+breast",
    ]
    assert [each["counts"]["committed"] for each in (told, *told["others"])] == [2, 2]


def test_the_nightly_flow_extracts_and_reports_against_a_real_server(
    home: Path, server: str, small_archive: Path, tmp_path: Path
) -> None:
    words = ("flow", "run", "nightly", "--slides", small_archive, "--store", tmp_path / "s", "--tile-px", 128)
    done = pathotune(home, *words, "--executor", "serial", "--out", tmp_path / "r", PREFECT_API_URL=server)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "r" / "report.html").stat().st_size > 10_000
    runs = {run["id"]: run for run in ask(server, "flow_runs/filter", {"limit": 50})}
    assert [run["state_name"] for run in runs.values()] == ["Completed"]
    artifacts = ask(server, "artifacts/filter", {"limit": 50})
    assert any("broken.svs" in str(artifact["data"]) for artifact in artifacts)
    again = pathotune(home, *words, "--executor", "serial", "--out", tmp_path / "r", "--json", PREFECT_API_URL=server)
    assert json.loads(again.stdout)["counts"]["computed"] == 0


def test_deployments_on_a_real_server(home: Path, server: str, tmp_path: Path) -> None:
    file = tmp_path / "deployments.yaml"
    file.write_text((ROOT / "configs" / "deployments.yaml").read_text())
    for limit in (2, 3):  # the second time brings it up to date
        file.write_text(file.read_text().replace("concurrency_limit: 2", f"concurrency_limit: {limit}"))
        done = pathotune(home, "deploy", "--file", file, "--json", PREFECT_API_URL=server)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        found = {each["id"]: each for each in ask(server, "deployments/filter", {})}
        assert {found[made[name]]["name"]: name for name in made} == {
            "nightly": "nightly/nightly",
            "train": "train/train",
        }
        assert len(found) == 2
        (pool,) = ask(server, "work_pools/filter", {})
        assert (pool["name"], pool["type"], pool["concurrency_limit"]) == ("archive", "process", limit)
    night = found[made["nightly/nightly"]]
    assert night["entrypoint"] == "flows.nightly.nightly_flow"
    assert night["path"] in (None, ".")
    assert [each["schedule"]["cron"] for each in night["schedules"]] == ["0 22 * * *"]
    assert night["global_concurrency_limit"]["limit"] == 1
    assert night["parameters"]["settings"]["execution"] == {"until": "06:00"}
    assert found[made["train/train"]]["schedules"] == []


def test_a_model_is_trained_pinned_and_predicts_a_night(
    home: Path, server: str, small_archive: Path, tmp_path: Path
) -> None:
    """Its recipe decides the features; another model than the pinned one is refused before any work."""
    table = tmp_path / "labels.csv"
    table.write_text("slide,patient,grade\n" + "".join(f"s{n},P{n},g{n % 2}\n" for n in range(6)))
    code = f"""
import json, pathlib
from flows.extract import extract_flow
from flows.nightly import nightly_flow
from flows.predict import predict_flow
from flows.train import train_flow
place, serial = pathlib.Path({str(tmp_path)!r}), {{'execution': {{'executor': 'serial'}}}}
source = {{'slides': {str(small_archive)!r}, 'store': str(place / 's')}}
extract_flow(**source, settings={{**serial, 'tiles': {{'tile_px': 128}}}})
train_flow(store=str(place / 's'), features='stain-texture', labels={str(table)!r}, target='grade', out=str(place / 'm'),
    settings={{'model': {{'head': 'mean', 'seeds': 1,
         'test_share': 0, 'val_share': 0.4, 'train': {{'epochs': 1, 'min_epochs': 0}}}}}})
pin = json.loads((place / 'm' / 'card.json').read_text())['fingerprint'][:12]
told = nightly_flow(**source, out=str(place / 'out'), settings=serial, predict_with=str(place / 'm'), pin=pin)
predictions = told['predictions']
print('TOLD', json.dumps([told['counts']['computed'], predictions['counts'], predictions['new'], told['page']]))
said = []
for settings, wanted in ((serial, '0' * 12), ({{**serial, 'tiles': {{'tile_px': 256}}}}, pin)):
    try:
        nightly_flow(**source, out=str(place / 'other'), settings=settings, predict_with=str(place / 'm'), pin=wanted)
    except ValueError as error:
        said.append(str(error))
print('SAID', json.dumps([*said, (place / 'other').exists()]))
told = predict_flow(model=str(place / 'm'), **source, out=str(place / 'p.csv'), settings=serial, pin=pin)
print('PREDICTED', json.dumps([told['predictions']['counts'], told['predictions']['new']]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home, PREFECT_API_URL=server), cwd=ROOT, capture_output=True,
        text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = dict(
        line.split(" ", 1) for line in done.stdout.splitlines() if line.split(" ")[0] in ("TOLD", "SAID", "PREDICTED")
    )
    computed, counts, new, page = json.loads(lines["TOLD"])
    assert computed == 0, "they are the features that the model was trained on"
    assert counts == {"slides": 7, "predicted": 6, "abstained": 0, "left": 0, "failed": 1}
    assert new == 6
    assert json.loads(lines["PREDICTED"]) == [counts, 0], "nothing has changed since the night"
    assert (tmp_path / "out" / "predictions.csv").read_text() == (tmp_path / "p.csv").read_text()
    card = json.loads((tmp_path / "m" / "card.json").read_text())
    source = Path(page).read_text()
    assert card["fingerprint"] in source
    assert "predicted: <b>0</b> this night, 6 before" in source
    pinned, recipe, written = json.loads(lines["SAID"])
    assert "The model was pinned to 000000000000" in pinned
    assert "the model was trained on" in recipe
    assert not written


def test_a_failure_that_passes_is_tried_again(home: Path, tmp_path: Path, small_archive: Path) -> None:
    """The disk gives trouble after the plan was made: staging cannot be written until the flow has backed off once."""
    code = f"""
import json, pathlib, threading, time
import flows.extract as flow
import flows.tasks as tasks
tasks.extract_slides.retry_delay_seconds = [2.0, 2.0]
store, plan = pathlib.Path({str(tmp_path / "s")!r}), flow.plan_extract
def plan_then_trouble(*arguments, **more):
    made = plan(*arguments, **more)
    (store / 'staging').rmdir()
    (store / 'staging').write_text('in the way')
    return made
def mend():
    while not list(store.glob('runs/*/outcomes.jsonl')):
        time.sleep(0.1)
    time.sleep(1.0)
    (store / 'staging').unlink()
flow.plan_extract = plan_then_trouble
threading.Thread(target=mend, daemon=True).start()
told = flow.extract_flow(store=str(store), slides={str(small_archive / "case-1")!r},
    settings={{'tiles': {{'tile_px': 128}}, 'execution': {{'executor': 'serial'}}}})
print('TOLD', json.dumps(told['counts']))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home), cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(re.search(r"TOLD (.*)", done.stdout)[1])
    assert (counts["committed"], counts["failed"]) == (2, 0), done.stderr
    assert "Retry 1/2" in done.stderr


def test_a_wrong_call_is_told_before_a_server_starts(home: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    done = pathotune(home, "flow", "run", "extract", "--slides", tmp_path / "absent", "--store", tmp_path / "s")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "absent" in done.stderr
    assert "Starting temporary server" not in done.stderr
    assert time.perf_counter() - began < 60
    assert not (tmp_path / "s").exists()
