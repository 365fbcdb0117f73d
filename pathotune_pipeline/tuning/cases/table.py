"""Case tables: who the patients are, which slides are theirs, and what is known of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pathotune_pipeline.archive.table import Table, read_table
from pathotune_pipeline.bags.labels import CASE_COLUMNS, MISSING_LABELS, SLIDE_COLUMNS
from pathotune_pipeline.bags.targets import read_event, read_number
from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.tuning.cases.spec import CaseSpec

COHORT_COLUMNS = ("cohort", "project", "study", "cancer_type")
LABEL_COLUMNS = ("subtype", "diagnosis", "class", "label")
TIME_COLUMNS = ("survival_months", "os_months", "survival_time", "time")
EVENT_COLUMNS = ("event", "os_event", "vital_status", "censorship", "censored")
PART_COLUMNS = ("split", "part")
ONE_COHORT = "all"
"""The cohort's name where the table knows none."""
_RARE = "-1"
"""What some published tables write for a class that is too rare to be told."""
_SLIDES = (*SLIDE_COLUMNS, "slides", "slide_ids")


@dataclass(frozen=True, slots=True)
class Case:
    """One patient.

    Attributes:
        case_id: the patient.
        cohort: one of the run's cohorts.
        slides: as the table names them; may be empty.
        label: the class, or None.
        survival: time and whether the event was seen, or None.
        part: "train", "val", "test", or "" where the table says none.
        fields: every column that is the same in all of the case's rows, by its name in small letters.
    """

    case_id: str
    cohort: str
    slides: tuple[str, ...] = ()
    label: str | None = None
    survival: tuple[float, bool] | None = None
    part: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def field(self, name: str) -> str | None:
        """What the table says under a column, whatever its capitals; None where nothing is known."""
        said = self.fields.get(name.lower(), "")
        return None if said.lower() in MISSING_LABELS else said


@dataclass(frozen=True, slots=True)
class CaseTable:
    """Cases in the order of their ids.

    Attributes:
        cases: at least one.
        columns: what was taken for what: "cohort", "label", "time", "event", "split" -> column, "" where there is none.
        name: of the files, for messages.
        notes: what a reader of results should know.
    """

    cases: tuple[Case, ...]
    columns: Mapping[str, str]
    name: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def ids(self) -> tuple[str, ...]:
        """Case ids, sorted."""
        return tuple(case.case_id for case in self.cases)

    @property
    def cohorts(self) -> tuple[str, ...]:
        """Cohorts, sorted."""
        return tuple(sorted({case.cohort for case in self.cases}))

    def only(self, ids: Sequence[str]) -> CaseTable:
        """The same table with these cases alone.

        Raises:
            ManifestError: one is not in it.
        """
        known = {case.case_id: case for case in self.cases}
        absent = [each for each in ids if each not in known]
        if absent:
            raise ManifestError(f"{self.name}: there is no case {absent[0]!r}.{nearest(absent[0], known)}")
        return replace(self, cases=tuple(known[each] for each in sorted(set(ids))))


def read_cases(paths: Path | Sequence[Path], spec: CaseSpec | None = None, *, also: Sequence[str] = ()) -> CaseTable:
    """Read one case table or several: a row a slide or a row a case, CSV or Parquet.

    Rows of one case are put together, whether they stand in one table or in several, so cohorts may have a table each,
    and clinical fields one of their own. A column that says different things of one case is no field of it, and an error
    where it is wanted.

    Args:
        paths: at least one.
        spec: which columns mean what; None finds them by their names.
        also: columns that may be absent, and must not contradict themselves where they are there.

    Raises:
        ManifestError: a table cannot be read, or a column is absent, contradictory, or holds what it cannot.
    """
    spec = spec or CaseSpec()
    tables = [read_table(path) for path in ([paths] if isinstance(paths, Path) else paths)]
    name = ", ".join(table.name for table in tables)
    found = _Rows()
    for table in tables:
        found.take(table)
    if not found.values:
        raise ManifestError(f"{name}: there is no row with a case. It needs a line for each slide or each case.")
    columns = {
        "cohort": found.column(spec.cohort, COHORT_COLUMNS, name),
        "label": found.column(spec.label, LABEL_COLUMNS, name),
        "time": found.column(spec.time, TIME_COLUMNS, name),
        "event": found.column(spec.event, EVENT_COLUMNS, name),
        "split": found.column(spec.split, PART_COLUMNS, name),
    }
    if columns["time"] and not columns["event"]:
        raise ManifestError(
            f"{name}: there are times ({columns['time']}) and no column of events. Name it with --event: 1 where it was seen."
        )
    if not columns["time"]:
        columns["event"] = ""
    for column in spec.clinical:
        found.column(column, (), name)
    wanted = [*filter(None, columns.values()), *(each.lower() for each in (*spec.clinical, *also))]
    found.check(wanted, name)
    cases = tuple(_case(who, found, columns, name) for who in sorted(found.values))
    return CaseTable(cases, columns, name, tuple(_notes(cases, columns)))


class _Rows:
    """Rows of tables put together by case."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, str]] = defaultdict(dict)
        self.slides: dict[str, dict[str, None]] = defaultdict(dict)
        self.columns: dict[str, str] = {}
        self.torn: dict[str, str] = {}

    def take(self, table: Table) -> None:
        own = table.first_of(CASE_COLUMNS)
        if own is None:
            raise ManifestError(
                f"{table.name}: no column names the case. Call it one of {', '.join(CASE_COLUMNS)}. "
                f"Columns found: {', '.join(table.columns)}."
            )
        slides = table.first_of(_SLIDES)
        self.columns.update({each.lower(): each for each in table.columns if each and each not in (own, slides)})
        for row in table.rows:
            who = row[own]
            if not who:
                continue
            for slide in filter(None, map(str.strip, (row[slides] if slides else "").split(";"))):
                self.slides[who][slide] = None
            kept = self.values[who]
            for column, value in row.items():
                key = column.lower()
                if not column or column in (own, slides):
                    continue
                if value and kept.get(key) and kept[key] != value:
                    self.torn.setdefault(key, f"case {who!r} has {kept[key]!r} and {value!r}")
                kept[key] = kept.get(key) or value

    def column(self, asked: str, usual: Sequence[str], name: str) -> str:
        """The wanted column in small letters: the one asked for, or the first usual one that there is, or ""."""
        if not asked:
            return next((each for each in usual if each in self.columns), "")
        if asked.lower() in self.columns:
            return asked.lower()
        raise ManifestError(
            f"{name}: there is no column {asked!r}.{nearest(asked, self.columns.values())} "
            f"Columns found: {', '.join(self.columns.values())}."
        )

    def check(self, wanted: Sequence[str], name: str) -> None:
        for column in wanted:
            if column in self.torn:
                raise ManifestError(
                    f"{name}: column {self.columns[column]!r} contradicts itself: {self.torn[column]}. Mend the table."
                )


def _case(who: str, rows: _Rows, columns: Mapping[str, str], name: str) -> Case:
    fields = {key: value for key, value in rows.values[who].items() if value and key not in rows.torn}
    bare = Case(who, cohort=ONE_COHORT, slides=tuple(sorted(rows.slides.get(who, ()))), fields=fields)
    try:
        label = bare.field(columns["label"])
        return replace(
            bare,
            cohort=bare.field(columns["cohort"]) or ONE_COHORT,
            label=None if label == _RARE else label,
            survival=_survival(bare, columns),
            part=_part(bare.field(columns["split"])),
        )
    except ManifestError as error:
        raise ManifestError(f"{name}: case {who!r}: {error}") from None


def _survival(case: Case, columns: Mapping[str, str]) -> tuple[float, bool] | None:
    time, event = case.field(columns["time"]), case.field(columns["event"])
    if time is None or event is None:
        return None
    months = read_number(time)
    if months < 0:
        raise ManifestError(f"a survival time is {time}; times are 0 or more. Mend the table.")
    return months, read_event(event) is not columns["event"].startswith("censor")


def _part(said: str | None) -> str:
    if said is None:
        return ""
    if said.lower() not in ("train", "val", "test"):
        raise ManifestError(f"its part is {said!r}. Write train, val or test, or leave the cell empty.")
    return said.lower()


def _notes(cases: Sequence[Case], columns: Mapping[str, str]) -> list[str]:
    notes = []
    if columns["event"].startswith("censor"):
        notes.append(f"Column {columns['event']!r} is read as 1 = censored, 0 = the event was seen.")
    bare = sum(not case.slides for case in cases)
    if 0 < bare < len(cases):
        notes.append(f"{bare} of {len(cases)} cases name no slide.")
    parts = Counter(case.part for case in cases)
    if parts[""] and len(parts) > 1:
        notes.append(f"{parts['']} cases are in no part and stay out.")
    return notes
