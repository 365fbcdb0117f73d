"""Re-scans: of several scans of one thing the newest is kept, unless the table says otherwise.

An older scan is named in a newer one's `supersedes` column; or both rows say the same case, block and stain, and
their scan dates differ. A row with keep=yes stays, and the scans of its group that do not say so go.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import PurePosixPath

from pathotune_pipeline.archive.identity import decode_id
from pathotune_pipeline.errors import ManifestError

YES, NO = frozenset({"yes", "y", "true", "1", "1.0"}), frozenset({"no", "n", "false", "0", "0.0"})
_GERMAN = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:[ T](\d{1,2}:\d{2}(?::\d{2})?))?")
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[ T].+)?|\d{8}")


@dataclass(frozen=True, slots=True)
class Scan:
    """What a table says of one scan.

    Attributes:
        slide_id: whose.
        group: (case, block, stain), or None where one of them is not known.
        scan_date: when, or None.
        supersedes: ids of older scans, as the table writes them.
        keep: whether the table says that it stays (True) or goes (False), or None.
        line: where the table says so.
        refused: it cannot be read, so it takes no other's place.
    """

    slide_id: str
    group: tuple[str, str, str] | None = None
    scan_date: datetime | None = None
    supersedes: tuple[str, ...] = ()
    keep: bool | None = None
    line: int = 0
    refused: bool = False


def yes_or_no(text: str, where: str) -> bool | None:
    """A cell that says yes or no; None where it is empty.

    Raises:
        ManifestError: it says something else.
    """
    small = text.strip().lower()
    if not small:
        return None
    if small not in YES | NO:
        raise ManifestError(f"{where} is {text!r}. Give yes or no.")
    return small in YES


def scan_date(text: str, where: str) -> datetime | None:
    """A date as 2024-03-31 or 31.03.2024, with a time or without; None where the cell is empty.

    Raises:
        ManifestError: another way of writing, which could be read as two dates, or no date at all.
    """
    text = text.strip()
    if not text:
        return None
    german = _GERMAN.fullmatch(text)
    try:
        if german:
            day, month, year, clock = german.groups()
            iso = date(int(year), int(month), int(day)).isoformat() + (f" {clock:0>5}" if clock else "")
        elif _ISO.fullmatch(text):
            iso = text
        else:
            raise ValueError(text)
        found = datetime.fromisoformat(iso)
    except ValueError:
        raise ManifestError(
            f"{where}: the date {text!r} is ambiguous or none. Write it as 2024-03-31 or 31.03.2024."
        ) from None
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def superseded(scans: Sequence[Scan], table: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Which scans go, and why.

    Args:
        scans: every row, in the table's order.
        table: its name, for messages.

    Returns:
        slide id -> reason, and (name, reason) of superseded slides that the table does not hold. A slide is named in
        a reason after ": " only.

    Raises:
        ManifestError: scans supersede each other in a ring, or a name in `supersedes` fits several slides.
    """
    dropped: dict[str, str] = {}
    absent: list[tuple[str, str]] = []
    older = _named(scans, table, absent)
    _refuse_rings(older, table)
    by_id = {scan.slide_id: scan for scan in scans}
    for scan in scans:
        if scan.keep is False:
            dropped[scan.slide_id] = "left out by the manifest's keep column"
    for newer, names in older.items():
        if by_id[newer].refused or by_id[newer].keep is False:
            continue
        for name in names:
            if by_id[name].keep is not True:
                dropped.setdefault(name, f"superseded by a scan that the manifest names: {newer}")
    groups: dict[tuple[str, str, str], list[Scan]] = defaultdict(list)
    for scan in scans:
        if scan.group and scan.slide_id not in dropped and not scan.refused:
            groups[scan.group].append(scan)
    for members in groups.values():
        dropped.update(_older_ones(members))
    return dropped, absent


def _older_ones(members: Sequence[Scan]) -> dict[str, str]:
    dated = [scan for scan in members if scan.scan_date is not None]
    if len({scan.scan_date for scan in dated}) < 2:
        return {}
    kept = [scan for scan in members if scan.keep]
    if kept:
        reason = f"another scan of the same case, block and stain has keep=yes: {kept[0].slide_id}"
        return {scan.slide_id: reason for scan in dated if not scan.keep}
    newest = max(dated, key=lambda scan: scan.scan_date or datetime.min)
    reason = f"a newer scan of the same case, block and stain is kept: {newest.slide_id}"
    return {scan.slide_id: reason for scan in dated if scan.scan_date != newest.scan_date}


def _named(scans: Sequence[Scan], table: str, absent: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Slide id -> ids of the slides that it supersedes."""
    names: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        path = PurePosixPath(decode_id(scan.slide_id))
        for name in {scan.slide_id, str(path)}:
            names[name] = {scan.slide_id}
        for name in {path.name, path.stem}:
            names.setdefault(name, set()).add(scan.slide_id)
    older: dict[str, list[str]] = {}
    for scan in scans:
        for name in scan.supersedes:
            found = names.get(name) or names.get(decode_id(name)) or set()
            if len(found) > 1:
                raise ManifestError(
                    f"{table}: line {scan.line} supersedes {name!r}, which fits {len(found)} slides: "
                    f"{', '.join(sorted(found)[:3])}. Give the slide's whole id."
                )
            if found:
                older.setdefault(scan.slide_id, []).extend(found)
            else:
                absent.append((name, f"superseded by a scan, and not in the manifest: {scan.slide_id}"))
    return older


def _refuse_rings(older: Mapping[str, Sequence[str]], table: str) -> None:
    state: dict[str, int] = {}
    for start in older:
        stack = [(start, iter(older[start]))] if start not in state else []
        state.setdefault(start, 1)
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[name] = 2
                stack.pop()
            elif state.get(following) == 1:
                raise ManifestError(f"{table}: {following!r} supersedes itself, by way of others or directly. Mend it.")
            elif following not in state:
                state[following] = 1
                stack.append((following, iter(older.get(following, ()))))
