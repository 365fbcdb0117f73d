"""Who a slide is: its id (a name), its content hash (what fingerprints begin with), and its pseudonym.

An id is the percent-encoded, NFC-normalised path relative to the archive's root, so it holds no separator and is
the same on every mount. A content hash is the SHA-256 of the file, as `sha256sum` prints it; of a slide of several
files, the SHA-256 of the sorted lines "<sha256>  <name relative to the slide's folder>", each ended by a newline.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from pathotune_pipeline.archive.series import series_of
from pathotune_pipeline.errors import SlideNotFoundError, UsageError

MAX_KEY = 180
"""Longest name of a slide's group or record in bytes; a longer id is cut and completed by its hash."""
MIN_KEY_BYTES = 16


def encode_id(text: str) -> str:
    """Percent-encode a name: what remains is safe as a file and group name."""
    encoded = quote(unicodedata.normalize("NFC", text), safe=" ()+,=")
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded


def decode_id(slide_id: str) -> str:
    """The name an id was made from."""
    return unquote(slide_id)


def slide_id_of(path: Path, root: Path) -> str:
    """The id of a slide at `path` in the archive at `root`."""
    relative = PurePosixPath(os.path.relpath(path, root).replace(os.sep, "/"))
    return encode_id(str(relative))


def key_of(slide_id: str) -> str:
    """The slide's name inside the store: its id, or where that is too long for a file name, a cut one with its hash."""
    if len(slide_id) <= MAX_KEY:
        return slide_id
    return f"{slide_id[: MAX_KEY - 20]}~{hashlib.sha256(slide_id.encode()).hexdigest()[:16]}"


class Pseudonymiser:
    """Replaces names by a keyed hash: the same name and key give the same pseudonym, and none leads back."""

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise UsageError(
                f"The pseudonym key has {len(key)} bytes; at least {MIN_KEY_BYTES} are needed. "
                "Make one with: head -c 32 /dev/urandom | base64 > pseudonym.key"
            )
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Pseudonymiser:
        """Read the key: the file's bytes without white space at its ends.

        Raises:
            UsageError: the file is absent or its key too short.
        """
        try:
            return cls(path.read_bytes().strip())
        except OSError as error:
            raise UsageError(
                f"Cannot read the pseudonym key file: {error.strerror or error}. Check the path."
            ) from None

    def slide(self, slide_id: str) -> str:
        return "s-" + self._digest("slide", slide_id)

    def case(self, case_id: str) -> str:
        return "c-" + self._digest("case", case_id)

    def cache_key(self, text: str) -> str:
        return self._digest("cache", text)

    def _digest(self, kind: str, text: str) -> str:
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:24]


def companion_files(path: Path) -> list[Path]:
    """Every file that belongs to the slide, itself first.

    MIRAX keeps its data in a folder of the same stem; Hamamatsu VMS/VMU beside the index file; a DICOM series as
    several files of one folder.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        return [path, *sorted(file for file in folder.rglob("*") if file.is_file())]
    if suffix in {".vms", ".vmu"}:
        return [path, *sorted(file for file in path.parent.iterdir() if file.is_file() and file != path)]
    series = series_of(path)
    return [path, *(file for file in series.files if file != path)] if series else [path]


def content_hash(path: Path) -> str:
    """The slide's identity: 64 hexadecimal digits.

    Raises:
        SlideNotFoundError: the file is not there.
        OSError: the disk does not answer; trying again may help.
    """
    files = companion_files(path)
    try:
        if len(files) == 1:
            return _hash_file(path)
        lines = sorted(f"{_hash_file(file)}  {file.relative_to(path.parent).as_posix()}\n" for file in files)
    except FileNotFoundError:
        raise SlideNotFoundError("the file is not there. Check the path, and that the archive is mounted.") from None
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class IdentityCache:
    """Content hashes by path, size and time of change, so that a nightly look at the archive reads no pixels.

    The file holds hashes of paths, never paths. Losing it costs reading the files once more.
    """

    def __init__(self, file: Path, pseudonymiser: Pseudonymiser | None = None) -> None:
        self._file = file
        self._pseudonymiser = pseudonymiser
        self._known = self._load()
        self._new: dict[str, str] = {}

    def _load(self) -> dict[str, str]:
        try:
            loaded = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _key(self, path: Path) -> str | None:
        try:
            parts = [(str(file.absolute()), file.stat()) for file in companion_files(path)]
        except OSError:
            return None
        text = "\n".join(f"{name}|{stat.st_size}|{stat.st_mtime_ns}" for name, stat in parts)
        if self._pseudonymiser:
            return self._pseudonymiser.cache_key(text)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def get(self, path: Path) -> str | None:
        """The known content hash of this path as it is now, or None."""
        key = self._key(path)
        return None if key is None else self._known.get(key, self._new.get(key))

    def put(self, path: Path, identity: str) -> None:
        key = self._key(path)
        if key is not None:
            self._new[key] = identity

    def save(self) -> None:
        """Merge what is new into the file, replacing it whole."""
        if not self._new:
            return
        merged = {**self._load(), **self._new}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(merged))
        temporary.replace(self._file)
        self._known, self._new = merged, {}


def redact(text: str, path: Path, slide_id: str, private: Iterable[str] = ()) -> str:
    """Replace every trace of a slide's path in a message by the slide's id.

    Args:
        text: a message that may come from a library.
        path: the slide's path.
        slide_id: what stands in its place.
        private: further strings to replace, such as names of folders above it.
    """
    folders = {str(path.absolute().parent), str(path.parent)} - {".", "/"}
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    names = {str(path), str(path.absolute()), path.name, path.stem, quote(path.name), quote(path.stem), *private}
    for name in sorted((name for name in names if name), key=len, reverse=True):
        if len(name) > 2:
            text = text.replace(name, slide_id)
        else:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", slide_id, text)
    return text
