"""Who may come in: the Host and Origin of a request, its token, and what browsers may do with an answer."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pathotune_pipeline.execution.reach import is_loopback

COOKIE = "pathotune_view"
OPENSEADRAGON_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""Of the one style sheet that OpenSeadragon 6.1 puts into a page: no outline on touch screens."""
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' '{OPENSEADRAGON_STYLE}'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Of every answer."""


class Guard:
    """ASGI middleware that lets through whom it should.

    Without a token only requests addressed to a loopback name are answered, so that a page of the internet whose name
    is made to point here learns nothing. With one, browsers show it once as `/?token=...` and keep a cookie that does
    not contain it; programs send `Authorization: Bearer ...`.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self._app, self._token = app, token
        self._ticket = hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest() if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        await (refused or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._token is None and not is_loopback(_name(host)):
            return PlainTextResponse("This viewer answers to localhost alone.\n", 421)
        if scope["method"] not in ("GET", "HEAD") and not _own_origin(headers, host):
            return PlainTextResponse("Another page asked for this.\n", 403)
        if self._token is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if given and _same(given[0], self._token):
            there = RedirectResponse(scope["path"] if _plain_path(scope["path"]) else "/", 303)
            there.set_cookie(COOKIE, self._ticket, httponly=True, samesite="lax", path="/")
            return there
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(shown.strip(), self._token):
            return None
        if _same(_cookie(headers.get("cookie", "")), self._ticket):
            return None
        told = "A token is needed: open the address with ?token=... once.\n"
        return PlainTextResponse(told, 401, {"WWW-Authenticate": "Bearer"})


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _own_origin(headers: Headers, host: str) -> bool:
    """Whether a request that changes something comes from a page of ours, or from no page."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return False  # the kinds that a foreign form can send
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == host


def _plain_path(path: str) -> bool:
    """Whether a path leads nowhere but here: `//host` would be another machine."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
