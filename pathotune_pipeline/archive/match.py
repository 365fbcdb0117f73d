"""Files that go with slides by their names: annotations, corrected masks."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pathotune_pipeline.archive.identity import decode_id, key_of
from pathotune_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Match:
    """The file that goes with a slide.

    Attributes:
        path: the file; None where there is none, or no single one.
        problem: why there is no single one; empty where the file was found, or none is there.
    """

    path: Path | None = field(default=None, repr=False)
    problem: str = ""


def match_files(
    folder: Path, slides: Mapping[str, Path | None], suffixes: Collection[str], *, flag: str
) -> dict[str, Match]:
    """Find each slide's file in a folder.

    A file is named after the slide's id, its path in the archive (in the same folders), or its file name; each with or
    without the slide's own suffix, the longer name before the shorter.

    Args:
        folder: searched with its folders.
        slides: path of each slide where it is known, by slide id.
        suffixes: that the files may have, lower case, with their dots.
        flag: what the user calls the folder, for messages.

    Returns:
        A match for every slide; of two files for one slide, or one file for two, a problem.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{flag} {folder}: there is no such folder. Check the path.")
    files = _listed(folder, suffixes)
    found = {slide_id: _find(files, slide_id, path) for slide_id, path in slides.items()}
    takers: dict[Path, int] = {}
    for match in found.values():
        if match.path is not None:
            takers[match.path] = takers.get(match.path, 0) + 1
    return {slide_id: _alone(match, takers) for slide_id, match in found.items()}


def _alone(match: Match, takers: Mapping[Path, int]) -> Match:
    if match.path is None or takers[match.path] == 1:
        return match
    return Match(
        problem=f"one {match.path.suffix} file fits {takers[match.path]} slides of that name. Name files after slide ids."
    )


def _listed(folder: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith("."):
            name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            files.setdefault(name, []).append(path)
    return files


def _find(files: Mapping[str, list[Path]], slide_id: str, path: Path | None) -> Match:
    for names in _names(slide_id, path):
        fitting = [file for name in dict.fromkeys(names) for file in files.get(name, ())]
        if len(fitting) == 1:
            return Match(fitting[0])
        if fitting:
            listed = ", ".join(file.name for file in fitting)
            return Match(problem=f"{len(fitting)} files fit it: {listed}. Keep one.")
    return Match()


def _names(slide_id: str, path: Path | None) -> Iterable[list[str]]:
    """Names that a slide's file may have: whole ones, then those without the slide's suffix, then without `.ome` before it."""
    inner = decode_id(slide_id)
    whole = [slide_id, key_of(slide_id), inner, PurePosixPath(inner).name]
    if path is not None:
        whole.append(unicodedata.normalize("NFC", path.name))
    yield whole
    bare = [str(PurePosixPath(name).with_suffix("")) for name in whole if PurePosixPath(name).name]
    yield bare
    yield [name[: -len(".ome")] for name in bare if name.lower().endswith(".ome")]
