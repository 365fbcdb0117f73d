"""Who may come in."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.cli.main import main
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.viewer.guard import COOKIE
from pathotune_pipeline.viewer.serve import bind
from pathotune_pipeline.viewer.spec import ViewSpec, is_loopback, read_token
from tests.viewer.conftest import TOKEN, Place

SAID = {"verdict": "accept", "by": "Ada", "comment": ""}


def test_loopback_asks_for_nothing_and_answers_to_its_names_alone(place: Place) -> None:
    for host in ("localhost", "127.0.0.1:8642", "[::1]:8642", "localhost:1"):
        assert place.client(host=host).get("/").status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.168.0.7"):
        answer = place.client(host=host).get("/api/slides")
        assert answer.status_code == 421
        assert "s0.tif" not in answer.text


def test_elsewhere_a_token_is_needed_for_everything(place: Place) -> None:
    client = place.client(token=TOKEN, host="server.example")
    for path in ("/", f"/slide/{place.handle}", "/api/slides", "/static/viewer.js", f"/dzi/{place.handle}.dzi", "/x"):
        assert client.get(path).status_code == 401
        assert client.get(path, params={"token": "wrong"}).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post(f"/api/slides/{place.handle}/reviews", json=SAID).status_code == 401
    assert not place.reviews()


def test_the_token_is_shown_once_and_a_cookie_kept(place: Place) -> None:
    client = place.client(token=TOKEN, host="server.example")
    answer = client.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200  # the client keeps cookies, as browsers do
    stranger = place.client(token=TOKEN, host="server.example")
    assert stranger.get("/", headers={"Cookie": f"{COOKIE}=" + "0" * 64}).status_code == 401
    assert stranger.get("/", headers={"Cookie": f"{COOKIE}={TOKEN}"}).status_code == 401
    assert stranger.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_redirect_stays_here(place: Place) -> None:
    client = place.client(token=TOKEN, host="server.example")
    for path in ("//evil.example/", "/\\evil.example"):
        answer = client.get(f"http://server.example{path}", params={"token": TOKEN})
        assert answer.headers.get("location", "/") == "/"


def test_other_pages_cannot_write(place: Place) -> None:
    client, address = place.client(), f"/api/slides/{place.handle}/reviews"
    json_type = {"Content-Type": "application/json"}
    for headers in (
        {**json_type, "Origin": "http://evil.example"},
        {**json_type, "Origin": "null"},
        {**json_type, "Origin": "http://localhost:9"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
    ):
        assert client.post(address, content=b'{"verdict":"accept","by":"Eve"}', headers=headers).status_code == 403
    assert not place.reviews()
    assert client.post(address, json=SAID, headers={"Origin": "http://localhost"}).status_code == 201
    assert client.delete(address, headers=json_type).status_code == 405


def test_every_answer_tells_browsers_what_they_may_do(place: Place) -> None:
    client = place.client()
    for path in ("/", "/api/slides", "/static/viewer.js", "/nothing", f"/dzi/{place.handle}_files/0/0_0.jpeg"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/slides").headers["cache-control"] == "no-store"


def test_which_addresses_are_this_machines_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "", "127.0.0.1.example.org")))


def test_an_open_address_without_a_token_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="no token is asked for"):
        read_token(ViewSpec(host="0.0.0.0"))
    short, good = tmp_path / "short", tmp_path / "good"
    short.write_text("secret\n")
    good.write_text(TOKEN + "\n")
    with pytest.raises(UsageError, match="at least 16") as error:
        read_token(ViewSpec(host="0.0.0.0", token_file=str(short)))
    assert "secret" not in str(error.value)
    assert read_token(ViewSpec(host="0.0.0.0", token_file=str(good))) == TOKEN
    assert read_token(ViewSpec()) is None
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(ViewSpec(token_file=str(tmp_path / "absent")))
    assert main(["view", "--store", str(place.store), "--host", "0.0.0.0"]) == 2
    assert "--token-file" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(place: Place) -> None:
    with bind(ViewSpec(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="cannot listen there"):
            bind(ViewSpec(port=port))
