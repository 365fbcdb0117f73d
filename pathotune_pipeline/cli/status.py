"""What a store holds, and how its last runs went. Opens no array.

Example:
  pathotune status --store store/
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from pathotune_pipeline.cli.flags import store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    parser.add_argument("--verify", action="store_true", help="compare every committed array with its checksum")
    parser.add_argument("--ledger", action="store_true", help="tell all that was ever done with the store")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, UNEXPECTED
    from pathotune_pipeline.store.ledger import read_ledger
    from pathotune_pipeline.store.store import open_store

    store = open_store(arguments.store)
    facts = {"store": str(arguments.store), "sets": _sets(store), "runs": _runs(store)}
    if arguments.ledger:
        facts["ledger"] = [asdict(entry) for entry in read_ledger(store)]
    if arguments.verify:
        facts["corrupt"] = _verify(store)
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        _print(facts)
    return UNEXPECTED if facts.get("corrupt") else OK


def _sets(store: Any) -> list[dict[str, Any]]:
    found = []
    for name in store.sets():
        records = store.records(name).values()
        facts: dict[str, Any] = {"name": str(name), "stage": name.stage, "slides": len(records)}
        if name.stage != "tissue":
            facts["tiles"] = sum(record.facts["tiles"] for record in records)
            facts["empty"] = sum(record.facts["tiles"] == 0 for record in records)
        adapter = _adapter(store, next(iter(records), None)) if name.stage == "features" else None
        if adapter:
            facts["adapter"] = adapter
        found.append(facts)
    return found


def _adapter(store: Any, record: Any) -> dict[str, Any] | None:
    """The adapter on a set's encoder, as one of its slides has it; None where there is none, or nobody can tell."""
    if record is None:
        return None
    try:
        encoder = dict(store.group(record).attrs).get("encoder") or {}
    except (OSError, LookupError, ValueError):
        return None
    found: dict[str, Any] | None = encoder.get("adapter")
    return found


def _runs(store: Any) -> list[dict[str, Any]]:
    from pathotune_pipeline.store.runs import read_runs

    return [
        {
            "run": run.run_id,
            "verb": run.record["verb"],
            "finished": run.record["finished"],
            "planned": run.record.get("planned"),
            "counts": run.record.get("counts"),
            "failures": run.record.get("failures", {}),
        }
        for run in read_runs(store.runs)
    ]


def _verify(store: Any) -> list[str]:
    from pathotune_pipeline.errors import CorruptDataError

    wrong = []
    for name in store.sets():
        for record in store.records(name).values():
            try:
                store.verify(record)
            except CorruptDataError as error:
                wrong.append(str(error))
    return wrong


def _print(facts: dict[str, Any]) -> None:
    print(f"store {facts['store']}")
    for each in facts["sets"]:
        tiles = f", {each['tiles']} tiles, {each['empty']} empty" if "tiles" in each else ""
        print(f"  {each['name']}: {each['slides']} slides{tiles}")
        if "adapter" in each:
            adapter = each["adapter"]
            text = f", text {adapter['text']!r} read by {adapter['text_encoder']}" if adapter["text"] else ""
            print(f"    adapter {adapter['name']}: {adapter['method']}, sha256 {adapter['sha256'][:12]}{text}")
    if not facts["sets"]:
        print("  nothing is committed yet")
    for each in facts["runs"][-5:]:
        if each["finished"]:
            counts = each["counts"] or {}
            print(
                f"run {each['run']} {each['verb']}: {counts.get('computed')} computed of {counts.get('slides')}, "
                f"{counts.get('failed')} failed"
            )
        else:
            print(
                f"run {each['run']} {each['verb']}: not finished (running, or killed); {each['planned']} slides were planned"
            )
    if facts["runs"]:
        for slide, reason in facts["runs"][-1]["failures"].items():
            print(f"  failed {slide}: {reason}")
    for entry in facts.get("ledger", ()):
        told = ", ".join(f"{name} {value}" for name, value in entry["facts"].items() if name != "version")
        print(f"{entry['number']:>6} {entry['at']} {entry['verb']}: {told}")
    if "corrupt" in facts:
        print(
            "\n".join(f"corrupt: {line}" for line in facts["corrupt"]) or "every committed array is what was committed"
        )
