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
import time
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import quote, unquote

from pathotune_pipeline.archive.companions import companion_files, state_of
from pathotune_pipeline.errors import SlideNotFoundError, UsageError

MAX_KEY = 180
"""Longest name of a slide's group or record in bytes; a longer id is cut and completed by its hash."""
MIN_KEY_BYTES = 16
SAVE_EVERY_S = 30.0
"""How often the cache of content hashes is saved while it grows."""


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


def is_id(text: str) -> bool:
    """Whether a text is an id as `encode_id` makes them, and so may stand in names of files."""
    return bool(text) and encode_id(decode_id(text)) == text


def key_of(slide_id: str) -> str:
    """The slide's name inside the store: its id, or where that is too long for a file name, a cut one with its hash.

    Raises:
        UsageError: it is no id but a path, and would lead out of the store.
    """
    if "/" in slide_id or slide_id in ("", ".", ".."):
        raise UsageError(f"{slide_id!r} is no slide's id, but a path. Give the id, as `pathotune status` lists it.")
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
        return hmac.new(self._key, f"{kind}\0{text}".encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:24]


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
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class BytesFile(Protocol):
    """A file that is read and replaced whole; `read` gives None where it is absent."""

    def read(self) -> bytes | None: ...

    def replace(self, data: bytes) -> None: ...


class _PathFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None

    def replace(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        temporary.replace(self._path)


class IdentityCache:
    """Content hashes by path, size and time of change, so that a nightly look at the archive reads no pixels.

    The file holds hashes of paths, never paths. Losing it costs reading the slides once more; it is saved twice a
    minute, so that a killed run costs little of that.
    """

    def __init__(self, file: Path | BytesFile, pseudonymiser: Pseudonymiser | None = None) -> None:
        self._file: BytesFile = _PathFile(file) if isinstance(file, Path) else file
        self._pseudonymiser = pseudonymiser
        self._known = self._load()
        self._new: dict[str, str] = {}
        self._saved = time.monotonic()

    def _load(self) -> dict[str, str]:
        try:
            loaded = json.loads(self._file.read() or b"{}")
        except ValueError:
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def name_of(self, state: str) -> str:
        """What stands for a state of files in the store: a hash, keyed where ids are pseudonyms."""
        if self._pseudonymiser:
            return self._pseudonymiser.cache_key(state)
        return hashlib.sha256(state.encode(errors="surrogateescape")).hexdigest()[:32]

    def get(self, path: Path) -> str | None:
        """The known content hash of this path as it is now, or None."""
        return self.of_state(state_of(path))

    def of_state(self, state: str | None) -> str | None:
        """The known content hash of files in this state (`companions.state_of`), or None."""
        if state is None:
            return None
        key = self.name_of(state)
        return self._known.get(key, self._new.get(key))

    def put(self, path: Path, identity: str, *, state: str | None = None) -> None:
        """Enter a content hash.

        Args:
            path: the slide.
            identity: its content hash.
            state: of its files before they were hashed; where they are in another one now, nothing is entered.
        """
        found = state_of(path)
        if found is None or state not in (None, found):
            return
        self._new[self.name_of(found)] = identity
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Merge what is new into the file, replacing it whole.

        Raises:
            OSError: it cannot be written.
        """
        self._saved = time.monotonic()
        if not self._new:
            return
        merged = {**self._load(), **self._new}
        self._file.replace(json.dumps(merged).encode())
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
