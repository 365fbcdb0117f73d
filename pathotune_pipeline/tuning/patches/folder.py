"""Patches as folders: root/class/image, or root/split/class/image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.tuning.patches.ref import Listing, PatchRef, known_split

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def list_folder(root: Path) -> Listing:
    """The images below class folders.

    The first folders are splits where each has a split's name (train, val, test, valid, ...), else classes. Images may
    lie in folders of their own within a class. Hidden files are passed over; so are other kinds of file, which are told.

    Args:
        root: the folder.

    Raises:
        ManifestError: there is no class folder, or no image in one.
    """
    where = root.name or str(root)
    folders = _folders(root)
    if not folders:
        raise ManifestError(
            f"{where}: there are no class folders. Put each class's images in a folder of its name, or give a CSV."
        )
    by_split = all(known_split(folder.name) for folder in folders) and all(_folders(folder) for folder in folders)
    refs: list[PatchRef] = []
    other: Counter[str] = Counter()
    for folder in folders:
        split = known_split(folder.name) or "" if by_split else ""
        for owner in _folders(folder) if by_split else [folder]:
            images = _images(owner, other)
            if not images:
                raise ManifestError(
                    f"{where}: class folder {owner.relative_to(root).as_posix()!r} holds no image "
                    f"({', '.join(SUFFIXES)}). Remove it, or look at where the images are."
                )
            names = [path.relative_to(root).as_posix() for path in images]
            refs += [PatchRef(name, path, owner.name, split=split) for name, path in zip(names, images, strict=True)]
    passed = ", ".join(f"{count} {suffix or 'without ending'}" for suffix, count in sorted(other.items()))
    return Listing(tuple(refs), where, (f"Passed over files that are no images: {passed}.",) if passed else ())


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(owner: Path, other: Counter[str]) -> list[Path]:
    found = []
    for path in sorted(owner.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(owner).parts):
            continue
        if path.suffix.lower() in SUFFIXES:
            found.append(path)
        else:
            other[path.suffix.lower()] += 1
    return found
