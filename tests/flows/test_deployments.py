"""A file of deployments: what is wrong with it is told before anything is sent, and what is sent names no path of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deployments import FLOWS, deployments_of, read_deployments
from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import SpecError

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "deployments.yaml"


def written(folder: Path, **changes: Any) -> Path:
    """A file with one nightly deployment."""
    night = {"flow": "nightly", "cron": "0 22 * * *", "parameters": {"store": "/s", "out": "/o"}, **changes}
    path = folder / "d.yaml"
    path.write_text(yaml.safe_dump({"work_pools": {"archive": {}}, "deployments": {"n": night}}))
    return path


def test_the_example_is_well() -> None:
    night, train = deployments_of(read_deployments(EXAMPLE))
    assert (night.flow_name, night.name, night.work_pool_name) == ("nightly", "nightly", "archive")
    assert night.entrypoint == "flows.nightly.nightly_flow"
    (schedule,) = night.schedules or ()
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 22 * * *", "Europe/Amsterdam")
    assert night.concurrency_limit == 1
    assert str(night.concurrency_options.collision_strategy.value) == "CANCEL_NEW"  # type: ignore[union-attr]
    assert night.parameters["settings"]["execution"]["until"] == "06:00"
    assert not train.schedules
    assert [each.name for each in deployments_of(read_deployments(EXAMPLE, ["train"]))] == ["train"]


@pytest.mark.parametrize("name", FLOWS)
def test_what_a_worker_is_told_leads_to_the_flow(name: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    found = load_flow_from_entrypoint(f"flows.{name}.{name}_flow")
    assert found.name == name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"flow": "nightley"}, "no flow 'nightley'. Did you mean 'nightly'"),
        ({"parameters": {"store": "/s"}}, "nightly needs out under parameters"),
        (
            {"parameters": {"store": "/s", "out": "/o", "slide": "/x"}},
            "has no parameter 'slide'. Did you mean 'slides'",
        ),
        ({"parameters": {"store": "s", "out": "/o"}}, "store is 's'. Give a whole path"),
        ({"parameters": {"store": "/s", "out": "/o", "settings": {"tiles": {"mp": 1}}}}, "no setting 'mp'"),
        ({"parameters": {"store": "/s", "out": "/o", "settings": {"execution": {"until": "6"}}}}, "'6' is no time"),
        ({"cron": "at night"}, "cron is 'at night'"),
        ({"timezone": "Europe/Amsterdm"}, "no time zone 'Europe/Amsterdm'. Did you mean 'Europe/Amsterdam'"),
        ({"work_pool": "archiv"}, "no work pool 'archiv'"),
        ({"collision": "explode"}, "collision"),
        ({"crn": "x"}, "no setting 'deployments.n.crn'"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=r"d\.yaml") as error:
        read_deployments(written(tmp_path, **changes))
    assert told in str(error.value)


def test_calls_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["deploy", "--file", str(EXAMPLE), "--dry-run"]) == 0
    assert "nightly/nightly: 0 22 * * * Europe/Amsterdam, pool archive" in capsys.readouterr().out
    assert main(["deploy", "--file", str(EXAMPLE), "--only", "nigthly"]) == 2
    assert "Did you mean 'nightly'" in capsys.readouterr().err
    assert main(["deploy", "--file", str(tmp_path / "absent.yaml")]) == 2
    monkeypatch.setenv("PREFECT_API_URL", "http://user:SECRET@127.0.0.1:1/api")
    assert main(["deploy", "--file", str(EXAMPLE)]) == 2
    told = capsys.readouterr().err
    assert "No Prefect server answers at http://127.0.0.1:1/api" in told
    assert "SECRET" not in told
