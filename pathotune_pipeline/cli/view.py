"""Slides in a browser: deep zoom, tissue, tiles, attention, quality flags and reviews. Listens on this machine alone.

Example:
  pathotune view --store store/ --slides archive/
  pathotune view --store store/ --slides archive/ --maps maps/          # what `pathotune heatmap` wrote
  pathotune view --store store/ --host 0.0.0.0 --token-file view.token  # others, with a token; put TLS in front of it
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pathotune_pipeline import config
from pathotune_pipeline.cli.extract import add_rescans, source
from pathotune_pipeline.cli.flags import add_settings, given, store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    where.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store to look at")
    where.add_argument("--features", metavar="NAME", help="the feature set to show [the newest]")
    where.add_argument("--slides", type=Path, metavar="DIR", help="the slides' folder; without it, stored overviews")
    where.add_argument("--manifest", type=Path, metavar="CSV", help="table of slides, as extract takes it")
    where.add_argument(
        "--pseudonymise", type=Path, metavar="KEYFILE", help="the key by which the store's ids were made"
    )
    where.add_argument("--maps", type=Path, metavar="DIR", help="attention: a folder that heatmap wrote")
    where.add_argument("--model", type=Path, metavar="DIR", help="attention: a folder that crossval wrote")
    add_rescans(parser)
    add_settings(parser, ("view",))


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.store.store import open_store
    from pathotune_pipeline.viewer.app import Viewer, create_app
    from pathotune_pipeline.viewer.catalogue import Catalogue
    from pathotune_pipeline.viewer.layers import AttentionSource
    from pathotune_pipeline.viewer.serve import serve
    from pathotune_pipeline.viewer.spec import ViewSpec, read_token

    spec = config.load(("view",), arguments.config, arguments.assignments, given(arguments))["view"]
    assert isinstance(spec, ViewSpec)
    token, store = read_token(spec), open_store(arguments.store)
    slides = source(arguments)[0] if arguments.slides or arguments.manifest else None
    catalogue = Catalogue(store, features=arguments.features, slides=slides)
    attention = AttentionSource(maps=arguments.maps, model=arguments.model)
    app = create_app(Viewer(catalogue, attention=attention), token=token)

    def on_ready(address: str) -> None:
        print(f"{len(catalogue.slides)} slides of {catalogue.features or 'no feature set'}: {address}", flush=True)
        if token is not None:
            print("open it once as ADDRESS?token=... with the token of the file", flush=True)
        if slides is None:
            print("note: give --slides DIR to zoom into the files", flush=True)

    serve(app, spec, on_ready=on_ready)
    return 0
