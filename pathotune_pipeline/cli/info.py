"""Facts about slides: vendor, size, levels, mpp and where it comes from; or about adapters. Reads no pixels.

Example:
  pathotune info archive/*.svs
  pathotune info slide.ndpi --json
  pathotune info adapter.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pathotune_pipeline.errors import PathotuneError, SlideError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="slide files, or adapter files (.safetensors)"
    )
    parser.add_argument("--reader", help="force a reader: jpeg, openslide, tiffslide or image")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, SOME_FAILED
    from pathotune_pipeline.slides.slide import SlideSpec

    spec = SlideSpec.parse({"reader": arguments.reader})
    found = [
        _describe_adapter(path) if path.suffix == ".safetensors" else _describe(path, spec) for path in arguments.paths
    ]
    if arguments.json:
        print(json.dumps([{key: value for key, value in facts.items() if key != "text"} for facts in found], indent=1))
    else:
        print("\n\n".join(f"{facts['path']}\n{facts['text']}" for facts in found))
    return SOME_FAILED if any("error" in facts for facts in found) else OK


def _describe_adapter(path: Path) -> dict[str, Any]:
    from pathotune_pipeline.adapt.describe import describe_adapter
    from pathotune_pipeline.adapt.file import read_adapter_card

    try:
        card = read_adapter_card(path)
    except PathotuneError as error:
        return {"path": str(path), "error": str(error), "text": f"  cannot be read: {error}"}
    return {"path": str(path), "adapter": card.model_dump(mode="json"), "text": describe_adapter(card)}


def _describe(path: Path, spec: Any) -> dict[str, Any]:
    from pathotune_pipeline.slides.describe import describe
    from pathotune_pipeline.slides.open import check_scale, open_slide

    try:
        slide = open_slide(path, spec)
    except SlideError as error:
        return {"path": str(path), "error": str(error), "text": f"  cannot be read: {error}"}
    info = slide.info
    slide.close()
    facts: dict[str, Any] = {"path": str(path), **info.as_dict()}
    text = describe(info)
    try:
        check_scale(info, spec, overridden=False)
    except SlideError as error:
        facts["warning"] = str(error)
        text += f"\n  warning: {error}"
    return {**facts, "text": text}
