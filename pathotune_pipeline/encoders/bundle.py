"""Bundles: a folder with a card, its weights and their SHA-256, for machines without internet.

    DIR/uni/card.json            the catalogue card, and each file's size and SHA-256; written last
            model.safetensors    as its publisher serves it
            config.json          where the repository has one

`--encoder local:DIR/uni` and `--encoder uni --weights DIR/uni` take it, and make the same features as `--encoder uni`.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.encoders.catalogue import CatalogueCard
from pathotune_pipeline.encoders.checkpoint import file_sha256
from pathotune_pipeline.encoders.hub import cached_file, hub_errors, hub_file
from pathotune_pipeline.errors import SpecError, WeightsError

CARD_FILE = "card.json"
FORMAT = 1
_BESIDES = ("config.json",)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read.

    Attributes:
        card: of the encoder.
        weights: the file with its weights.
        sha256: of that file, as the bundle's card says.
    """

    card: CatalogueCard
    weights: Path
    sha256: str


def is_bundle(folder: Path) -> bool:
    return (folder / CARD_FILE).is_file()


def read_bundle(folder: Path, asked: str) -> Bundle:
    """A bundle's card, with its weights held against their SHA-256.

    Raises:
        WeightsError: its card cannot be read, or a file is absent, cut short or another than was written.
    """
    try:
        content = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        card = CatalogueCard.parse(content["card"], f"{asked}: {CARD_FILE}")
        name, facts = str(content["weights"]), content["files"][content["weights"]]
        size, sha256 = int(facts["bytes"]), str(facts["sha256"])
    except SpecError as error:
        raise WeightsError(f"{error}. The bundle is of another version; fetch it anew.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{asked}: its {CARD_FILE} cannot be read ({error!r}). Fetch the bundle anew.") from None
    weights = folder / Path(name).name
    if not _is_whole(weights, size, sha256):
        raise WeightsError(
            f"{asked}: {weights.name} is absent or differs from what the bundle was written with. Copy or fetch it anew."
        )
    return Bundle(card, weights, sha256)


def write_bundle(card: CatalogueCard, to: Path) -> Path:
    """Fetch an encoder's files and lay them, checked, into `to`/<name>. What lies there whole is not fetched again.

    Raises:
        WeightsError: the weights are gated, absent or out of reach, or lie where no program can fetch them.
    """
    folder = to / card.name
    if is_bundle(folder):
        try:
            if read_bundle(folder, card.name).card == card:
                return folder
        except WeightsError:
            (folder / CARD_FILE).unlink()  # torn: its files are compared one by one below
    if card.hub is None:
        raise WeightsError(f"{card.name}: no program can fetch its weights. {how_to_get(card)}")
    with hub_errors(card.name, card.page, hint=how_to_get(card)):
        weights = hub_file(card.hub, card.weight_files)
        besides = [path for name in _BESIDES if (path := cached_file(card.hub, [name]) or _optional(card.hub, name))]
    folder.mkdir(parents=True, exist_ok=True)
    files = {path.name: _bring(path, folder / path.name) for path in (weights, *besides)}
    content = {"format": FORMAT, "card": card.model_dump(mode="json"), "weights": weights.name, "files": files}
    _write(folder / CARD_FILE, json.dumps(content, indent=1) + "\n")
    return folder


def how_to_get(card: CatalogueCard) -> str:
    """One sentence: where a person gets the weights, and how they are then used."""
    ask = f"Ask for access at {card.page}, log in with `hf auth login`" if card.gated else f"See {card.page}"
    return (
        f"{ask}; or get the file elsewhere and give it with --weights PATH; for machines without internet: "
        f"`pathotune encoders fetch {card.name} --to DIR`, then --encoder local:DIR/{card.name}."
    )


def _optional(repository: str, name: str) -> Path | None:
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

    try:
        return hub_file(repository, [name])
    except (EntryNotFoundError, OfflineModeIsEnabled):
        return None


def _bring(source: Path, target: Path) -> dict[str, Any]:
    """Copy a file and hold the copy against the original; a whole copy is left as it is."""
    size, sha256 = source.stat().st_size, file_sha256(source)
    # In the hub's cache a large file is a link to a blob that bears its SHA-256: so a torn download shows.
    blob = source.resolve().name
    if len(blob) == 64 and blob != sha256:
        raise WeightsError(
            f"{target.name}: the copy in the hub's cache is damaged. Delete {blob[:12]}... there and fetch again."
        )
    if not _is_whole(target, size, sha256):
        part = target.with_name(target.name + ".part")
        shutil.copyfile(source, part)
        if not _is_whole(part, size, sha256):
            raise WeightsError(
                f"{target.name}: what was written differs from what was read. Check the disk and fetch again."
            )
        _settle(part, target)
    return {"bytes": size, "sha256": sha256}


def _is_whole(path: Path, size: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == size and file_sha256(path) == sha256


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    _settle(part, path)


def _settle(part: Path, target: Path) -> None:
    """Flush a finished file and give it its name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
