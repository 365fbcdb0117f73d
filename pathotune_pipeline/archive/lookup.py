"""Slides of a folder by the names that tables give them: id, path, file name, with the ending or without."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath

from pathotune_pipeline.archive.discover import discover
from pathotune_pipeline.archive.identity import decode_id
from pathotune_pipeline.errors import ManifestError


class SlideLookup:
    """The slides below a folder, found by name. The folder is looked at once, when the first name is asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kinds: tuple[dict[str, list[Path]], ...] | None = None

    def find(self, name: str, where: str) -> Path | None:
        """The slide of that name: an id or path goes before a path without ending, a file name, and a stem.

        Args:
            name: as the table writes it.
            where: the table and line, for messages.

        Raises:
            ManifestError: it fits several slides.
        """
        if self._kinds is None:
            self._kinds = self._look()
        for wanted in dict.fromkeys((_plain(name), _plain(decode_id(name)))):
            for kind in self._kinds:
                found = kind.get(wanted, [])
                if len(found) > 1:
                    shown = ", ".join(sorted(str(path.relative_to(self._root)) for path in found)[:3])
                    raise ManifestError(
                        f"{where}: {name!r} fits {len(found)} slides: {shown}. Add a path column, or name it by its path."
                    )
                if found:
                    return found[0]
        return None

    def _look(self) -> tuple[dict[str, list[Path]], ...]:
        kinds: tuple[dict[str, list[Path]], ...] = ({}, {}, {}, {})
        found = discover(self._root)
        for path in found.slides:
            own = PurePosixPath(_plain(decode_id(found.id_of(path, self._root))))
            place = PurePosixPath(_plain(path.relative_to(self._root).as_posix()))
            both = (own, place)
            names: tuple[set[str], ...] = (
                {str(name) for name in both},
                {str(name.with_suffix("")) for name in both},
                {name.name for name in both},
                {name.stem for name in both},
            )
            for kind, values in zip(kinds, names, strict=True):
                for value in values:
                    kind.setdefault(value, []).append(path)
        return kinds


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")
