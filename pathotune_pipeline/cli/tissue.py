"""Tissue masks out of a store for QuPath, and corrected ones back in; the next extraction makes only what depends on them.

Example:
  pathotune tissue export --store store/ --out masks/
  pathotune tissue import --store store/ --masks masks/
  pathotune tissue import --store store/ --revert --slide a.svs
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pathotune_pipeline.cli.flags import Parser, store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    export = actions.add_parser("export", help="one GeoJSON a slide, as QuPath reads it", description=__doc__)
    _add_shared(export)
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; made if it is new")
    bring = actions.add_parser("import", help="corrected masks into the store", description=__doc__)
    _add_shared(bring)
    what = bring.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--masks", type=Path, metavar="DIR", help="GeoJSON, ASAP XML or PNG files, named after slide ids or slide files"
    )
    what.add_argument("--revert", action="store_true", help="go back to the tissue that was found by itself")
    bring.add_argument(
        "--class", dest="class_name", default="Tissue", metavar="NAME", help="the class that is tissue [Tissue]"
    )


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    parser.add_argument(
        "--slide", nargs="+", action="extend", dest="slides", metavar="ID", help="only these slides; else all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, SOME_FAILED
    from pathotune_pipeline.features.masks import export_masks, import_masks, revert_masks
    from pathotune_pipeline.store.store import open_store

    store = open_store(arguments.store)
    if arguments.action == "export":
        written = export_masks(store, arguments.out, arguments.slides)
        if arguments.json:
            print(json.dumps({slide_id: str(path) for slide_id, path in written.items()}, indent=1))
        else:
            print(f"{arguments.out}: {len(written)} masks")
        return OK
    if arguments.revert:
        changes = revert_masks(store, arguments.slides)
    else:
        changes = import_masks(store, arguments.masks, arguments.slides, class_name=arguments.class_name)
    if arguments.json:
        print(json.dumps([asdict(change) for change in changes], indent=1))
    else:
        for change in changes:
            if change.status != "unchanged":
                told = change.reason or f"{(change.area_um2 or 0) / 1e6:.2f} mm2 of tissue"
                print(f"{change.status:<9} {change.slide_id}: {told}")
        changed = sum(change.status in ("imported", "reverted") for change in changes)
        print(f"{changed} of {len(changes)} masks changed" + ("; run `pathotune extract` again" if changed else ""))
    return SOME_FAILED if any(change.status == "failed" for change in changes) else OK
