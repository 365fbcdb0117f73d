"""Targets of any kind from a label table: what its columns say of a slide, as one text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pathotune_pipeline.bags.labels import MISSING_LABELS, LabelJoin, join_labels
from pathotune_pipeline.bags.targets import SURVIVAL, TargetSpec, write_survival
from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.registry import nearest

_COMBINED = "(targets)"


def join_targets(
    slide_ids: Iterable[str], rows: Sequence[Mapping[str, str]], targets: Mapping[str, TargetSpec]
) -> LabelJoin:
    """Give each slide what a label table says of its targets, as `join_labels` does of one class.

    The label of one target is its cell, or time and event as `write_survival` says; of several it is JSON, for
    `targets_of_label`, with those that are known. A slide of which none is known has no label.

    Args:
        slide_ids: as in the store.
        rows: of `read_table`.
        targets: column -> its Spec.

    Raises:
        ManifestError: as `join_labels`; or an event's column is missing or its cell says neither.
    """
    first = next(iter(targets))
    if len(targets) == 1 and targets[first].kind not in SURVIVAL:
        return join_labels(slide_ids, rows, target=first)
    columns = list(rows[0]) if rows else []
    for column in [*targets, *(spec.event for spec in targets.values() if spec.event)]:
        if column not in columns:
            known = ", ".join(columns) or "none"
            raise ManifestError(f"The table has no column {column!r}.{nearest(column, columns)} Columns: {known}.")
    joined = [{**row, _COMBINED: _combined(row, targets)} for row in rows]
    found = join_labels(slide_ids, joined, target=_COMBINED)
    # What is no class may well differ among the slides of a patient.
    notes = tuple(note for note in found.notes if "slides of different classes" not in note)
    return replace(found, notes=notes)


def targets_of_label(label: str) -> dict[str, str]:
    """What `join_targets` wrote of several targets, by column."""
    told: dict[str, str] = json.loads(label)
    return told


def _combined(row: Mapping[str, str], targets: Mapping[str, TargetSpec]) -> str:
    said = {column: _value(row, column, spec) for column, spec in targets.items()}
    known = {column: value for column, value in said.items() if value}
    return (known.popitem()[1] if len(targets) == 1 else json.dumps(known, sort_keys=True)) if known else ""


def _value(row: Mapping[str, str], column: str, spec: TargetSpec) -> str:
    cells = [row[column], row[spec.event]] if spec.kind in SURVIVAL else [row[column]]
    if any(cell.strip().lower() in MISSING_LABELS for cell in cells):
        return ""
    return write_survival(*cells) if spec.kind in SURVIVAL else cells[0]
