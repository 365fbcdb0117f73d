"""Give a store's room back: sets that are no longer wanted, what killed runs left behind, old records of runs.

Without --keep no set is touched. Sets that are kept stay with the tissue and tiles they were made from; masks that were
imported stay always.

Example:
  pathotune gc --store store/ --dry-run
  pathotune gc --store store/ --keep uni-256px-0.5mpp virchow2-224px-0.5mpp --keep-runs 30
"""

from __future__ import annotations

import argparse
import json

from pathotune_pipeline.cli.flags import store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    parser.add_argument(
        "--keep", nargs="+", action="extend", metavar="SET", help="features to keep; all other sets are deleted"
    )
    parser.add_argument("--keep-runs", type=int, metavar="N", help="records of runs to keep, newest first; else all")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    parser.add_argument(
        "--force", action="store_true", help="delete even though a run seems to be at work on the store"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.store.gc import delete_rubbish, find_rubbish, refuse_while_in_use
    from pathotune_pipeline.store.store import open_store

    if arguments.keep_runs is not None and arguments.keep_runs < 0:
        raise UsageError(f"--keep-runs {arguments.keep_runs}: give 0 or more.")
    store = open_store(arguments.store)
    keep = [store.find_set(name) for name in arguments.keep] if arguments.keep else None
    if not arguments.dry_run and not arguments.force:
        refuse_while_in_use(store)
    rubbish = find_rubbish(store, keep, keep_runs=arguments.keep_runs)
    if not arguments.dry_run:
        delete_rubbish(store, rubbish)
    if arguments.json:
        told = {
            "sets": rubbish.sets(), "leftovers": rubbish.left, "runs": rubbish.runs, "files": rubbish.files,
            "bytes": rubbish.size_bytes, "deleted": not arguments.dry_run,
        }  # fmt: skip
        print(json.dumps(told, indent=1))
        return OK
    for name, count in rubbish.sets().items():
        print(f"{name}: {count} slides")
    for where in rubbish.left:
        print(f"{where}: left behind")
    if rubbish.runs:
        print(f"runs: {len(rubbish.runs)} records, {rubbish.runs[0]} to {rubbish.runs[-1]}")
    said = "would be freed" if arguments.dry_run else "freed"
    print(f"{rubbish.size_bytes / 1e9:.3f} GB in {rubbish.files} files {said}")
    return OK
