"""Synthetic slides to a report: draws an archive of two classes, extracts it with the flow, trains heads, writes a page.

Every command it runs is printed, so that it can be run again by hand on real slides.

Example:
  pathotune demo --out demo-out/
  pathotune demo --out tutorial/ --slides-only --patients 24 --size-px 2048    # to try commands on
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import time
from pathlib import Path

# TransMIL as published takes 2.7 M parameters and 256 landmarks; on two cores the demo makes do with a narrower one.
HEADS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("abmil", ("--seeds", "3")),
    ("mean", ("--seeds", "3")),
    (
        "transmil",
        (
            "--seeds", "1", "--set", "crossval.settings={dim: 128, landmarks: 64}",
            "--set", "crossval.train={lr: 0.001, epochs: 15}",
        ),
    ),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="where everything goes [demo-out]"
    )
    parser.add_argument("--patients", type=int, default=40, metavar="N", help="cases to draw, at least 24 [40]")
    parser.add_argument(
        "--size-px", type=int, default=4096, metavar="N", help="side of a slide in pixels, at least 2048 [4096]"
    )
    parser.add_argument(
        "--slides-only", action="store_true", help="draw the archive, and nothing else; of 2 cases or more"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another one draws other slides [0]")
    parser.add_argument("--fresh", action="store_true", help="delete what an earlier demo left in --out first")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.errors import UsageError

    fewest = 2 if arguments.slides_only else 24
    if arguments.patients < fewest or arguments.size_px < 2048:
        raise UsageError(
            f"--patients {arguments.patients} --size-px {arguments.size_px}: the demo needs at least {fewest} patients and "
            "2048 px to show anything."
        )
    if arguments.seed < 0:
        raise UsageError(f"--seed {arguments.seed}: a seed is 0 or more.")
    out = arguments.out.absolute()
    if arguments.fresh and (out / "archive").is_dir():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    _draw(out / "archive", patients=arguments.patients, size_px=arguments.size_px, seed=arguments.seed)
    if arguments.slides_only:
        return 0
    os.environ.setdefault("PREFECT_HOME", str(out / "prefect"))
    code = _run_all(out)
    if code == 0:
        print(f"\ndone in {time.perf_counter() - began:.0f} s. Open {out / 'report' / 'report.html'}")
    return code


def _draw(archive: Path, *, patients: int, size_px: int, seed: int) -> None:
    from pathotune_pipeline.execution.executor import usable_cores
    from pathotune_pipeline.testing.slides import make_archive

    wanted = {"patients": patients, "size_px": size_px, "seed": seed}
    marker = archive.parent / "archive.json"
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        print(f"the archive is there already: {archive}")
        return
    shutil.rmtree(archive, ignore_errors=True)
    print(f"drawing an archive of {patients} patients into {archive} ...", flush=True)
    truth = make_archive(
        archive, patients=patients, size_px=(size_px, size_px), seed=seed, workers=min(8, usable_cores())
    )
    marker.write_text(json.dumps(wanted))
    positive = sum(name == "positive" for name in truth.classes.values())
    print(f"drew {len(truth.slides)} slides, {positive} of them positive")


def _run_all(out: Path) -> int:
    archive, store, labels = out / "archive", out / "store", out / "archive" / "labels.csv"
    code = _pathotune("flow", "run", "extract", "--slides", archive, "--store", store, "--encoder", "stain-texture")
    if code:
        return code
    models: list[str | Path] = []
    for head, more in HEADS:
        model = out / f"model-{head}"
        code = _pathotune(
            "flow", "run", "crossval", "--store", store, "--features", "stain-texture", "--labels", labels,
            "--target", "class", "--head", head, *more, "--out", model, "--overwrite",
        )  # fmt: skip
        if code:
            return code
        models += ["--model", model]
        _say_whether_attention_finds_it(store, model, archive / "truth.json")
    return _pathotune("report", "--store", store, *models, "--out", out / "report")


def _pathotune(*command: str | Path) -> int:
    from pathotune_pipeline.cli.main import main

    words = [str(word) for word in command]
    print(f"\n$ pathotune {shlex.join(words)}", flush=True)
    return main(words)


def _say_whether_attention_finds_it(store: Path, model: Path, truth: Path) -> None:
    from pathotune_pipeline.testing.planted import planted_auroc

    score = planted_auroc(store, model, truth)
    if score is not None:
        print(
            f"attention on planted tiles, AUROC over tiles: mean {score.mean:.3f} over {score.slides} positive slides"
        )
