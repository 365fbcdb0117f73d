"""Names to objects, loaded when first asked for; outsiders add theirs through entry points.

Five registries exist: slide readers, encoders, text encoders, slide encoders, heads. An outside package adds to one with, say,

    [project.entry-points."pathotune_pipeline.heads"]
    my-head = "my_package.heads:MyHead"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pathotune_pipeline.errors import UnknownNameError

T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str:
    """' Did you mean X?' for the closest of `names`, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class Registry(Generic[T]):
    """Built-in names with their `module:attribute`, and those of installed entry points."""

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._targets: dict[str, str] = dict(builtin)
        self._loaded: dict[str, T] = {}
        self._scanned = False

    def _scan(self) -> None:
        if not self._scanned:
            for point in entry_points(group=self.group):
                self._targets.setdefault(point.name, point.value)
            self._scanned = True

    def names(self) -> list[str]:
        """Every known name, built-in ones first."""
        self._scan()
        return list(dict.fromkeys([*self._targets, *self._loaded]))

    def add(self, name: str, thing: T) -> None:
        """Add an object under a name for this process.

        Raises:
            UnknownNameError: the name is taken.
        """
        if name in self.names():
            raise UnknownNameError(f"The {self.kind} name {name!r} is taken. Choose another.")
        self._loaded[name] = thing

    def get(self, name: str) -> T:
        """The object of that name.

        Raises:
            UnknownNameError: no such name; the message lists the known ones.
        """
        if name in self._loaded:
            return self._loaded[name]
        self._scan()
        if name not in self._targets:
            known = ", ".join(self.names())
            raise UnknownNameError(f"No {self.kind} is called {name!r}. Known: {known}.{nearest(name, self.names())}")
        module, _, attribute = self._targets[name].partition(":")
        thing: Any = getattr(import_module(module), attribute)
        self._loaded[name] = thing
        return self._loaded[name]
