"""Slides under which worker processes died, and how to let the next run try them again.

A slide that was given up in two runs is not tried any more until its file or the settings of its features change. Once the
cause is mended (memory, a library), release it.

Example:
  pathotune quarantine --store store/
  pathotune quarantine --store store/ --release a.svs
  pathotune quarantine --store store/ --release            # all of them
"""

from __future__ import annotations

import argparse
import json

from pathotune_pipeline.cli.flags import store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    parser.add_argument(
        "--release", nargs="*", metavar="ID", help="let the next run try these slides again; without a name, all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.archive.identity import key_of
    from pathotune_pipeline.cli.main import OK
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.features.quarantine import RUNS, quarantined
    from pathotune_pipeline.registry import nearest
    from pathotune_pipeline.store.deaths import release
    from pathotune_pipeline.store.store import open_store

    store = open_store(arguments.store)
    known = quarantined(store)
    for name in arguments.release or ():
        if name not in known:
            raise UsageError(f"--release {name}: no process died under such a slide.{nearest(name, known)}")
    released = [] if arguments.release is None else arguments.release or list(known)
    for slide_id in released:
        release(store, key_of(slide_id))
    if arguments.json:
        told = [
            {
                "slide_id": slide,
                "runs": len(own),
                "last": own[-1].at,
                "tried": len(own) < RUNS,
                "released": slide in released,
            }
            for slide, own in known.items()
        ]
        print(json.dumps(told, indent=1))
        return OK
    for slide_id, own in known.items():
        state = "released" if slide_id in released else "tried once more" if len(own) < RUNS else "not tried"
        print(f"{slide_id}: given up in {len(own)} runs, last {own[-1].at}; {state}")
    if not known:
        print("no process died under a slide")
    return OK
