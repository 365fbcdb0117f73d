"""A trial of a site's slides as the command runs it: one that passes and betrays nobody, and one that must fail."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.cli import main
from pathotune_pipeline.doctor import Check
from pathotune_pipeline.doctor.trial.choose import TriedSlide
from pathotune_pipeline.doctor.trial.machine import machine_facts
from pathotune_pipeline.doctor.trial.page import write_trial
from pathotune_pipeline.doctor.trial.repeat import Agreement
from pathotune_pipeline.doctor.trial.result import TrialResult
from pathotune_pipeline.doctor.trial.spec import TrialSpec
from pathotune_pipeline.doctor.trial.trial import Site, run_trial
from pathotune_pipeline.encoders.create import ENCODERS
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.testing.slides import write_slide, write_svs

NAME = "MUSTERMANN"
SMALL = ("--tile-px", "128", "--minutes", "0.5", "--trial-tiles", "24", "--trial-pairs", "1", "--batch-size", "8")
NOISY = """
import torch
from pathotune_pipeline.encoders.card import EncoderCard

class Noise(torch.nn.Module):
    def forward(self, batch):
        return batch.float().mean(dim=(1, 2)) + torch.rand(len(batch), 3)

def build(spec):
    return Noise(), EncoderCard(name=spec.name, source="built-in", architecture="noise", dim=3, mean=None, std=None)
"""


def listed(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def read(out: Path) -> tuple[dict[str, Any], str]:
    return json.loads((out / "trial.json").read_text()), (out / "trial.html").read_text()


@pytest.mark.slow
def test_a_sound_site_passes_and_no_name_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With pseudonyms; the name is planted in paths and tags, and looked for in all that is written and said."""
    archive, out, key = tmp_path / "archive", tmp_path / "out", tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    write_svs(archive / f"{NAME}.svs", size_px=(1024, 1024), seed=1, description=f"Patient = {NAME}", label_text=NAME)
    write_slide(archive / f"case {NAME}" / "b.tif", size_px=(1024, 1024), seed=2, description=NAME)
    before = listed(archive)
    words = [
        "doctor",
        "--trial",
        "--slides",
        archive,
        "--out",
        out,
        "--pseudonymise",
        key,
        *SMALL,
        "--least-speed",
        1e-6,
    ]
    assert main([str(word) for word in words]) == 0, capfd.readouterr()
    said = capfd.readouterr()
    told, page = read(out)
    assert told["passed"]
    assert told["failures"] == []
    assert {each["name"]: each["state"] for each in told["verdicts"]} == {
        "slides": "ok",
        "speed": "ok",
        "features: the same once more": "ok",
        f"features: {next(name for name in told['repeats'] if 'alone' in name)}": "ok",
        "features: one batch of tiles in another order": "ok",
        "kill and resume": "ok",
    }
    assert [each["equal"] for each in told["repeats"].values()] == [2, 2, 1]
    resumed = told["resumption"]
    assert resumed["agreement"]["equal"] == resumed["slides"] == 2
    assert resumed["resumed"] == 2 - resumed["committed_when_killed"] > 0, "it was killed in the middle"
    assert told["speed"]["ratio"] == pytest.approx(told["speed"]["bare_s"][0] / told["speed"]["extraction_s"][0])
    by_vendor = {slide["vendor"]: slide for slide in told["slides"]}
    assert by_vendor.keys() == {"aperio", "generic-tiff"}
    for slide in told["slides"]:
        assert re.fullmatch(r"s-[0-9a-f]{24}", slide["slide_id"])
        assert (slide["reader"], slide["verdict"], slide["status"]) == ("jpeg", "ok", "committed")
        assert slide["mpp"] == pytest.approx(0.5)
        assert 0 < slide["tiles"] <= 24
        assert slide["slide_id"] in page
    assert "<b>Passed.</b>" in page
    assert {path.name for path in out.iterdir()} == {"trial.html", "trial.json"}, "its own folder is gone"
    assert listed(archive) == before
    for text in (page, json.dumps(told), said.out, said.err.replace(str(tmp_path), "")):
        assert NAME.lower() not in text.lower()
    links = re.findall(r"""(?:src|href|url)[=(]["']?([^"'>)]*)""", page)
    assert len(links) == 5
    assert all(link.startswith("#") for link in links), "it loads nothing"


@pytest.fixture
def noisy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An encoder that is not reproducible, installed as a plug-in, so that a child process has it too."""
    plugin = tmp_path / "plugin"
    (plugin / "noisy-1.0.dist-info").mkdir(parents=True)
    (plugin / "noisy_encoder.py").write_text(NOISY)
    (plugin / "noisy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy\nVersion: 1.0\n")
    (plugin / "noisy-1.0.dist-info" / "entry_points.txt").write_text(
        "[pathotune_pipeline.encoders]\nnoisy = noisy_encoder:build\n"
    )
    monkeypatch.syspath_prepend(str(plugin))
    for name, value in (("_scanned", False), ("_targets", {**ENCODERS._targets}), ("_loaded", {**ENCODERS._loaded})):
        monkeypatch.setattr(ENCODERS, name, value)
    monkeypatch.delitem(sys.modules, "noisy_encoder", raising=False)
    return "noisy"


def test_what_must_fail_fails_with_reasons(tmp_path: Path, noisy: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An encoder that is not reproducible, and a file that is no slide; both under pseudonyms."""
    archive, out, key = tmp_path / "archive", tmp_path / "out", tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    write_slide(archive / f"{NAME}.tif", size_px=(1024, 1024), seed=2, description=NAME)
    (archive / f"{NAME}-bad.svs").write_bytes(b"this is no slide")
    words = ["doctor", "--trial", "--slides", archive, "--out", out, "--pseudonymise", key, "--encoder", noisy, *SMALL]
    assert main([str(word) for word in words]) == 1
    said = capfd.readouterr()
    told, page = read(out)
    assert not told["passed"]
    good, bad_one = told["slides"]
    assert (good["status"], good["verdict"], bad_one["status"], bad_one["verdict"]) == (
        "committed", "ok", "not tried", "refuse",
    )  # fmt: skip
    bad = {each["name"]: each for each in told["failures"]}
    alone = next(name for name in told["repeats"] if "alone" in name)
    unsteady = {f"features: {name}" for name in ("the same once more", alone, "one batch of tiles in another order")}
    assert bad.keys() == {f"slide {bad_one['slide_id']}", *unsteady, "kill and resume"}
    assert "cannot be used: no reader can open it" in bad[f"slide {bad_one['slide_id']}"]["found"]
    assert all(each["mend"] for each in bad.values())
    for name in unsteady:
        assert "0 of 1 equal bit for bit, largest difference" in bad[name]["found"]
        assert "not deterministic" in bad[name]["mend"]
    assert 0 < told["repeats"][alone]["largest"] < 0.01, "noise under 1 on a mean of some 200"
    assert told["resumption"]["agreement"]["equal"] == 0
    assert told["resumption"]["resumed"] == 1
    assert "<b>Failed.</b>" in page
    assert f"failed: {out / 'trial.html'}" in said.out
    assert {path.name for path in out.iterdir()} == {"trial.html", "trial.json"}
    betrayed_in = [text for text in (page, json.dumps(told), said.out, said.err) if NAME.lower() in text.lower()]
    assert betrayed_in == []


def test_no_slide_that_can_be_used(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    (archive / "bad.svs").write_bytes(b"this is no slide")
    assert main(["doctor", "--trial", "--slides", str(archive), "--out", str(out)]) == 1
    told, page = read(out)
    assert [each["name"] for each in told["failures"]] == ["slide bad.svs"]
    assert (told["speed"], told["resumption"], told["repeats"]) == (None, None, {})
    assert "Nothing could be timed." in page


def test_calls_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--trial", "--slides", str(tmp_path)]) == 2
    assert "--trial needs --out DIR" in capsys.readouterr().err
    assert main(["doctor", "--slides", str(tmp_path), "--minutes", "3"]) == 2
    assert "--slides, trial.minutes: for a trial of slides alone. Give --trial too" in capsys.readouterr().err


def test_what_came_from_files_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    slide = TriedSlide(evil, "refuse", (evil,), evil, evil, 1, 1, 1, 0.5, evil, 9, status="failed", reason=evil)
    result = TrialResult(
        "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", encoder={"name": evil}, recipe={evil: evil}, settings={evil: {evil: evil}},
        asked={evil: evil}, archive={"slides": 1, "passed_over": 1}, machine={**machine_facts(), "processor": evil},
        verdicts=[Check(evil, "bad", evil, evil)], checks=[Check(evil, "note", evil, evil)], slides=[slide],
        repeats={evil: Agreement(1, 0, float("inf"), (evil,))},
    )  # fmt: skip
    page = write_trial(result, tmp_path).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 15
    told = json.loads((tmp_path / "trial.json").read_text())
    assert told["repeats"][evil]["largest"] is None
    assert told["failures"][0]["name"] == evil


def test_one_encoder_at_a_time(tmp_path: Path) -> None:
    spec = ExtractSpec.parse({"encoder": {"name": "stain-texture", "also": ["uni2-h"]}})
    with pytest.raises(SpecError, match="one encoder"):
        run_trial(Site(Manifest(()), spec), TrialSpec(), tmp_path / "out")
