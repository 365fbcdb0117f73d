"""Where other tools put their files: one Piece for each slide's features, with what lies elsewhere beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.exchange.geometry import Tool

TRIDENT_FEATURES = ("features_", "patch_features_")
"""How TRIDENT's folders of patch features begin, now and formerly."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The files of one slide.

    Attributes:
        name: the slide's, as the tool has it; of files in nested folders with the folders.
        features: the file with features.
        coords: the file with places, where they are of their own.
        contours: GeoJSON of tissue.
        thumbnail: JPEG of the whole slide.
    """

    name: str
    features: Path
    coords: Path | None = None
    contours: Path | None = None
    thumbnail: Path | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What was found.

    Attributes:
        folder: of the feature files.
        pieces: in the order of the names.
        encoder: where the folder's name says it.
    """

    folder: Path
    pieces: tuple[Piece, ...]
    encoder: str | None = None


def find_source(tool: Tool, source: Path, *, encoder: str | None = None, coords: Path | None = None) -> Source:
    """Look for a tool's files.

    Args:
        tool: whose.
        source: TRIDENT: the job directory, a `20x_...` folder in it, or one of features. CLAM: the folder that holds
            `h5_files`. STAMP: a folder of feature files, searched with its folders.
        encoder: which of several.
        coords: TRIDENT: the `20x_...` folder, or its name, where there are several. CLAM: the folder of patch files
            (or the one above it), where it is not beside the features.

    Raises:
        UsageError: there is no such folder, nothing in it, or more than one thing that could be meant.
    """
    if not source.is_dir():
        found = "a file" if source.exists() else "nothing"
        raise UsageError(f"--source {source}: a folder is needed, {found} was found. Check the path.")
    looked = {"trident": _trident, "clam": _clam, "stamp": _stamp}[tool](source, encoder, coords)
    if not looked.pieces:
        raise UsageError(f"--source {source}: no .h5 file was found in {looked.folder.name}. Check the folder.")
    return looked


def _trident(source: Path, encoder: str | None, coords: Path | None) -> Source:
    folder = _one_folder(source, encoder, coords)
    named = next((folder.name[len(start) :] for start in TRIDENT_FEATURES if folder.name.startswith(start)), None)
    patches, job = folder.parent / "patches", folder.parent.parent
    pieces = []
    for path in _h5_files(folder):
        stem = path.stem
        if folder.name == "patches":
            stem = stem.removesuffix("_patches")
        pieces.append(
            Piece(
                name=stem,
                features=path,
                coords=_if_file(patches / f"{stem}_patches.h5"),
                contours=_if_file(job / "contours_geojson" / f"{stem}.geojson"),
                thumbnail=_if_file(job / "thumbnails" / f"{stem}.jpg"),
            )
        )
    return Source(folder, tuple(pieces), named)


def _one_folder(source: Path, encoder: str | None, coords: Path | None) -> Path:
    if _h5_files(source):
        return source
    inside = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    if coords is not None:
        inside = [path for path in inside if coords in (path, Path(path.name)) or coords.resolve() == path.resolve()]
    folders = [
        path
        for above in inside
        for path in sorted(above.iterdir())
        if path.is_dir() and path.name.startswith(TRIDENT_FEATURES)
    ]
    known = sorted({_encoder_of(path) for path in folders})
    if encoder is not None:
        folders = [path for path in folders if _encoder_of(path) == encoder] or folders[: len(folders) == 1]
    if len(folders) == 1:
        return folders[0]
    if not folders:
        listed = f" Encoders found: {', '.join(known)}." if known else ""
        raise UsageError(
            f"--source {source}: no folder {TRIDENT_FEATURES[0]}<encoder> with .h5 files was found there.{listed} Give "
            "TRIDENT's job directory."
        )
    shown = ", ".join(str(path.relative_to(source)) for path in folders[:6])
    raise UsageError(
        f"--source {source}: {len(folders)} folders of features could be meant: {shown}. Say which with --encoder, with "
        "--coords, or by giving the folder itself."
    )


def _encoder_of(folder: Path) -> str:
    return folder.name.removeprefix("patch_").removeprefix("features_")


def _clam(source: Path, encoder: str | None, coords: Path | None) -> Source:
    folder = source / "h5_files" if (source / "h5_files").is_dir() else source
    if coords is not None and not coords.is_dir():
        raise UsageError(f"--coords {coords}: there is no such folder. Check the path.")
    near = (
        [coords, coords / "patches"]
        if coords
        else [source, source / "patches", folder.parent / "patches", source.parent / "patches"]
    )
    pieces = []
    for path in _h5_files(folder):
        places = (each / path.name for each in near if each != folder)
        pieces.append(Piece(path.stem, path, coords=next((each for each in places if each.is_file()), None)))
    return Source(folder, tuple(pieces))


def _stamp(source: Path, encoder: str | None, coords: Path | None) -> Source:
    files = sorted(path for path in source.rglob("*.h5") if path.is_file() and not path.name.startswith("."))
    pieces = tuple(Piece(path.relative_to(source).with_suffix("").as_posix(), path) for path in files)
    return Source(source, pieces)


def _h5_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.h5") if path.is_file() and not path.name.startswith("."))


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None
