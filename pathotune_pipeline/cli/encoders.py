"""The catalogue of published encoders: what there is, what it eats, whether real weights fit, and bundles to carry.

Example:
  pathotune encoders list
  pathotune encoders show uni2-h
  pathotune encoders show titan                # of a slide encoder
  pathotune encoders fetch uni2-h virchow2 --to bundles/     # then anywhere: --encoder local:bundles/uni2-h
  pathotune encoders check uni2-h --weights bundles/uni2-h
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune_pipeline.cli.flags import Parser
from pathotune_pipeline.encoders.catalogue import CatalogueCard, catalogue, find_card
from pathotune_pipeline.encoders.catalogue import names as encoder_names
from pathotune_pipeline.slide_encoders.catalogue import PublishedCard, published, published_by_any_name

if TYPE_CHECKING:
    from pathotune_pipeline.encoders.check import Verdict

FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    every = actions.add_parser("list", help="a line for each encoder", description=__doc__)
    every.add_argument("--json", action="store_true", help="print JSON")
    show = actions.add_parser("show", help="all that a card says, with its sources", description=__doc__)
    show.add_argument("name", metavar="NAME", help="of the catalogue")
    show.add_argument("--json", action="store_true", help="print JSON")
    check = actions.add_parser(
        "check", help="load real weights strictly and compare what they make", description=__doc__
    )
    check.add_argument("name", metavar="NAME", help="any name that --encoder takes")
    check.add_argument("--weights", metavar="PATH", help="a file or bundle, instead of the hub or its cache")
    check.add_argument(
        "--reference", type=Path, metavar="NPZ", help="features that were stored before, to compare with"
    )
    check.add_argument("--write-reference", type=Path, metavar="NPZ", help="store the features, for later comparisons")
    check.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    check.add_argument("--json", action="store_true", help="print JSON")
    fetch = actions.add_parser("fetch", help="bundles for machines without internet", description=__doc__)
    fetch.add_argument("names", nargs="+", metavar="NAME", help="of the catalogue")
    fetch.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="folder for the bundles; made if it is new"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        return _list(as_json=arguments.json)
    if arguments.action == "show":
        return _show(_card_of_any(arguments.name), as_json=arguments.json)
    if arguments.action == "fetch":
        return _fetch([find_card(name) for name in arguments.names], arguments.to)
    return _check(arguments)


def _card_of_any(name: str) -> CatalogueCard | PublishedCard:
    """A tile encoder's card, or else a slide encoder's; `gigapath` names both, and `gigapath-slide` the second."""
    slide_encoders = published_by_any_name()
    if name in slide_encoders and name not in encoder_names():
        return slide_encoders[name]
    return find_card(name)


def _list(*, as_json: bool) -> int:
    cards = list(catalogue().values())
    if as_json:
        print(json.dumps([_facts(card) for card in cards], indent=1))
        return 0
    header = ("name", "dim", "tile px", "um/px", "pooling", "licence", "gated", "verified", "here")
    lines = [header] + [
        (
            card.name, str(card.dim), _geometry(card), f"{card.mpp:g}", card.pooling, card.licence,
            "yes" if card.gated else "no", card.verified, "yes" if _is_here(card) else "no",
        )
        for card in cards
    ]  # fmt: skip
    _print_columns(lines)
    print("\nSlide encoders, for `pathotune encode-slides` (docs/slide_encoders.md):")
    slide_header = ("name", "dim", "features of", "licence", "gated", "verified", "here")
    _print_columns([slide_header] + [
        (
            card.name, str(card.dim), card.tile_encoder, card.licence, "yes" if card.gated else "no", card.verified,
            "yes" if _is_here(card) else "no",
        )
        for card in published().values()
    ])  # fmt: skip
    print(
        "\nAlso: stain-texture, timm:NAME, hf-hub:ORG/NAME, local:PATH. here: in this machine's cache. "
        "verified: see docs/encoders.md. Licences are read from the publishers' pages; theirs is the last word."
    )
    return 0


def _print_columns(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _geometry(card: CatalogueCard) -> str:
    """The tile's side, what it is resized to, and what is cut out of it: "256", "256 to 224", "256 cut 224"."""
    resized = card.resize_px or card.input_px
    text = str(card.tile_px) if resized == card.tile_px else f"{card.tile_px} to {resized}"
    return text if resized == card.input_px else f"{text} cut {card.input_px}"


def _is_here(card: CatalogueCard | PublishedCard) -> bool:
    from pathotune_pipeline.encoders.hub import cached_file

    return card.hub is not None and cached_file(card.hub, card.weight_files) is not None


def _facts(card: CatalogueCard | PublishedCard) -> dict[str, Any]:
    return {**card.model_dump(mode="json"), "cached": _is_here(card)}


def _show(card: CatalogueCard | PublishedCard, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(_facts(card), indent=1))
        return 0
    facts = _facts(card)
    print(f"{facts.pop('name')}: {facts.pop('about')}")
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            lines = value if isinstance(value, list) and isinstance(value[0], str) else [_plain(value)]
            for position, line in enumerate(lines):
                print(f"  {name if position == 0 else '':<20}{line}")
    return 0


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _fetch(cards: list[CatalogueCard], to: Path) -> int:
    from pathotune_pipeline.encoders.bundle import write_bundle

    for card in cards:
        folder = write_bundle(card, to)
        print(f"{card.name}: {folder} (use --encoder local:{folder})", flush=True)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.encoders.card import EncoderSpec
    from pathotune_pipeline.encoders.check import check_reference, check_transform, write_reference
    from pathotune_pipeline.encoders.create import create_encoder
    from pathotune_pipeline.engine.device import pick_device
    from pathotune_pipeline.errors import UsageError

    for path in (arguments.reference, arguments.write_reference):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: its folder is not there. Make it, or name another.")
    spec = EncoderSpec(name=arguments.name, weights=arguments.weights, batch_size=8)
    encoder = create_encoder(spec, device=pick_device(arguments.device))
    verdicts = [check_transform(encoder)] if encoder.card.mean is not None else []
    if arguments.reference is not None:
        verdicts.append(check_reference(encoder, arguments.reference))
    if arguments.write_reference is not None:
        write_reference(encoder, arguments.write_reference)
    passed = all(verdict.passed for verdict in verdicts)
    if arguments.json:
        found = [{"against": v.against, "cosine": v.cosine, "passed": v.passed} for v in verdicts]
        print(
            json.dumps({"card": encoder.card.model_dump(mode="json"), "comparisons": found, "passed": passed}, indent=1)
        )
    else:
        _tell(encoder.card, verdicts, passed=passed)
    return 0 if passed else FAILED


def _tell(card: Any, verdicts: list[Verdict], *, passed: bool) -> None:
    print(f"weights    fit, strictly; SHA-256 of the parameters {(card.weights_sha256 or 'none')[:12]}")
    for verdict in verdicts:
        print(
            f"{'same' if verdict.passed else 'DIFFERENT':<10} as by {verdict.against}: least cosine {verdict.cosine:.6f}"
        )
    print(f"{card.name}: {'passed' if passed else 'FAILED'}")
