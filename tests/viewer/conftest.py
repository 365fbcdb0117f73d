"""A small real store, its slides, and a viewer over both."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli import main
from pathotune_pipeline.store.layout import REVIEWS
from pathotune_pipeline.store.reviews import read_reviews
from pathotune_pipeline.store.store import open_store
from pathotune_pipeline.viewer.app import Viewer, create_app
from pathotune_pipeline.viewer.catalogue import Catalogue, handle_of
from pathotune_pipeline.viewer.layers import AttentionSource

TOKEN = "a token of more than 16 letters"


@dataclass
class Place:
    """Where things lie, and what makes viewers.

    Attributes:
        archive: the slides' folder.
        store: their features, tiles of 128 px at 1 um/px.
        maps: attention of the first slide, as `pathotune heatmap` writes it.
    """

    archive: Path
    store: Path
    maps: Path
    slide_id: str

    @property
    def handle(self) -> str:
        return handle_of(self.slide_id)

    def viewer(self, *, with_files: bool = True) -> Viewer:
        slides = read_manifest(self.archive, None) if with_files else None
        catalogue = Catalogue(open_store(self.store), slides=slides)
        return Viewer(catalogue, attention=AttentionSource(maps=self.maps))

    def reviews(self) -> list[tuple[str, str, str, str]]:
        """Slide, verdict, by and comment of each review that is kept."""
        return [(each.slide_id, each.verdict, each.by, each.comment) for each in read_reviews(open_store(self.store))]

    def client(self, *, token: str | None = None, host: str = "localhost", **more: Any) -> TestClient:
        app = create_app(self.viewer(**more), token=token)
        return TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, small_archive: Path) -> Place:
    folder = tmp_path_factory.mktemp("viewer")
    archive = Path(shutil.copytree(small_archive, folder / "archive"))
    nasty = archive / "<img src=x onerror=alert(1)>.tif"
    (archive / "case-0" / "s1.tif").rename(nasty)
    words = [
        "extract",
        "--slides",
        archive,
        "--store",
        folder / "store",
        "--tile-px",
        128,
        "--mpp",
        1,
        "--executor",
        "serial",
    ]
    assert main([*map(str, words)]) in (0, 3)
    place = Place(archive, folder / "store", folder / "maps", "case-0%2Fs0.tif")
    store = open_store(place.store)
    record = store.records(store.sets("features")[0])[place.slide_id]
    coords = store.read(record.made_from("tiles"), "coords").tolist()
    place.maps.mkdir()
    with (place.maps / f"{key_of(place.slide_id)}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y", "width", "height", "attention", "percentile"])
        writer.writerows([x, y, 256, 256, 0.1, 100 * at / len(coords)] for at, (x, y) in enumerate(coords))
    return place


@pytest.fixture
def place(made: Place) -> Place:
    shutil.rmtree(made.store / REVIEWS, ignore_errors=True)
    return made
