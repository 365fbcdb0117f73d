"""What a pseudonymised night betrays: a patient's name and every secret, planted and searched for in all that is written.

The night runs once, with Prefect's and our logs at DEBUG, a webhook that refuses, a slide that fails, an export, pages, reviews,
a ledger and a case that is forgotten. Trial reports: tests/doctor/trial; models: tests/models/test_privacy.py.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli import main
from pathotune_pipeline.store import open_store
from pathotune_pipeline.testing.slides import write_slide, write_svs
from pathotune_pipeline.viewer.app import Viewer, create_app
from pathotune_pipeline.viewer.catalogue import Catalogue
from tests.flows.hooked import Hook, hook
from tests.security.search import places_in_arrays, places_of

NAME = "MUSTERMANN"
KEY = "plantedKEY0123456789abcdef"
SECRETS = {
    "PATHOTUNE_WEBHOOK_TOKEN": "plantedWEBHOOK",
    "HF_TOKEN": "hf_plantedHUB",
    "AWS_ACCESS_KEY_ID": "plantedAWSID",
    "AWS_SECRET_ACCESS_KEY": "plantedAWSKEY",
    "AWS_SESSION_TOKEN": "plantedAWSSESSION",
}
WORDS = (NAME, "Erika", KEY, "hook-SECRETPATH", *SECRETS.values())


@dataclass(frozen=True)
class Night:
    """A night that is over.

    Attributes:
        place: holds archive, slides.csv and pseudonym.key, which have the words, and what was written: out, home, tmp, work.
        server: the webhook, and what it was told.
        said: all that was printed.
    """

    place: Path
    server: Hook
    said: str

    @property
    def store(self) -> Path:
        return self.place / "out" / "store"

    @property
    def key(self) -> Path:
        return self.place / "pseudonym.key"

    @property
    def written(self) -> list[Path]:
        return [self.place / name for name in ("out", "home", "tmp", "work")]

    def betrayed(self) -> dict[str, list[str]]:
        return places_of(WORDS, *self.written)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    place = tmp_path_factory.mktemp("night")
    archive, out, home = place / "archive", place / "out", place / "home"
    for name in ("home", "tmp", "work"):
        (place / name).mkdir()
    (place / "pseudonym.key").write_text(KEY)
    write_svs(
        archive / f"{NAME}_Erika.svs", size_px=(1536, 1536), seed=1,
        description=f"Patient = {NAME}, Erika|Barcode = {NAME}", label_text=f"{NAME}, ERIKA",
    )  # fmt: skip
    write_slide(archive / f"case {NAME}" / "b.tif", size_px=(1536, 1536), seed=2, description=f"{NAME}, Erika")
    (archive / f"{NAME}_broken.svs").write_bytes(b"no slide")
    (archive / f"{NAME}_notes.txt").write_text(NAME)
    rows = [f"{NAME}_Erika.svs", f"case {NAME}/b.tif", f"{NAME}_broken.svs"]
    table = "\n".join(["path,case_id,stain,referred_by", *(f"{row},{NAME} Erika,HE,Dr. {NAME}" for row in rows)])
    (place / "slides.csv").write_text(table + "\n")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PATHOTUNE_", "DASK_"))
    }
    words = (
        "flow", "run", "nightly", "--slides", archive, "--manifest", place / "slides.csv", "--store", out / "store",
        "--pseudonymise", place / "pseudonym.key", "--tile-px", 128, "--workers", 1, "--out", out / "nights",
        "--export-to", "trident",
    )  # fmt: skip
    with hook(status=500) as server:
        environment = {
            **kept, **SECRETS, "PATHOTUNE_WEBHOOK_URL": server.address, "PREFECT_LOGGING_LEVEL": "DEBUG",
            "DASK_LOGGING__DISTRIBUTED": "debug", "PREFECT_HOME": str(home / "prefect"), "HOME": str(home),
            "TMPDIR": str(place / "tmp"), "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "pathotune_pipeline.cli", *map(str, words)],
            env=environment, cwd=place / "work", capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 3, said
        assert "2 committed, 0 empty, 1 failed" in done.stdout
        yield Night(place, server, said)


def test_the_night_wrote_all_that_is_searched(night: Night) -> None:
    names = {path.name for folder in night.written for path in folder.rglob("*") if path.is_file()}
    assert {"prefect.db", "run.json", "outcomes.jsonl", "index.html", "report.html"} <= names
    assert any(re.fullmatch(r"night-.*\.html", name) for name in names)
    assert any(name.endswith(".h5") for name in names), "the export"
    assert list((night.store / "ledger").iterdir())
    assert "DEBUG" in night.said
    assert night.server.told
    assert "the webhook refused a message (HTTP 500)" in night.said


def test_no_name_and_no_secret_is_in_any_of_it(night: Night) -> None:
    assert night.betrayed() == {}
    assert places_in_arrays(WORDS, night.store) == []
    assert [word for word in WORDS if word.lower() in night.said.lower()] == []


def test_the_webhook_hears_pseudonyms(night: Night) -> None:
    (told,) = night.server.told
    (slide,) = [slide for each in told["slides"].values() for slide in each["slide_ids"]]
    assert re.fullmatch(r"s-[0-9a-f]{24}", slide)
    assert [word for word in WORDS if word.lower() in json.dumps(told).lower()] == []
    assert night.server.headers[0]["Authorization"] == "Bearer plantedWEBHOOK", "where it belongs"


def test_every_id_is_a_pseudonym(night: Night) -> None:
    store = open_store(night.store)
    ids = {record.slide_id for name in store.sets() for record in store.records(name).values()}
    assert len(ids) == 2
    assert all(re.fullmatch(r"s-[0-9a-f]{24}", slide_id) for slide_id in ids)


def test_the_viewer_shows_no_name(night: Night) -> None:
    slides = read_manifest(night.place / "archive", night.place / "slides.csv")
    slides = slides.pseudonymised(Pseudonymiser.from_file(night.key))
    app = create_app(Viewer(Catalogue(open_store(night.store), slides=slides)))
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    listed = client.get("/api/slides")
    handles = [each["handle"] for each in listed.json()]
    assert len(handles) == 3
    answers = [listed, client.get("/")]
    for handle in handles:
        for path in (
            f"/slide/{handle}", f"/api/slides/{handle}", f"/api/slides/{handle}/tissue", f"/api/slides/{handle}/tiles",
            f"/dzi/{handle}.dzi", f"/dzi/{handle}_files/0/0_0.jpeg", f"/dzi/{handle}_files/99/9_9.jpeg",
        ):  # fmt: skip
            answers.append(client.get(path))
    assert sum(answer.status_code == 200 for answer in answers) > 12
    for answer in answers:
        text = (answer.text + str(answer.headers)).lower()
        assert [word for word in WORDS if word.lower() in text] == [], answer.url


def test_reviews_ledger_and_what_is_forgotten(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    """Last: the case goes."""
    store, key = str(night.store), str(night.key)
    (name,) = open_store(night.store).sets("features")
    slide = next(iter(open_store(night.store).records(name)))
    assert main(["review", "--store", store, "--slide", slide, "--reject", "--by", "A. Reader"]) == 0
    assert main(["status", "--store", store, "--ledger"]) == 0
    forget = ["forget", "--store", store, "--case", f"{NAME} Erika", "--pseudonymise", key, "--json"]
    forget += ["--output", str(night.place / "out" / "nights")]
    assert main(forget) == 0
    said = capsys.readouterr()
    assert slide in said.out
    assert main([*forget, "--yes"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["forgotten"]
    assert len(json.loads(again.out)["slides"]) == 2
    assert open_store(night.store).sets("features") == []
    for text in (said.out, said.err, again.out, again.err):
        assert [word for word in WORDS if word.lower() in text.replace(str(night.place), "").lower()] == []
    assert night.betrayed() == {}


def test_the_search_can_find_what_is_planted(tmp_path: Path) -> None:
    """In names, texts, a database with a journal, and packed bytes."""
    there = tmp_path / "written"
    (there / f"case {NAME.lower()}").mkdir(parents=True)
    (there / "log.txt").write_text("token=plantedWEBHOOK")
    with gzip.open(there / "log.gz", "wb") as file:
        file.write(b"x" * 999 + b"hf_plantedHUB")
    with zipfile.ZipFile(there / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inside.txt", "x" * 999 + "plantedAWSID")
    with closing(sqlite3.connect(there / "a.db")) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table log (line text)")
        database.execute("insert into log values ('plantedAWSKEY')")
        database.commit()
        found = places_of([*WORDS, "absent"], there)
    assert found.keys() == {NAME, "plantedWEBHOOK", "hf_plantedHUB", "plantedAWSID", "plantedAWSKEY"}
    assert found[NAME] == [f"written/case {NAME.lower()}"]


def test_without_pseudonyms_names_are_found(tmp_path: Path) -> None:
    """The night's search would find a name that the store holds."""
    write_slide(tmp_path / "archive" / f"{NAME}.tif", size_px=(512, 512), seed=2)
    words = [
        "extract",
        "--slides",
        tmp_path / "archive",
        "--store",
        tmp_path / "s",
        "--executor",
        "serial",
        "--tile-px",
        128,
    ]
    assert main([str(word) for word in words]) == 0
    assert places_of([NAME], tmp_path / "s")[NAME]
