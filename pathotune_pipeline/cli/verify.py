"""Whether a store is what its records say: checksums, counts, NaN, fingerprints, and what lies about without a record.

Exit code 1 where anything is found, one line each.

Example:
  pathotune verify --store store/
  pathotune verify --store store/ --features stain-texture --fast
"""

from __future__ import annotations

import argparse
import json

from pathotune_pipeline.cli.flags import store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    parser.add_argument(
        "--features", nargs="+", metavar="SET", help="only these sets and what they were made from; else everything"
    )
    parser.add_argument("--fast", action="store_true", help="records and shapes only; read no array")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, UNEXPECTED
    from pathotune_pipeline.store.store import open_store
    from pathotune_pipeline.store.verify import verify_store

    store = open_store(arguments.store)
    sets = {str(store.find_set(name)) for name in arguments.features} if arguments.features else None
    findings = verify_store(store, sets, fast=arguments.fast)
    if arguments.json:
        print(
            json.dumps({"store": str(arguments.store), "findings": [found.as_dict() for found in findings]}, indent=1)
        )
    else:
        for found in findings:
            print(f"{found.kind:<8} {found.where}: {found.what}")
        if not findings:
            what = "records and shapes agree" if arguments.fast else "every committed array is what was committed"
            print(f"{arguments.store}: {what}")
    return UNEXPECTED if findings else OK
