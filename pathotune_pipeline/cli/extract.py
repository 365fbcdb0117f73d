"""Slides to features in a store. What is there already is not done again.

Example:
  pathotune extract --slides archive/ --store store/ --encoder stain-texture --mpp 0.5 --tile-px 256
  pathotune extract --slides archive/ --store store/ --encoder stain-texture --encoder timm:resnet18.a1_in1k
  pathotune extract --slides archive/ --manifest slides.csv --store store/ --encoder hf-hub:MahmoodLab/UNI --mag 20
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.manifest import Manifest, read_manifest
from pathotune_pipeline.cli.flags import add_settings, given
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.spec import Spec

EXTRACT_SECTIONS = (*config.EXTRACTION, "execution")


def add_source(parser: argparse.ArgumentParser) -> None:
    """The flags that say where slides come from and features go to."""
    where = parser.add_argument_group("where")
    where.add_argument("--slides", type=Path, metavar="DIR", help="the archive's folder; searched with its folders")
    where.add_argument(
        "--manifest",
        type=Path,
        metavar="CSV",
        help="table with a path or slide_id column; case_id, mpp, ... where known; `pathotune audit` writes one",
    )
    where.add_argument(
        "--store", type=Path, metavar="STORE", required=True, help="the store's folder; made if it is new"
    )
    where.add_argument(
        "--pseudonymise", type=Path, metavar="KEYFILE", help="replace slide and case ids by keyed hashes"
    )


def add_rescans(parser: argparse.ArgumentParser) -> None:
    """The flag that says what becomes of re-scans."""
    parser.add_argument(
        "--rescans",
        choices=("newest", "all"),
        default="newest",
        help="of scans with the same case_id, block and stain keep the newest, or all [newest]",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_rescans(parser)
    add_settings(parser, EXTRACT_SECTIONS)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def source(arguments: argparse.Namespace) -> tuple[Manifest, Pseudonymiser | None]:
    """The manifest that the flags name, pseudonymised where asked, and the pseudonymiser.

    Raises:
        UsageError: the folder, table or key cannot be used.
    """
    pseudonymiser = Pseudonymiser.from_file(arguments.pseudonymise) if arguments.pseudonymise else None
    manifest = read_manifest(arguments.slides, arguments.manifest, rescans=getattr(arguments, "rescans", "newest"))
    return (manifest.pseudonymised(pseudonymiser) if pseudonymiser else manifest), pseudonymiser


def extract_spec(settings: dict[str, Spec]) -> ExtractSpec:
    """The extraction's part of the settings."""
    return ExtractSpec.parse({name: settings[name].model_dump() for name in config.EXTRACTION})


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
    from pathotune_pipeline.features.extract import ExtractPlan, check_device, extract, may_use_gpus
    from pathotune_pipeline.features.plan import deviations
    from pathotune_pipeline.features.telemetry import Tally
    from pathotune_pipeline.store.store import FeatureStore

    settings = config.load(EXTRACT_SECTIONS, arguments.config, arguments.assignments, given(arguments))
    spec, execution = extract_spec(settings), settings["execution"]
    assert isinstance(execution, ExecutionSpec)
    check_device(spec, execution)
    manifest, pseudonymiser = source(arguments)
    bar = tqdm(desc="slides", unit="slide", disable=None if not arguments.json else True, file=sys.stderr)

    tally, began = Tally(), time.perf_counter()

    def on_plan(plan: ExtractPlan) -> None:
        bar.reset(total=sum(1 + len(job.also) for job in plan.jobs))  # a slide counts once for each encoder
        for recipe in plan.recipes:
            for told in deviations(recipe):
                bar.write(f"note: {told}", file=sys.stderr)

    def on_outcome(outcome: Outcome) -> None:
        tally.add(outcome)
        stream = tally.summary(time.perf_counter() - began)
        if stream:
            bar.set_postfix_str(f"{stream['tiles_per_s']:.0f} tiles/s, busy {stream['device_busy']:.0%}", refresh=False)
        bar.update()
        if outcome.status == "failed":
            bar.write(f"failed: {outcome.slide_id}: {outcome.reason}", file=sys.stderr)

    with bar, create_executor(execution, gpus=may_use_gpus(spec)) as executor:
        result = extract(
            manifest, spec, FeatureStore(arguments.store), executor,
            pseudonymiser=pseudonymiser, on_plan=on_plan, on_outcome=on_outcome,
        )  # fmt: skip
    return tell(result, as_json=arguments.json)


def tell(result: Any, *, as_json: bool) -> int:
    """Print what an extraction made; the exit code."""
    from pathotune_pipeline.cli.main import OK, SOME_FAILED

    results = result.each()
    if as_json:
        print(json.dumps(result.as_dict()))
    else:
        for each in results:
            _print_summary(each, each.counts())
        if result.passed_over:
            print_passed_over(result.passed_over)
    return SOME_FAILED if any(each.counts()["failed"] for each in results) else OK


def _print_summary(result: Any, counts: dict[str, int]) -> None:
    from pathotune_pipeline.features.telemetry import sentence

    print(f"features  {result.features}")
    print(
        f"slides    {counts['slides']}: {counts['committed']} committed, {counts['empty']} empty, {counts['failed']} failed; "
        f"{counts['tiles']} tiles"
    )
    if counts["computed"] == 0 and counts["failed"] == 0:
        print("work      none: everything asked for is in the store already")
    else:
        print(f"work      {counts['computed']} slides computed, run {result.run_id}")
    if result.stream:
        print(f"stream    {sentence(result.stream)}")
    for outcome in result.outcomes:
        if outcome.status != "committed":
            print(f"{outcome.status:<9} {outcome.slide_id}: {outcome.reason}")


def print_passed_over(pairs: Sequence[tuple[str, str]], most: int = 5) -> None:
    """A line for each reason, with the first names; other slides that reasons name are left to --json."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in pairs:
        by_reason.setdefault(reason.partition(": ")[0], []).append(name)
    for reason, names in by_reason.items():
        shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
        print(f"passed over {len(names)}, {reason}: {shown}")
