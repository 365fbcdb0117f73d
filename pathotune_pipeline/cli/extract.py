"""Slides to features in a store. What is there already is not done again.

Example:
  pathotune extract --slides archive/ --store store/ --encoder stain-texture --mpp 0.5 --tile-px 256
  pathotune extract --slides archive/ --store store/ --encoder stain-texture --encoder timm:resnet18.a1_in1k
  pathotune extract --slides archive/ --store store/ --encoder uni2-h --adapter none tuned/adapter.safetensors
  pathotune extract --slides archive/ --manifest slides.csv --store store/ --encoder hf-hub:MahmoodLab/UNI --mag 20
  pathotune extract --slides archive/ --store store/ --part 3/8   # one of eight machines or array tasks
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.manifest import Manifest, Part, read_manifest
from pathotune_pipeline.cli.flags import add_settings, given, store_address
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.spec import Spec

if TYPE_CHECKING:
    from pathotune_pipeline.features.estimate import Estimate
    from pathotune_pipeline.features.planning import ExtractPlan

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
        "--store", type=store_address, metavar="STORE", required=True, help="the store's folder; made if it is new"
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


def add_run(parser: argparse.ArgumentParser) -> None:
    """The flags of an extraction, whether it is a flow or not."""
    add_source(parser)
    add_rescans(parser)
    add_settings(parser, EXTRACT_SECTIONS)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--part",
        metavar="K/N",
        help="only the Kth of N parts: each slide is in one, decided by its id alone; for array tasks and several machines",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and what it would take; write nothing"
    )


def source(arguments: argparse.Namespace) -> tuple[Manifest, Pseudonymiser | None]:
    """The manifest that the flags name, pseudonymised where asked, of the part asked for, and the pseudonymiser.

    Raises:
        UsageError: the folder, table, key or part cannot be used.
    """
    part = Part.parse(arguments.part) if getattr(arguments, "part", None) else None
    pseudonymiser = Pseudonymiser.from_file(arguments.pseudonymise) if arguments.pseudonymise else None
    manifest = read_manifest(arguments.slides, arguments.manifest, rescans=getattr(arguments, "rescans", "newest"))
    manifest = manifest.pseudonymised(pseudonymiser) if pseudonymiser else manifest
    return (manifest.of_part(part) if part else manifest), pseudonymiser


def extract_spec(settings: dict[str, Spec]) -> ExtractSpec:
    """The extraction's part of the settings."""
    return ExtractSpec.parse({name: settings[name].model_dump() for name in config.EXTRACTION})


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
    from pathotune_pipeline.features.extract import check_device, extract, may_use_gpus
    from pathotune_pipeline.features.plan import deviations
    from pathotune_pipeline.features.telemetry import Tally
    from pathotune_pipeline.store.store import FeatureStore

    settings = config.load(EXTRACT_SECTIONS, arguments.config, arguments.assignments, given(arguments))
    spec, execution = extract_spec(settings), settings["execution"]
    assert isinstance(execution, ExecutionSpec)
    manifest, pseudonymiser = source(arguments)
    if arguments.dry_run:
        return dry_run(manifest, spec, FeatureStore(arguments.store), pseudonymiser, as_json=arguments.json)
    check_device(spec, execution)
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


def dry_run(
    manifest: Manifest, spec: ExtractSpec, store: Any, pseudonymiser: Pseudonymiser | None, *, as_json: bool
) -> int:
    """Print what an extraction would take."""
    from pathotune_pipeline.cli.main import OK
    from pathotune_pipeline.features.estimate import estimate
    from pathotune_pipeline.features.planning import plan_extract
    from pathotune_pipeline.features.reviewed import without_rejected

    manifest, told = without_rejected(manifest, store), []
    for each in spec.of_each_encoder():
        plan = plan_extract(manifest, each, store, pseudonymiser=pseudonymiser, only_look=True)
        found, name = estimate(plan, store), str(plan.recipe.features_set)
        told.append({"features": name, "removed": plan.removed[name], **found.as_dict()})
        if not as_json:
            _print_estimate(plan, found)
    if as_json:
        first, *others = told
        print(json.dumps({**first, "others": others}, indent=1))
    else:
        if manifest.passed_over:
            print_passed_over(manifest.passed_over)
        print("dry run   nothing was written")
    return OK


def _print_estimate(plan: ExtractPlan, found: Estimate) -> None:
    print(f"features  {str(plan.recipe.features_set).removeprefix('features-')}")
    print(
        f"slides    {found.slides}: {found.to_do} to do, {found.in_store} in the store already"
        + (f", {found.refused} refused by the audit" if found.refused else "")
    )
    guess = f"{found.coverage:.0%} of a slide's area, " + (
        f"as in {found.coverage_from} slides of this store"
        if found.coverage_from
        else "an assumption: the store is new"
    )
    if found.known_tiles == found.tiles and (found.tiles or not found.to_do):
        print(f"tiles     {found.tiles}")
    elif found.tiles:
        print(f"tiles     about {found.tiles} ({found.known_tiles} known; the rest {guess})")
    else:
        print("tiles     not known: no slide that was looked at can be opened and has a scale")
    if found.hours is not None and found.tiles:
        print(f"time      about {found.hours:.2f} h at {found.tiles_per_s:.0f} tiles/s, as in run {found.rate_from[0]}")
    elif found.to_do and found.hours is None:
        print("time      not known: no run of this store made such features yet. Extract a few slides first.")
    print(f"reads     {found.read_gb:.3f} GB of slides")
    print(f"store     about {found.store_gb:.3f} GB in {found.store_files} files more")
    if found.unopened:
        print(f"unopened  {found.unopened} of the slides looked at cannot be opened; `pathotune audit` says why")
    removed = plan.removed[str(plan.recipe.features_set)]
    if removed:
        print_removed(removed)


def tell(result: Any, *, as_json: bool) -> int:
    """Print what an extraction made; the exit code."""
    results = result.each()
    if as_json:
        print(json.dumps(result.as_dict()))
    else:
        for each in results:
            _print_summary(each, each.counts())
        if result.passed_over:
            print_passed_over(result.passed_over)
    return exit_code([each.counts() for each in results])


def exit_code(counts: Sequence[Mapping[str, int]]) -> int:
    """The exit code that says what became of slides; failures go before slides that are left."""
    from pathotune_pipeline.cli.main import OK, SOME_FAILED, SOME_LEFT

    if any(each["failed"] for each in counts):
        return SOME_FAILED
    return SOME_LEFT if any(each["left"] for each in counts) else OK


def _print_summary(result: Any, counts: dict[str, int]) -> None:
    from pathotune_pipeline.features.telemetry import sentence

    print(f"features  {result.features}")
    print(
        f"slides    {counts['slides']}: {counts['committed']} committed, {counts['empty']} empty, {counts['failed']} failed"
        + (f", {counts['left']} left" if counts["left"] else "")
        + f"; {counts['tiles']} tiles"
    )
    if counts["computed"] == counts["failed"] == counts["left"] == 0:
        print("work      none: everything asked for is in the store already")
    else:
        print(f"work      {counts['computed']} slides computed, run {result.run_id}")
    if result.stream:
        print(f"stream    {sentence(result.stream)}")
    for outcome in result.outcomes:
        if outcome.status not in ("committed", "left"):
            print(f"{outcome.status:<9} {outcome.slide_id}: {outcome.reason}")
    left = [outcome for outcome in result.outcomes if outcome.status == "left"]
    if left:
        shown = ", ".join(outcome.slide_id for outcome in left[:5]) + (", ..." if len(left) > 5 else "")
        print(f"left      {len(left)}: {left[0].reason} The next run takes them: {shown}")
    if result.removed:
        print_removed(result.removed)


def print_removed(slides: Sequence[str], most: int = 5) -> None:
    """A line that names the first slides that are no longer in the archive."""
    shown = ", ".join(slides[:most]) + (", ..." if len(slides) > most else "")
    print(f"removed   {len(slides)} in the store and no longer in the archive: {shown}")


def print_passed_over(pairs: Sequence[tuple[str, str]], most: int = 5) -> None:
    """A line for each reason, with the first names; other slides that reasons name are left to --json."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in pairs:
        by_reason.setdefault(reason.partition(": ")[0], []).append(name)
    for reason, names in by_reason.items():
        shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
        print(f"passed over {len(names)}, {reason}: {shown}")
