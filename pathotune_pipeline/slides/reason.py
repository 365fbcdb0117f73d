"""Reasons why a file could not be read, without the places and names that must not be told."""

from __future__ import annotations

import re
from pathlib import Path

_ABSOLUTE = re.compile(r"(?:[A-Za-z]:\\|/)[^\s'\"<>|:;,]*[\\/][^\s'\"<>|:;,]*")
_NEIGHBOUR = r"[\\/](?:[^'\"<>|:;,\\/]*?\.\w{2,5}\b|[^\s'\"<>|:;,]*)"
LONGEST = 200


def reason_of(error: BaseException, path: Path) -> str:
    """One line of an error's text with the slide's path, folder and name taken out.

    Slide files are often named by patients, and libraries put the file's name into their messages.

    Args:
        error: what a library raised.
        path: the slide's file.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    whole = {str(path), str(path.absolute()), str(path.resolve()), path.as_posix()}
    text = _without(text, whole, "", "the file")
    folder = path.absolute().parent
    text = _without(text, {str(folder), str(folder.resolve())}, _NEIGHBOUR, "a file beside it")
    names = {str(Path(place).with_suffix("")) for place in whole} | {str(folder), path.name}
    if len(path.stem) >= 4:
        names.add(path.stem)
    text = _without(text, names, "", "the file")
    return _ABSOLUTE.sub("the file", text)[:LONGEST]


def _without(text: str, places: set[str], beyond: str, name: str) -> str:
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = re.sub(re.escape(place) + beyond, name, text)
    return text
