"""Fixed splits from files, ours or other tools'; `split_matching` finds the slides that they mean.

Layouts, known by their header:

- parts as columns, one file a fold (CLAM's `splits_0.csv`, TransMIL's `fold0.csv`, MCAT's and SurvPath's): columns
  `train`, `val`, `test` that hold ids, or, in CLAM's `splits_0_bool.csv`, True and False beside the id;
- folds as columns (Patho-Bench's `k=all.tsv`): `fold_0`, `fold_1`, ... that hold `train`, `val` or `test`;
- one row an id: `slide_id` or `case_id`, the part (`split`, `part` or `set`), and perhaps `fold` and `seed`, as in the
  `splits.csv` of a cross-validation; or an id and the `fold` in which it is tested;
- STAMP's `splits.json`: lists of `train_patients` and `test_patients`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathotune_pipeline.archive.table import Table, read_table
from pathotune_pipeline.bags.labels import CASE_COLUMNS, SLIDE_COLUMNS
from pathotune_pipeline.bags.splits import check_disjoint
from pathotune_pipeline.errors import ManifestError

PART_COLUMNS = ("split", "part", "set", "partition", "subset")
"""Columns that may name the part, best first; capitals do not matter."""
LAYOUTS = (
    "columns train, val, test of ids or of True/False (CLAM, TransMIL, SurvPath); columns fold_0, fold_1, ... "
    "(Patho-Bench); an id with split or part, perhaps fold and seed; an id with its test fold; STAMP's splits.json"
)
_WORDS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev", "tune"),
    "test": ("test", "testing", "te"),
}
_PARTS = {word: part for part, words in _WORDS.items() for word in words}
_FOLD_FILE = re.compile(r"(?:splits?|fold)_?(\d+)\.(?:csv|tsv)", re.IGNORECASE)
_BOOL_FILE = re.compile(r"splits?_?(\d+)_bool\.(?:csv|tsv)", re.IGNORECASE)
_FOLD_COLUMN = re.compile(r"fold_?(\d+)", re.IGNORECASE)
_WHOLE_FILES = ("splits.csv", "k=all.tsv", "splits.json")


_Told = tuple[int | None, int, str, str]
"""Seed, fold, part and id, as a file tells them."""


@dataclass(frozen=True, slots=True)
class NamedFold:
    """One cut as a file tells it.

    Attributes:
        seed: of the repetition, or None where the file knows none.
        fold: its number.
        parts: "train", "val", "test" -> ids as they are written, sorted; a part that is absent is empty.
    """

    seed: int | None
    fold: int
    parts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SplitFile:
    """What was read from a file or a folder of files.

    Attributes:
        source: name of the file or folder, for messages.
        folds: in the order of seed and number.
        names: whether ids name "slides" or "patients", or "either" where the layout does not say.
        patients: slide's name -> patient, where the file tells both.
    """

    source: str
    folds: tuple[NamedFold, ...]
    names: str
    patients: Mapping[str, str] = field(default_factory=dict)


def read_splits(path: Path) -> SplitFile:
    """Read fixed splits from a file, or from a folder with one file a fold or one file of a known name.

    Raises:
        ManifestError: it is absent, of no known layout, or says something that makes no sense.
        PathotuneError: a patient or slide is in two parts of one fold.
    """
    if path.is_dir():
        files = _fold_files(path)
    elif path.is_file():
        files = [(0, path)]
    else:
        raise ManifestError(f"--splits {path}: there is no such file or folder. Check the path.")
    read = [_read_file(file, number) for number, file in files]
    found = SplitFile(
        source=path.name,
        folds=tuple(fold for each in read for fold in each.folds),
        names=read[0].names,
        patients={name: patient for each in read for name, patient in each.patients.items()},
    )
    if not any(fold.parts["train"] for fold in found.folds):
        raise ManifestError(f"{found.source}: no fold has anything to train with. It needs a training part.")
    for named in found.folds:
        owners = {name: found.patients.get(name, name) for names in named.parts.values() for name in names}
        check_disjoint(named.parts, owners, where=f"{found.source}, fold {named.fold}")
    return found


def _fold_files(folder: Path) -> list[tuple[int, Path]]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for pattern in (_FOLD_FILE, _BOOL_FILE):
        numbered = sorted((int(match[1]), folder / name) for name in names if (match := pattern.fullmatch(name)))
        if numbered:
            return numbered
    whole = next((folder / name for name in _WHOLE_FILES if name in names), None)
    if whole is None:
        raise ManifestError(
            f"--splits {folder}: it holds {some_names(names) or 'nothing'}; expected splits_0.csv, splits_1.csv, ..., "
            f"fold0.csv, ..., or one of {', '.join(_WHOLE_FILES)}."
        )
    return [(0, whole)]


def _read_file(path: Path, number: int) -> SplitFile:
    if path.suffix.lower() == ".json":
        return _stamp(path)
    table = read_table(path)
    by_small = {name.lower(): name for name in reversed(table.columns)}
    parts = {_PARTS[small]: name for small, name in by_small.items() if small in _PARTS}
    folds = {int(match[1]): name for name in table.columns if (match := _FOLD_COLUMN.fullmatch(name))}
    if "train" in parts and len(parts) > 1:
        return _part_columns(table, parts, number)
    slide, case = table.first_of(SLIDE_COLUMNS), table.first_of(CASE_COLUMNS)
    identity = slide or case or table.first_of(("id",))
    part_column = table.first_of(PART_COLUMNS)
    fold_column = by_small.get("fold")
    if identity is None or not (folds or part_column or fold_column):
        raise ManifestError(
            f"{table.name}: this is no split file of a known layout. Columns found: {', '.join(table.columns)}. "
            f"Known layouts: {LAYOUTS}."
        )
    told: list[_Told]
    if folds:
        told = [
            (None, fold, _part(row[name], table.name), row[identity])
            for fold, name in folds.items()
            for row in table.rows
            if row[name]
        ]
    elif part_column:
        seed_column = by_small.get("seed")
        told = [
            (
                _whole(row[seed_column], table.name) if seed_column else None,
                _whole(row[fold_column], table.name) if fold_column else 0,
                _part(row[part_column], table.name),
                row[identity],
            )
            for row in table.rows
        ]
    else:
        told = _by_test_fold(table, identity, str(fold_column))
    patients = {row[slide]: row[case] for row in table.rows if row[slide] and row[case]} if slide and case else {}
    names = "slides" if slide else "patients" if case else "either"
    return SplitFile(table.name, _gather(told), names, patients)


def _part_columns(table: Table, parts: Mapping[str, str], number: int) -> SplitFile:
    cells = {row[name].lower() for row in table.rows for name in parts.values()} - {""}
    told: list[_Told] = []
    if cells and cells <= {"true", "false"}:
        identity = table.first_of((*SLIDE_COLUMNS, *CASE_COLUMNS, "id")) or table.columns[0]
        told = [
            (None, number, part, row[identity])
            for part, name in parts.items()
            for row in table.rows
            if row[name].lower() == "true"
        ]
    else:
        told = [(None, number, part, row[name]) for part, name in parts.items() for row in table.rows if row[name]]
    return SplitFile(table.name, _gather(told), "either")


def _by_test_fold(table: Table, identity: str, fold_column: str) -> list[_Told]:
    own = [(row[identity], _whole(row[fold_column], table.name)) for row in table.rows if row[fold_column]]
    folds = sorted({fold for _, fold in own})
    if len(folds) < 2:
        raise ManifestError(
            f"{table.name}: column {fold_column!r} names {len(folds)} test folds; it takes two or more."
        )
    return [(None, fold, "test" if mine == fold else "train", name) for fold in folds for name, mine in own]


def _stamp(path: Path) -> SplitFile:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["splits"]
        told = [
            (None, fold, part, str(patient))
            for fold, each in enumerate(listed)
            for part in ("train", "val", "test")
            for patient in each.get(f"{part}_patients", ())
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{path.name}: this is no splits.json as STAMP writes it ({error!r}). Known layouts: {LAYOUTS}."
        ) from None
    return SplitFile(path.name, _gather(told), "patients")


def _gather(told: Iterable[_Told]) -> tuple[NamedFold, ...]:
    found: dict[tuple[int | None, int], dict[str, set[str]]] = defaultdict(lambda: {part: set() for part in _WORDS})
    for seed, fold, part, name in told:
        if name:
            found[seed, fold][part].add(name)
    order = sorted(found, key=lambda at: (-1 if at[0] is None else at[0], at[1]))
    return tuple(NamedFold(*at, {part: tuple(sorted(names)) for part, names in found[at].items()}) for at in order)


def _part(word: str, source: str) -> str:
    part = _PARTS.get(word.strip().lower())
    if part is None:
        known = ", ".join(_PARTS)
        raise ManifestError(f"{source}: a part is called {word!r}. Known are {known}. Mend the file.")
    return part


def _whole(text: str, source: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number < 0 or number != int(number):
        raise ManifestError(f"{source}: a fold or seed is {text!r}; both are whole numbers from 0. Mend the file.")
    return int(number)


def some_names(names: Iterable[str], most: int = 3) -> str:
    """The first few of them, for a message."""
    listed: Sequence[str] = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
