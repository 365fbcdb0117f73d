"""Reasons why a file could not be read, without the places and names that must not be told."""

from __future__ import annotations

import re
from pathlib import Path

_ABSOLUTE = re.compile(r"(?:[A-Za-z]:\\|/)[^\s'\"<>|:;,]*[\\/][^\s'\"<>|:;,]*")
LONGEST = 200


def reason_of(error: BaseException, path: Path) -> str:
    """One line of an error's text with the slide's path, folder and name taken out.

    Slide files are often named by patients, and libraries put the file's name into their messages.

    Args:
        error: what a library raised.
        path: the slide's file.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    hidden = {str(path), str(path.absolute()), str(path.resolve()), path.as_posix()}
    hidden |= {str(Path(place).with_suffix("")) for place in tuple(hidden)}
    hidden |= {str(path.absolute().parent), path.name}
    if len(path.stem) >= 4:
        hidden.add(path.stem)
    for place in sorted(hidden, key=len, reverse=True):
        if len(place) > 1:
            text = text.replace(place, "the file")
    return _ABSOLUTE.sub("the file", text)[:LONGEST]
