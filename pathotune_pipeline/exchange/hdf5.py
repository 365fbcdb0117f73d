"""HDF5 as the tools of this field write it: datasets with attributes, read whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pathotune_pipeline.errors import ForeignFileError, MissingExtraError
from pathotune_pipeline.slides.reason import reason_of

FEATURE_NAMES = ("features", "feats")
SMALL_BYTES = 64 << 20
"""A dataset up to this size may be packed as tightly as its maker liked."""
MOST_INFLATED = 100
"""A larger one may be so many times as large as it lies in the file; true features are noise to a packer."""
ROW_CHUNKS = 1
"""Rows in a chunk of the files TRIDENT writes."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset to write.

    Attributes:
        data: the array.
        attributes: written on the dataset, in this order.
        chunk_rows: rows in a chunk; its first side may grow without limit. None writes it in one piece.
    """

    data: np.ndarray
    attributes: Mapping[str, Any]
    chunk_rows: int | None = ROW_CHUNKS


@dataclass(frozen=True, slots=True)
class RawFile:
    """What a file of features or places holds, before its meaning is settled.

    Attributes:
        features: floating [N, D]; None where the file has none.
        coords: [N, 2], unit and type as in the file; None where the file has none.
        attributes: of file, features and coords together; a later one goes over an earlier.
        encoder: where the name of the dataset says it.
    """

    features: np.ndarray | None
    coords: np.ndarray | None
    attributes: dict[str, Any]
    encoder: str | None = None


def hdf5_library() -> ModuleType:
    """The h5py module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "interchange", "Exchanging features with other tools") from None
    module: ModuleType = h5py
    return module


def write_file(path: Path, datasets: Mapping[str, Dataset], attributes: Mapping[str, Any] | None = None) -> None:
    """Write a new file. The same input gives the same bytes.

    Args:
        path: where to; must not exist.
        datasets: by name, in the order in which they are written.
        attributes: of the file itself.
    """
    with hdf5_library().File(path, "x") as file:
        for name, each in datasets.items():
            layout: dict[str, Any] = {}
            if each.chunk_rows is not None:
                tail = each.data.shape[1:]
                layout = {"chunks": (each.chunk_rows, *tail), "maxshape": (None, *tail)}
            made = file.create_dataset(name, data=each.data, **layout)
            for key, value in each.attributes.items():
                made.attrs[key] = value
        for key, value in (attributes or {}).items():
            file.attrs[key] = value


def read_file(path: Path, encoder: str | None = None) -> RawFile:
    """Read whatever a tool of this field wrote: `features`, `feats` or `features/<encoder>`, and `coords`.

    Args:
        path: the file.
        encoder: which dataset of the group `features`, where there are several.

    Raises:
        ForeignFileError: it is no HDF5, is damaged, or holds neither features nor places.
    """
    library = hdf5_library()
    try:
        with library.File(path, "r", locking=False) as file:
            attributes = dict(file.attrs)
            node, named = _features_node(file, library, encoder)
            features = coords = None
            if node is not None:
                attributes |= dict(node.attrs)
                features = _feature_rows(_values(node))
            if "coords" in file:
                places = _inside(file, "coords", library)
                attributes |= dict(places.attrs)
                coords = _coord_rows(_values(places))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ForeignFileError(
            f"its HDF5 file cannot be read ({reason_of(error, path)}). Copy or make it again."
        ) from None
    if features is None and coords is None:
        raise ForeignFileError("its HDF5 file holds neither features nor coords. Is it another kind of file?")
    if features is not None and coords is not None and len(features) != len(coords):
        raise ForeignFileError(f"its file holds {len(features)} rows of features and {len(coords)} of coords.")
    return RawFile(features, coords, {key: _plain(value) for key, value in attributes.items()}, named)


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a file, its features and its coords together; no data are read.

    Where features lie in a group by encoders, the only one's name stands as `encoder`.

    Raises:
        ForeignFileError: it is no HDF5, or is damaged.
    """
    library = hdf5_library()
    try:
        with library.File(path, "r", locking=False) as file:
            found = dict(file.attrs)
            for name in (*FEATURE_NAMES, "coords"):
                if name not in file:
                    continue
                node = _inside(file, name, library)
                if isinstance(node, library.Group) and len(node) == 1:
                    found["encoder"] = next(iter(node))
                else:
                    found |= dict(node.attrs)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ForeignFileError(
            f"its HDF5 file cannot be read ({reason_of(error, path)}). Copy or make it again."
        ) from None
    return {key: _plain(value) for key, value in found.items()}


def _features_node(file: Any, library: ModuleType, encoder: str | None) -> tuple[Any, str | None]:
    for name in FEATURE_NAMES:
        if name not in file:
            continue
        node = _inside(file, name, library)
        if isinstance(node, library.Dataset):
            return node, None
        known = sorted(node)
        chosen = encoder if encoder in known else known[0] if len(known) == 1 and encoder is None else None
        if chosen is None:
            asked = f"--encoder {encoder}" if encoder else "no --encoder"
            raise ForeignFileError(f"its file holds features of {', '.join(known) or 'no encoder'}; {asked} was given.")
        return _inside(node, chosen, library), chosen
    return None, None


def _inside(group: Any, name: str, library: ModuleType) -> Any:
    """What stands under a name, if it stands in this file: a link may lead to any other file of the disk."""
    found = None if isinstance(group.get(name, getlink=True), library.ExternalLink) else group[name]
    if found is None or found.file.filename != group.file.filename:  # by way of a group that is such a link
        raise ForeignFileError(f"its {name} lies in another file, to which a link leads. Copy it into this one.")
    return found


def _values(node: Any) -> np.ndarray:
    """All values of a dataset whose bytes lie in this file, as many as the file's size makes believable."""
    if node.external or node.is_virtual:
        raise ForeignFileError(f"its {node.name[1:]} lie in other files, which are not read. Copy them into the file.")
    stored, claimed = node.id.get_storage_size(), node.size * node.dtype.itemsize
    if node.dtype.kind == "O":
        raise ForeignFileError(f"its {node.name[1:]} are objects; numbers are needed.")
    if claimed > max(SMALL_BYTES, MOST_INFLATED * stored):
        raise ForeignFileError(
            f"its {node.name[1:]} claim {claimed / 1e9:.1f} GB in {stored / 1e6:.1f} MB and are not unpacked. Make it again."
        )
    values: np.ndarray = node[()]
    return values


def _feature_rows(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim == 1 and not values.size:
        values = values.reshape(0, 0)  # an empty slide of an unknown encoder
    if values.ndim != 2:
        raise ForeignFileError(f"its features have the shape {values.shape}; one row a tile, [N, D], is needed.")
    if values.dtype.kind != "f":
        raise ForeignFileError(f"its features are {values.dtype}; floating numbers are needed.")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise ForeignFileError(f"{bad} of its {len(values)} tiles have features that are not finite. Make them again.")
    return values


def _coord_rows(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if not values.size:
        return np.zeros((0, 2), np.int64)
    if values.ndim != 2 or values.shape[1] not in (2, 5) or values.dtype.kind not in "iuf":
        raise ForeignFileError(
            f"its coords are {values.dtype} of the shape {values.shape}; [N, 2], or [N, 5] with width, height and level, "
            "is needed."
        )
    if not np.isfinite(values).all():
        raise ForeignFileError("its coords are not all finite. Make the file again.")
    if values.shape[1] == 5 and len(np.unique(values[:, 2:], axis=0)) > 1:
        raise ForeignFileError("its tiles differ in width, height or level; only tiles of one size can be imported.")
    return values[:, :2]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
