"""Put a LoRA adapter's changes into its encoder's weights, and write them as an encoder's folder.

The folder is as large as the encoder; `--adapter` gives the same features from a file of megabytes.

Example:
  pathotune merge-lora --encoder uni --lora tuned/adapter.safetensors --out merged/
  pathotune extract    --slides archive/ --store store/ --encoder local:merged/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given

_NOT_HERE = ("encoder.also", "encoder.adapter", "encoder.precision", "encoder.batch_size", "encoder.device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    where.add_argument("--lora", type=Path, required=True, metavar="FILE", help="adapter.safetensors of --method lora")
    where.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the merged encoder")
    add_settings(parser, ("encoder",), without=_NOT_HERE)


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.encoders.card import EncoderSpec
    from pathotune_pipeline.tuning.run.merge import merge_lora

    encoder = config.load(("encoder",), arguments.config, arguments.assignments, given(arguments))["encoder"]
    assert isinstance(encoder, EncoderSpec)
    merge_lora(encoder, arguments.lora, arguments.out)
    print(f"written to {arguments.out}: use it as --encoder local:{arguments.out}")
    return 0
