"""How a process that extracts features is set up, whoever started it: Python's lock, and the memory it keeps."""

from __future__ import annotations

import ctypes
import functools
import sys

SWITCH_S = 2e-4
"""So long a thread may keep Python's lock while another waits for it. An encoder takes the lock between any two of its
operations, and with Python's own 5 ms it stands still where another thread prepares or commits a slide."""

KEPT_BYTES = {
    "M_TRIM_THRESHOLD": (-1, 256 << 20),
    "M_TOP_PAD": (-2, 32 << 20),
    "M_MMAP_THRESHOLD": (-3, 32 << 20),  # the most that glibc takes
}
"""Numbers and values of glibc's settings, see mallopt(3). Images of an overview are of some megabytes and live for some
milliseconds: where freed memory goes back to the system at once, as Dask's nanny has it, finding tissue takes more than
twice as long, for each page of it is made anew."""


@functools.cache
def set_up_process() -> None:
    """Set this process up, once."""
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for number, value in KEPT_BYTES.values():
            mallopt(number, value)
