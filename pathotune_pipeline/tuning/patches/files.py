"""The files that a table or JSON of patches names."""

from __future__ import annotations

from pathlib import Path

from pathotune_pipeline.archive.lookup import SlideLookup


class NamedFiles:
    """Files below a folder by the names that a source gives them."""

    def __init__(self, root: Path) -> None:
        self._root, self._lookup = root, SlideLookup(root)
        self._known: dict[str, Path] = {}

    def find(self, name: str, where: str, *, slide: bool) -> Path:
        """The file of that name, whether it is there or not.

        Args:
            name: a path, absolute or below the folder.
            where: the source and line, for messages.
            slide: whether it is a slide: its name may then lack its ending or its folder.

        Raises:
            ManifestError: it fits several slides.
        """
        if name not in self._known:
            path = self._root / name
            if slide and not path.exists() and self._root.is_dir():
                path = self._lookup.find(name, where) or path
            self._known[name] = path
        return self._known[name]
