"""Until when new work may begin: a time of the day, or a date with a time."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
ADVICE = "Give a time of the day such as 06:00, or a date with one such as 2026-11-22T06:00."


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which no new work begins.

    Attributes:
        at: when, with its time zone; None where there is no such moment.
    """

    at: datetime | None = None

    def over(self) -> bool:
        """Whether it is past."""
        return self.at is not None and datetime.now(UTC) >= self.at

    def __str__(self) -> str:
        return "" if self.at is None else f"{self.at:%Y-%m-%d %H:%M}"


NEVER = Deadline()


def canonical_until(value: object) -> object:
    """A time as YAML may have read it: without quotes, 22:30 is the whole number 22 * 60 + 30 there.

    Raises:
        ValueError: it is no time.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 24 * 60:
        return f"{value // 60:02d}:{value % 60:02d}"
    if isinstance(value, str):
        _read(value)
    return value


def deadline_of(until: str | None, *, since: datetime | None = None) -> Deadline:
    """The moment that a time names.

    Args:
        until: "06:00", the first such time of this machine's clock after `since`; or an ISO date and time, of this machine's
            time zone where it names none. None for no deadline.
        since: when the work was due, with its time zone; now where None. So a night that was due at 22:00 and began late
            ends on the same morning.

    Raises:
        ValueError: it is no time.
    """
    if until is None:
        return NEVER
    found = _read(until)
    if isinstance(found, datetime):
        return Deadline(found.astimezone())
    # A naive local time is given its zone last, on its own day: clocks may be put on or back in between.
    due = (datetime.now(UTC) if since is None else datetime.fromtimestamp(since.timestamp(), UTC)).astimezone()
    today = due.replace(tzinfo=None, hour=found[0], minute=found[1], second=0, microsecond=0)
    first = today.astimezone()
    return Deadline(first if first > due else (today + timedelta(days=1)).astimezone())


def _read(text: str) -> datetime | tuple[int, int]:
    clock = _CLOCK.fullmatch(text.strip())
    if clock:
        return int(clock[1]), int(clock[2])
    with contextlib.suppress(ValueError):
        if ":" in text:  # a date alone would be its first minute, which nobody means
            return datetime.fromisoformat(text.strip())
    raise ValueError(f"{text!r} is no time. {ADVICE}")
