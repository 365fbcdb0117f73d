"""The viewer as people use it: real clicks in a real browser."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from pathotune_pipeline.viewer.app import create_app
from pathotune_pipeline.viewer.serve import bind, server_of
from pathotune_pipeline.viewer.spec import ViewSpec
from tests.browsing import browser_page, wait_until
from tests.viewer.conftest import TOKEN, Place


@contextmanager
def served(place: Place, *, token: str | None = None) -> Iterator[str]:
    """The viewer at a free port of this machine."""
    viewer = place.viewer()
    server = server_of(create_app(viewer, token=token))
    with bind(ViewSpec(port=0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            viewer.pixels.close()


def pixels(page: Any, selector: str) -> np.ndarray:
    """What a canvas shows, uint8 [h, w, 4]."""
    data = page.evaluate("selector => document.querySelector(selector).toDataURL('image/png')", selector)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGBA"))


def test_a_slide_is_looked_at_and_reviewed(place: Place) -> None:
    with browser_page() as page, served(place) as address:
        page.goto(address)
        page.get_by_label("Filter by").fill("s0.tif")
        assert page.locator("tbody tr:visible").count() == 1
        page.get_by_role("link", name=place.slide_id).click()
        page.wait_for_selector("body[data-ready=yes]")
        wait_until(page, "document.body.dataset.drawn === 'tissue attention'")

        wait_until(
            page,
            """() => { const c = document.querySelector('.openseadragon-canvas canvas:not(.layers)');
            const d = c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data; return d[3] > 0 }""",
        )
        under = pixels(page, ".openseadragon-canvas canvas:not(.layers)")
        assert len(np.unique(under[under[..., 3] > 0][:, 0])) > 20  # the slide's own pixels
        over = pixels(page, "canvas.layers")
        assert (over[..., 3] > 0).mean() > 0.02

        page.get_by_label("attention, by percentile").uncheck()
        page.get_by_label("tissue").uncheck()
        wait_until(page, "document.body.dataset.drawn === ''")
        assert not pixels(page, "canvas.layers")[..., 3].any()
        page.locator("#layer-grid").check()
        wait_until(page, "document.body.dataset.drawn === 'grid'")
        grid = pixels(page, "canvas.layers")
        assert (grid[..., 2] > grid[..., 0])[grid[..., 3] > 100].mean() > 0.9  # blue lines

        before = page.locator("#scale").text_content()
        page.get_by_role("button", name="Zoom in").click()
        wait_until(page, "said => document.getElementById('scale').textContent !== said", arg=before)

        page.get_by_role("button", name="Reject").click()
        wait_until(page, "document.getElementById('answer').textContent.includes('nobody is named')")
        page.told.clear()  # Chromium complains of the 400
        page.get_by_label("Your name").fill("Ada <b>")
        page.get_by_label("Comment").fill("<img src=x onerror=alert(1)> folded")
        page.get_by_role("button", name="Reject").click()
        page.wait_for_selector("#reviews li")
        assert "Ada <b>" in page.locator("#reviews li").text_content()
        assert page.locator("#reviews img").count() == 0
        assert [verdict for _, verdict, _, _ in place.reviews()] == ["reject"]
        page.reload()
        page.wait_for_selector("#reviews li")
        assert page.get_by_label("Your name").input_value() == "Ada <b>"
        page.wait_for_selector("body[data-ready=yes]")
        assert not page.told


def test_every_request_stays_here_and_the_token_opens_the_door(place: Place) -> None:
    asked: list[str] = []
    with browser_page() as page, served(place, token=TOKEN) as address:
        page.on("request", lambda request: asked.append(request.url))
        assert page.goto(address).status == 401
        page.goto(f"{address}/?token={TOKEN}")
        assert page.url == f"{address}/"
        page.goto(f"{address}/slide/{place.handle}")
        page.wait_for_selector("body[data-ready=yes]")
        page.wait_for_load_state("networkidle")
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)
        assert sum("_files/" in url for url in asked) > 1
        assert not [said for said in page.told if "401" not in said]  # that of the first visit comes late
