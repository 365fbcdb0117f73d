"""Train an encoder without labels, on slides and images of one's own; nothing is cut out beforehand.

METHOD mae: masked autoencoding of a vision transformer. The result is a folder for `--encoder local:FOLDER`.
METHOD puzzle: PuzzleTuning. The result is a file of prompts for `extract --adapter`, or such a folder with --mode implicit.
METHOD distill: frozen encoders and the student's own average are distilled into one. The result is such a folder.
A run that was stopped goes on when the same command is given again. Several GPUs: start it with torchrun.

Example:
  pathotune pretrain mae --slides archive/ --out mae/ --epochs 100 --epoch-images 100000
  pathotune pretrain mae --config configs/recipes/pretrain-small.yaml --out small/
  pathotune pretrain puzzle --base local:mae/mae-encoder --slides archive/ --out puzzle/ --epoch-images 100000
  pathotune pretrain distill --teachers uni phikon --slides archive/ --out distilled/ --epoch-images 100000
  torchrun --nproc-per-node 4 -m pathotune_pipeline.cli pretrain mae --slides archive/ --out mae/ ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import Parser, add_settings, given

if TYPE_CHECKING:
    from pathotune_pipeline.tuning.pretrain.run import PretrainResult

METHODS = {
    "mae": "hide most patches and restore them",
    "puzzle": "PuzzleTuning: prompts on a trained encoder, or a whole one, restore puzzles of several images",
    "distill": "learn from any number of frozen encoders, and from the student's own moving average",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    methods = parser.add_subparsers(dest="method", metavar="METHOD", required=True, parser_class=Parser)
    for name, help in METHODS.items():
        method = methods.add_parser(name, help=help, description=__doc__)
        method.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="folder of the run; made if it is new"
        )
        add_settings(method, ("pretrain", name))


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.tuning.pretrain.spec import PretrainSpec, check_asked

    out: Path = arguments.out
    if out.is_file():
        raise UsageError(f"--out {out}: is a file. Name a folder.")
    method = arguments.method
    settings = config.load(("pretrain", method), arguments.config, arguments.assignments, given(arguments))
    asked = settings["pretrain"]
    assert isinstance(asked, PretrainSpec)
    check_asked(asked, settings[method])  # before seconds go into loading torch
    from pathotune_pipeline.tuning.pretrain.start import start

    result = start(method, asked, settings[method], out, on_row=_tell)
    if result is not None:
        _sum_up(result)
    return 0


def _tell(row: dict[str, Any]) -> None:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
    sys.stderr.write("  ".join(f"{name} {value}" for name, value in shown.items()) + "\n")


def _sum_up(result: PretrainResult) -> None:
    checks = result.checks
    print(f"written    {result.artefact} after {result.steps} steps")
    if checks.get("watched_loss") is not None:
        print(f"watched    loss {checks['watched_loss']:.4g} (the best constant: {checks['constant_loss']:.4g})")
    if checks.get("rankme") is not None:
        print(f"features   RankMe {checks['rankme']:.1f} on watched images")
    flag = f"--encoder local:{result.artefact}" if result.artefact.is_dir() else f"--adapter {result.artefact}"
    print(f"use it     {flag}")
