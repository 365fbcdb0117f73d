"""A place that cannot be written to: full, read-only, or forbidden. Every slide would meet it, so it stops a run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pathotune_pipeline.errors import StoreUnwritableError

ADVICE = {
    errno.ENOSPC: "Free space there, or take a larger disk",
    errno.EDQUOT: "Free space there, or have the quota raised",
    errno.EROFS: "Mount it for writing",
    errno.EACCES: "Give this user the right to write there",
    errno.EPERM: "Give this user the right to write there",
}
"""What to do, by the error's number."""
OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Numbers that no reading gives."""


@contextmanager
def writing(address: str, *, only: frozenset[int] = frozenset(ADVICE)) -> Iterator[None]:
    """Turn what a full, read-only or forbidden store says into StoreUnwritableError; other errors pass.

    Args:
        address: the store's, for the message.
        only: errors that are meant; leave those out that reading a slide could give where that is done inside.
    """
    try:
        yield
    except StoreUnwritableError:
        raise
    except OSError as error:
        number = errno.EACCES if isinstance(error, PermissionError) and error.errno is None else error.errno
        if number not in only:
            raise
        raise unwritable(address, number or 0) from error


def unwritable(address: str, number: int) -> StoreUnwritableError:
    """The error that says why a store cannot be written."""
    return StoreUnwritableError(
        f"--store {address}: cannot be written ({os.strerror(number)}). {ADVICE[number]}, then run the same command "
        "again: what is committed stays, and the rest is done then.",
        number,
    )
