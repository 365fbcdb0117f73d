"""Bring an encoder to a task by labelled patches: a probe, an adapter of megabytes, or weights trained further.

The folder holds the adapter (or the network), the classifier, a card with scores, the course of the training and the
splits. The same command goes on with a training that was cut off. docs/adapting.md says which method is for what.

Example:
  pathotune adapt   --patches patches.csv --encoder uni --method pathotune --organ breast --task "mitotic figures" --out tuned/
  pathotune extract --slides archive/ --store store/ --encoder uni --adapter tuned/adapter.safetensors
  pathotune adapt   --patches patches/ --encoder timm:vit_small_patch16_224 --method full --out network/
  pathotune extract --slides archive/ --store store/ --encoder local:network/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given

if TYPE_CHECKING:
    from pathotune_pipeline.engine.course import EpochRecord
    from pathotune_pipeline.tuning.run.spec import AdaptSpec

_NOT_HERE = ("encoder.also", "encoder.adapter", "adapt.adapter.method")


def add_out(parser: argparse.ArgumentParser) -> None:
    """The flags that say where the result goes."""
    where = parser.add_argument_group("result")
    where.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for what is learnt, and its scores"
    )
    where.add_argument("--overwrite", action="store_true", help="replace an older result in --out")
    where.add_argument("--json", action="store_true", help="print the card as JSON")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_out(parser)
    add_settings(parser, ("patches", "encoder", "adapt"), without=_NOT_HERE)


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.encoders.card import EncoderSpec
    from pathotune_pipeline.tuning.patches.spec import PatchSpec
    from pathotune_pipeline.tuning.run.parts import AdaptRunSpec
    from pathotune_pipeline.tuning.run.task import run_adaptation

    sections = ("patches", "encoder", "adapt")
    settings = config.load(sections, arguments.config, arguments.assignments, given(arguments))
    encoder = EncoderSpec.parse(settings["encoder"].model_dump())
    patches = PatchSpec.parse(settings["patches"].model_dump())
    spec = AdaptRunSpec.parse(settings["adapt"].model_dump())
    return learn(arguments, spec, lambda told: run_adaptation(
        encoder, patches, spec, out=arguments.out, overwrite=arguments.overwrite, on_epoch=told
    ))  # fmt: skip


def learn(arguments: argparse.Namespace, spec: AdaptSpec, work: Callable[[Callable[[EpochRecord], None]], Any]) -> int:
    """Train with a progress bar, and tell the card.

    Args:
        arguments: as `add_out` has them.
        spec: of the training.
        work: is given what to tell of each epoch; returns the card.
    """
    quiet = True if arguments.json else None
    bar = tqdm(desc=spec.method, unit="epoch", total=spec.train.epochs, disable=quiet, file=sys.stderr)

    def told(record: EpochRecord) -> None:
        bar.update(record.epoch + 1 - bar.n)

    with bar:
        card = work(told)
    if arguments.json:
        print(json.dumps(card))
    else:
        tell(card, arguments.out)
    return 0


_UNITS = {
    "group": "{} resampled groups",
    "group or image": "{} resampled groups, and images without one",
    "image": "resampled images, for none names its group",
}


def tell(card: dict[str, Any], out: Path) -> None:
    """Print what was learnt and how well it does."""
    share = card["trained_parameters"] / max(card["parameters"], 1)
    print(f"{card['method']} on {card['encoder']['name']}: {card['trained_parameters']:,} trained ({share:.2%})")
    for part, scores in card["scores"].items():
        unit = _UNITS[scores["unit"]].format(scores["groups"])
        print(f"{part}: {scores['images']} {'slides' if 'slides' in card else 'patches'}, intervals from {unit}")
        for name in ("balanced_accuracy", "auroc", "kappa", "weighted_f1"):
            score = scores[name]
            value = "undefined" if score["value"] is None else f"{score['value']:.3f}"
            interval = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
            print(f"  {name:<18} {value}{interval}")
    for note in card["notes"]:
        print(f"note: {note}")
    print(f"written to {out}")
