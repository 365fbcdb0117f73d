"""The viewer's answers: what is there, by handle; nothing else."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.store.reviews import rejected_keys
from pathotune_pipeline.store.store import open_store
from pathotune_pipeline.viewer.app import STATIC
from pathotune_pipeline.viewer.catalogue import handle_of
from tests.viewer.conftest import Place

SLIDE, NASTY = "case-0%2Fs0.tif", "%3Cimg src=x onerror=alert(1)%3E.tif"


def test_every_slide_is_listed_and_none_is_markup(place: Place) -> None:
    client = place.client()
    listed = {each["slide_id"]: each for each in client.get("/api/slides").json()}
    assert {name for name, each in listed.items() if each["status"] == "committed"} == {
        NASTY, SLIDE, "case-1%2Fs2.tif", "case-1%2Fs3.tif", "case-2%2Fs4.tif", "case-2%2Fs5.tif",
    }  # fmt: skip
    assert listed["case-0%2Fbroken.svs"]["status"] == "failed"
    page = client.get("/").text
    assert f'href="/slide/{place.handle}"' in page
    assert "<img src=x" not in page
    shown = client.get(f"/slide/{handle_of(NASTY)}").text
    assert "<img" not in shown


def test_names_with_markup_are_escaped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client()
    viewer = client.app.state.viewer  # type: ignore[attr-defined]
    row = viewer.catalogue.of(place.handle).row
    row.reason, row.flags, row.case_id = "<script>a</script>", ["<b>flag"], '"><i>case'
    for address in ("/", f"/slide/{place.handle}"):
        text = client.get(address).text
        for raw in ("<script>a", "<b>flag", "<i>case"):
            assert raw not in text
        assert "&lt;b&gt;flag" in text


def test_tiles_are_the_slides_pixels(place: Place) -> None:
    client = place.client()
    told = client.get(f"/api/slides/{place.handle}").json()
    slide = open_slide(place.archive / "case-0" / "s0.tif")
    assert (told["width"], told["height"]) == (slide.info.size.width, slide.info.size.height)
    assert not told["note"]
    last = (max(told["width"], told["height"]) - 1).bit_length()
    answer = client.get(f"/dzi/{place.handle}_files/{last}/1_1.jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(float)
    assert pixels.shape == (256, 256, 3)
    truth = slide.read_region((253, 253), 0, (256, 256)).astype(float)
    slide.close()
    assert np.abs(pixels - truth).mean() < 6  # a JPEG of it
    assert client.get(f"/dzi/{place.handle}_files/{last}/999_0.jpeg").status_code == 404
    assert client.get(f"/dzi/{place.handle}_files/99/0_0.jpeg").status_code == 404
    assert "<Size Width=" in client.get(f"/dzi/{place.handle}.dzi").text


def test_without_files_the_overview_is_shown_and_said_so(place: Place) -> None:
    client = place.client(with_files=False)
    told = client.get(f"/api/slides/{place.handle}").json()
    assert "stored overview" in told["note"]
    with_file, overview = (
        np.asarray(Image.open(io.BytesIO(each.get(f"/dzi/{place.handle}_files/9/0_0.jpeg").content)).convert("RGB"))
        for each in (place.client(), client)
    )
    assert with_file.shape == overview.shape
    assert np.abs(with_file.astype(float) - overview).mean() < 20


def test_a_file_that_cannot_be_opened_is_told_without_its_place(place: Place, tmp_path: Path) -> None:
    client = place.client()
    slide = client.app.state.viewer.catalogue.of(place.handle)  # type: ignore[attr-defined]
    object.__setattr__(slide.item, "path", tmp_path / "gone.tif")
    told = client.get(f"/api/slides/{place.handle}").json()
    assert "cannot be opened" in told["note"]
    assert str(tmp_path) not in told["note"]
    assert client.get(f"/dzi/{place.handle}_files/9/0_0.jpeg").status_code == 200


def test_layers(place: Place) -> None:
    client = place.client()
    outlines = client.get(f"/api/slides/{place.handle}/tissue").json()
    assert outlines["type"] == "FeatureCollection"
    assert outlines["features"]
    tiles = client.get(f"/api/slides/{place.handle}/tiles").json()
    count = len(tiles["x"])
    assert count == len(tiles["y"]) == len(tiles["attention"]) > 3
    assert tiles["extent"] == [256.0, 256.0]
    assert tiles["attention"] == sorted(tiles["attention"])
    other = next(each for each in client.get("/api/slides").json() if each["slide_id"] != SLIDE and each["tiles"])
    assert client.get(f"/api/slides/{other['handle']}/tiles").json()["attention"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/....//app.py",
        "/slide/..%2f..%2fetc%2fpasswd",
        "/slide/s0.tif",
        "/api/slides/..",
        "/api/slides/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/slides/s0.tif/tissue",
        "/dzi/..%2f..%2fetc_files/0/0_0.jpeg",
        "/dzi/../../etc/passwd.dzi",
        "/dzi/%00.dzi",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out(place: Place, path: str) -> None:
    answer = place.client().get(path)
    assert answer.status_code == 404
    assert b"root:" not in answer.content
    assert b"import" not in answer.content


def test_only_our_own_files_are_served(place: Place) -> None:
    client = place.client()
    for name in STATIC:
        assert client.get(f"/static/{name}").status_code == 200
    folder = Path(str(client.app.state.viewer.__init__.__globals__["HERE"])) / "static"  # type: ignore[attr-defined]
    assert {*os.listdir(folder)} == {*STATIC}
    assert "Redistributions of source code" in client.get("/static/openseadragon.LICENSE.txt").text


def test_reviews_are_kept_and_told(place: Place) -> None:
    client, address = place.client(), f"/api/slides/{place.handle}/reviews"
    said = {"verdict": "reject", "by": "Ada", "comment": "out of focus"}
    answer = client.post(address, json=said)
    assert (answer.status_code, answer.json()["by"]) == (201, "Ada")
    assert client.get(f"/api/slides/{place.handle}").json()["reviews"] == [answer.json()]
    assert client.post(address, json={"verdict": "reject"}).status_code == 400
    assert client.post(address, json={**said, "verdict": "perhaps"}).status_code == 400
    assert client.post(address, json={**said, "verdict": "comment", "comment": " "}).status_code == 400
    assert "nobody is named" in client.post(address, json={"verdict": "accept", "by": ""}).json()["error"]
    for body in (b"{", b"[]", b'{"by": 3}', b"\xff", b"[" * 15_000):
        assert client.post(address, content=body, headers={"Content-Type": "application/json"}).status_code == 400
    large = client.post(address, json={**said, "comment": "x" * 30_000})
    assert large.status_code == 413
    assert client.get(address).status_code == 405
    assert place.reviews() == [(SLIDE, "reject", "Ada", "out of focus")]
    assert rejected_keys(open_store(place.store)) == {SLIDE}
    assert client.post(f"/api/slides/{'0' * 24}/reviews", json=said).status_code == 404


def test_a_store_that_cannot_be_written_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreUnwritableError("the store is full")

    monkeypatch.setattr("pathotune_pipeline.viewer.app.add_review", full)
    said = {"verdict": "reject", "by": "Ada", "comment": ""}
    answer = place.client().post(f"/api/slides/{place.handle}/reviews", json=said)
    assert (answer.status_code, answer.json()) == (507, {"error": "the store is full"})


def test_errors_of_one_slide_are_words(place: Place, tmp_path: Path) -> None:
    client = place.client(with_files=False)
    slide = client.app.state.viewer.catalogue.of(place.handle)  # type: ignore[attr-defined]
    slide.row.tissue = slide.row.features  # has no such arrays
    answer = client.get(f"/api/slides/{place.handle}/tissue")
    assert answer.status_code == 422
    assert "cannot be read" in answer.json()["error"]
    assert str(place.store) not in answer.text
