"""The viewer's pages and what they ask for. Every address names a slide by its handle, or a file of ours by its name."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pathotune_pipeline.archive.identity import redact
from pathotune_pipeline.errors import PathotuneError, StoreUnwritableError, UsageError
from pathotune_pipeline.store.reviews import Review, add_review, read_reviews
from pathotune_pipeline.version import VERSION
from pathotune_pipeline.viewer.catalogue import Catalogue, ShownSlide, listed
from pathotune_pipeline.viewer.deep_zoom import OVERLAP_PX, TILE_PX
from pathotune_pipeline.viewer.guard import Guard
from pathotune_pipeline.viewer.layers import AttentionSource, tile_layer, tissue_layer
from pathotune_pipeline.viewer.pixels import Pixels

HERE = Path(__file__).parent
STATIC = {
    "openseadragon.min.js": "text/javascript",
    "openseadragon.LICENSE.txt": "text/plain; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "list.js": "text/javascript; charset=utf-8",
    "viewer.css": "text/css; charset=utf-8",
}
"""All files that are served as they are."""
MOST_REVIEW_BYTES = 20_000
KEEP = {"Cache-Control": "private, max-age=3600"}


class Viewer:
    """Answers to requests about one store's slides."""

    def __init__(self, catalogue: Catalogue, *, attention: AttentionSource | None = None) -> None:
        self.catalogue, self.attention = catalogue, attention
        self.pixels = Pixels(catalogue)
        loader = jinja2.FileSystemLoader(HERE / "templates")
        self._pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
        self._static = {name: (HERE / "static" / name).read_bytes() for name in STATIC}

    def routes(self) -> list[Route]:
        return [
            Route("/", self.show_list),
            Route("/slide/{handle}", self.show_slide),
            Route("/static/{name}", self.send_static),
            Route("/api/slides", self.list_slides),
            Route("/api/slides/{handle}", self.tell),
            Route("/api/slides/{handle}/tissue", self.tissue),
            Route("/api/slides/{handle}/tiles", self.tiles),
            Route("/api/slides/{handle}/reviews", self.review, methods=["POST"]),
            Route("/dzi/{handle}.dzi", self.pyramid),
            Route("/dzi/{handle}_files/{level:int}/{column:int}_{row:int}.jpeg", self.pixel_tile),
        ]

    def _slide(self, request: Request) -> ShownSlide:
        slide = self.catalogue.of(request.path_params["handle"])
        if slide is None:
            raise HTTPException(404, "There is no such slide.")
        return slide

    # --- pages -----------------------------------------------------------------------------------------------------

    async def show_list(self, request: Request) -> Response:
        page = self._pages.get_template("list.html.j2")
        slides = [(handle, slide.row) for handle, slide in self.catalogue.slides.items()]
        found = page.render(store=self.catalogue.name, features=self.catalogue.features, slides=slides, version=VERSION)
        return HTMLResponse(found)

    async def show_slide(self, request: Request) -> Response:
        slide = self._slide(request)
        handles = [*self.catalogue.slides]
        at = handles.index(request.path_params["handle"])
        page = self._pages.get_template("slide.html.j2")
        return HTMLResponse(
            page.render(
                store=self.catalogue.name, features=self.catalogue.features, handle=handles[at], row=slide.row,
                before=handles[at - 1] if at else "", after=handles[at + 1] if at + 1 < len(handles) else "",
                version=VERSION,
            )
        )  # fmt: skip

    async def send_static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404, "There is no such file.")
        return Response(self._static[name], media_type=STATIC[name], headers={"Cache-Control": "no-cache"})

    # --- data ------------------------------------------------------------------------------------------------------

    async def list_slides(self, request: Request) -> Response:
        return JSONResponse([listed(slide, handle) for handle, slide in self.catalogue.slides.items()])

    async def tell(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._told, self._slide(request), request.path_params["handle"]))

    def _told(self, slide: ShownSlide, handle: str) -> dict[str, Any]:
        row, trouble = slide.row, self.pixels.trouble(slide)
        pyramid = None if slide.size is None and trouble else self.pixels.pyramid(slide)
        try:
            reviews, review_trouble = read_reviews(self.catalogue.store, slide.key), ""
        except PathotuneError as error:
            reviews, review_trouble = [], str(error)
        return {
            **listed(slide, handle),
            "width": pyramid.size.width if pyramid else 0,
            "height": pyramid.size.height if pyramid else 0,
            "tile_size": TILE_PX,
            "overlap": OVERLAP_PX,
            "mpp": row.mpp,
            "area_mm2": row.area_mm2,
            "note": trouble,
            "problem": row.problem,
            "reviews": [asdict(review) for review in reviews],
            "review_trouble": review_trouble,
        }

    async def tissue(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(tissue_layer, self.catalogue.store, self._slide(request)))

    async def tiles(self, request: Request) -> Response:
        slide = self._slide(request)
        return JSONResponse(await run_in_threadpool(tile_layer, self.catalogue.store, slide, self.attention))

    async def pyramid(self, request: Request) -> Response:
        pyramid = await run_in_threadpool(self.pixels.pyramid, self._slide(request))
        if pyramid is None:
            raise HTTPException(404, "Nothing of this slide can be shown.")
        return Response(pyramid.xml(), media_type="application/xml")

    async def pixel_tile(self, request: Request) -> Response:
        slide, place = self._slide(request), request.path_params
        data = await run_in_threadpool(self.pixels.tile, slide, place["level"], place["column"], place["row"])
        if data is None:
            raise HTTPException(404, "There is no such tile.")
        return Response(data, media_type="image/jpeg", headers=KEEP)

    async def review(self, request: Request) -> Response:
        slide = self._slide(request)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MOST_REVIEW_BYTES:
                raise HTTPException(413, f"A review has at most {MOST_REVIEW_BYTES} bytes.")
        review = _review(slide.slide_id, bytes(body))
        kept = await run_in_threadpool(add_review, self.catalogue.store, slide.key, review)
        return JSONResponse(asdict(kept), 201)


def _review(slide_id: str, body: bytes) -> Review:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    names = ("verdict", "by", "comment")
    if not isinstance(told, dict) or not all(isinstance(told.get(name, ""), str) for name in names):
        raise HTTPException(400, "A review is a JSON object with the texts verdict, by and comment.")
    return Review(slide_id, told.get("verdict", ""), told.get("by", ""), told.get("comment", ""))


async def _say_error(request: Request, error: Exception) -> Response:
    status = {UsageError: 400, StoreUnwritableError: 507}
    code = next((number for kind, number in status.items() if isinstance(error, kind)), 422)
    viewer: Viewer = request.app.state.viewer
    slide = viewer.catalogue.of(request.path_params.get("handle", ""))
    said = redact(str(error), slide.item.path, slide.slide_id) if slide and slide.item else str(error)
    return JSONResponse({"error": " ".join(said.split())[:500]}, code)


async def _say_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _say_unexpected(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"unexpected {type(error).__name__}"}, 500)


def create_app(viewer: Viewer, *, token: str | None = None) -> Starlette:
    """The web application.

    Args:
        viewer: what it shows.
        token: what browsers must show; None answers loopback names alone, and asks for nothing.
    """
    app = Starlette(
        routes=viewer.routes(),
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={PathotuneError: _say_error, HTTPException: _say_http, Exception: _say_unexpected},
    )
    app.state.viewer = viewer
    return app
