"""Serving the viewer until it is stopped."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.viewer.spec import ViewSpec


def bind(spec: ViewSpec) -> socket.socket:
    """The socket to listen at.

    Raises:
        UsageError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    try:
        return socket.create_server((spec.host.strip("[]"), spec.port), family=family, backlog=64)
    except OSError as error:
        raise UsageError(
            f"--host {spec.host} --port {spec.port}: cannot listen there ({error.strerror or error}). "
            "Give another --port; 0 takes a free one."
        ) from None


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that writes no log of requests, so that no slide's id or token stands in one."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32_768, limit_concurrency=200,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(app: ASGIApp, spec: ViewSpec, *, on_ready: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        app: the viewer.
        spec: where.
        on_ready: told the address.

    Raises:
        UsageError: the address cannot be had.
    """
    with bind(spec) as listening:
        host, port = listening.getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        server_of(app).run(sockets=[listening])
