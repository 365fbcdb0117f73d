"""The adapter of a model's features, kept in the model's folder so that the folder is enough to predict."""

from __future__ import annotations

from pathlib import Path

from pathotune_pipeline.adapt.create import find_adapter
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.models.recipe import FeatureRecipe

ADAPTER = "adapter.safetensors"


def check_adapter(given: str, features: FeatureRecipe) -> Path:
    """The file that a user names as the one that features were made with.

    Args:
        given: FILE or FILE#N, as `extract --adapter` takes it.
        features: how they were made.

    Raises:
        UsageError: they were made without an adapter or with another one; or it is none.
        CorruptDataError: the file is damaged.
    """
    told = features.encoder.get("adapter")
    if not told:
        raise UsageError(f"--adapter {given}: {features.name} was made without an adapter. Leave it out.")
    text = (told.get("recipe") or {}).get("text")
    plain = Path(given).expanduser().is_file()
    found = find_adapter(f"{given}#{text}" if plain and text is not None else given)
    if found.card.sha256 != told["sha256"]:
        raise UsageError(
            f"--adapter {given}: {features.name} was made with adapter {told['name']}, SHA-256 {told['sha256'][:12]}, and this "
            f"one has {found.card.sha256[:12]}. Give the file that extract was given."
        )
    if text is not None and found.text != text:
        raise UsageError(
            f"--adapter {given}: {features.name} was made with the adapter's text {text}. Give FILE, or FILE#{text}."
        )
    return found.path


def keep_adapter(file: Path, folder: Path) -> None:
    """Copy an adapter into a model's folder."""
    write_atomically(folder / ADAPTER, file.read_bytes())


def kept_adapter(folder: Path, features: FeatureRecipe) -> str | None:
    """The adapter in a model's folder, as `extract --adapter` takes it; None where it has none.

    Raises:
        CorruptDataError: it is not that of the model's features.
    """
    told = features.encoder.get("adapter")
    if not told or not (folder / ADAPTER).exists():
        return None
    text = (told.get("recipe") or {}).get("text")
    given = str(folder / ADAPTER) if text is None else f"{folder / ADAPTER}#{text}"
    try:
        check_adapter(given, features)
    except UsageError as error:
        raise CorruptDataError(
            f"--model {folder}: its {ADAPTER} is not its own. Copy the folder again. ({error})"
        ) from None
    return given
