"""The Hugging Face hub: files from it or from its cache, and one clear error where there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pathotune_pipeline.errors import WeightsError

HINT = "Fetch it once on a machine with internet, or give a copy as local:PATH (config.json and model.safetensors)."


@contextmanager
def hub_errors(asked: str, page: str, hint: str = HINT) -> Iterator[None]:
    """Turn the hub's errors into WeightsErrors that say where to ask and how to do without the hub.

    Args:
        asked: what the user asked for.
        page: where access is asked for.
        hint: what to do instead.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise WeightsError(
            f"{asked}: its weights are gated. Ask for access on the page of {page}, then log in with `hf auth login`. {hint}"
        ) from None
    except RepositoryNotFoundError:
        raise WeightsError(
            f"{asked}: the hub knows no such repository, or it is private ({page}). Check the name, or log in. {hint}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{asked}: its weights are not in the local cache and could not be fetched ({first}). {hint}"
        ) from error


def split_revision(repository: str) -> tuple[str, str | None]:
    """`ORG/NAME@REVISION` to its two parts; None where no revision is named."""
    name, _, revision = repository.partition("@")
    return name, revision or None


def cached_file(repository: str, names: Sequence[str]) -> Path | None:
    """The first of some files that the hub's cache holds already, or None. Asks nobody."""
    from huggingface_hub import constants, try_to_load_from_cache

    repository, revision = split_revision(repository)
    for name in names:
        found = try_to_load_from_cache(repository, name, cache_dir=constants.HF_HUB_CACHE, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def hub_file(repository: str, names: Sequence[str]) -> Path:
    """The first of some files that a repository has: from the cache where it lies there, else downloaded, resumably.

    Raises:
        EntryNotFoundError: the repository has none of them.
        OSError: the hub is out of reach, or says no; see `hub_errors`.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    found = cached_file(repository, names)
    if found is not None:
        return found
    repository, revision = split_revision(repository)
    for position, name in enumerate(names):
        try:
            return Path(hf_hub_download(repository, name, cache_dir=constants.HF_HUB_CACHE, revision=revision))
        except LocalEntryNotFoundError:  # out of reach: the other names would be, too
            raise
        except EntryNotFoundError:
            if position == len(names) - 1:
                raise
    raise ValueError("no file was asked for")
