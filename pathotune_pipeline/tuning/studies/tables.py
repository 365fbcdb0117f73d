"""A study's results as tables: a row for each cell and test set, and a row for each score of what belongs together."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pathotune_pipeline.evaluation.run_scores import SCORES, Difference, JudgedRun, RunScore, compare_runs, score_runs
from pathotune_pipeline.provenance import short
from pathotune_pipeline.tuning.studies.cell import Cell, CellRecord, Contender, Items

UNTOLD = CellRecord("not run", "not computed yet: the study was stopped before")
CELL_COLUMNS = (
    "encoder", "method", "train_domain", "fraction", "fold", "seed", "status", "reason", "test", "in_domain",
    "train_images", "train_groups", "val_images", "test_images", "test_groups", *SCORES,
    "trainable", "parameters", "epochs", "best_epoch", "seconds", "fingerprint",
)  # fmt: skip
SUMMARY_COLUMNS = (
    "encoder", "method", "train_domain", "fraction", "test", "in_domain", "score", "mean", "std", "low", "high", "level",
    "runs", "cells", "images", "groups", "resampled", "against", "difference", "difference_low", "difference_high", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One score of a contender, of what it was trained on and tested on, over folds and seeds.

    Attributes:
        encoder, method: the contender.
        train_domain: what it was trained on; "" for all.
        fraction: of the training groups.
        test: the test set.
        in_domain: whether it was held out of what is trained on.
        score: one of SCORES.
        value: mean, std, interval and counts; None where no cell was done.
        cells: that the study has of this row, done or not.
        reason: why cells are missing; "" where none is.
        against: title of the row that it is compared with; "" for that row itself.
        apart: how much higher it scores than that row, in the same folds and seeds; None where that is not known.
    """

    encoder: str
    method: str
    train_domain: str
    fraction: float
    test: str
    in_domain: bool
    score: str
    value: RunScore | None
    cells: int
    reason: str
    against: str = ""
    apart: Difference | None = None

    def plain(self) -> dict[str, Any]:
        """Its columns, None where there is no value."""
        own = {name: getattr(self, name) for name in SUMMARY_COLUMNS if hasattr(self, name)}
        told = asdict(self.value) if self.value else {}
        unit = self.value.unit if self.value else None
        apart = self.apart
        differences = {
            "difference": apart.mean if apart else None,
            "difference_low": apart.low if apart else None,
            "difference_high": apart.high if apart else None,
        }
        return dict.fromkeys(SUMMARY_COLUMNS) | own | _known(told) | {"resampled": unit} | differences


def cell_rows(items: Items, cells: Sequence[Cell], records: Mapping[str, CellRecord]) -> list[dict[str, Any]]:
    """A row for each cell and test set, done or not.

    Args:
        items: of the study.
        cells: of the study.
        records: by the cells' file names.
    """
    rows = []
    for cell in cells:
        record = records.get(cell.file_name, UNTOLD)
        for test, index in cell.parts.tests.items() or [("", None)]:
            run = record.tests.get(test)
            rows.append(
                {
                    "encoder": cell.contender.encoder,
                    "method": cell.contender.method,
                    "train_domain": cell.domain,
                    "fraction": cell.fraction,
                    "fold": cell.fold,
                    "seed": cell.seed,
                    "status": record.status,
                    "reason": record.reason,
                    "test": test,
                    "in_domain": test in cell.parts.held_out,
                    "train_images": len(cell.parts.train),
                    "train_groups": _groups(items, cell.parts.train),
                    "val_images": len(cell.parts.val),
                    "test_images": None if index is None else len(index),
                    "test_groups": None if index is None else _groups(items, index),
                    **({} if run is None else run.scores()),
                    **{name: record.facts.get(name) for name in ("trainable", "parameters", "epochs", "best_epoch")},
                    "seconds": round(record.seconds, 3) if record.status == "done" else None,
                    "fingerprint": short(cell.fingerprint),
                }
            )
    return rows


def summary_rows(
    cells: Sequence[Cell], records: Mapping[str, CellRecord], *, draws: int, baseline: Contender | None = None
) -> list[SummaryRow]:
    """A row for each score of what differs in fold and seed alone.

    Args:
        cells: of the study.
        records: by the cells' file names.
        draws: of the bootstrap.
        baseline: the row that others are compared with, fold by fold and seed by seed; None compares none.
    """
    groups: dict[_Key, list[Cell]] = {}
    for cell in cells:
        for test in cell.parts.tests or ("",):
            who = cell.contender
            groups.setdefault(_Key(who.encoder, who.method, cell.domain, cell.fraction, test), []).append(cell)
    rows = []
    for key, own in groups.items():
        found = [records.get(cell.file_name, UNTOLD) for cell in own]
        runs = [record.tests[key.test] for record in found if record.status == "done"]
        scores = score_runs(runs, draws=draws) if runs else {}
        against, apart = "", dict[str, Difference]()
        if baseline is not None and (key.encoder, key.method) != (baseline.encoder, baseline.method):
            against = baseline.title
            other = groups.get(key._replace(encoder=baseline.encoder, method=baseline.method), [])
            pairs = _pairs(own, other, records, key.test)
            apart = compare_runs(pairs, draws=draws) if pairs else {}
        for name in SCORES:
            rows.append(
                SummaryRow(
                    *key[:5], key.test in own[0].parts.held_out, name, scores.get(name), len(own), _reasons(found),
                    against=against, apart=apart.get(name),
                )
            )  # fmt: skip
    return rows


class _Key(NamedTuple):
    """What the rows of one set of runs share."""

    encoder: str
    method: str
    domain: str
    fraction: float
    test: str


def _pairs(
    own: Sequence[Cell], other: Sequence[Cell], records: Mapping[str, CellRecord], test: str
) -> list[tuple[JudgedRun, JudgedRun]]:
    """The runs of two contenders in the same folds and seeds, where both are done."""
    done = {
        (cell.fold, cell.seed): record.tests[test]
        for cell in other
        if (record := records.get(cell.file_name, UNTOLD)).status == "done"
    }
    return [
        (record.tests[test], done[cell.fold, cell.seed])
        for cell in own
        if (record := records.get(cell.file_name, UNTOLD)).status == "done" and (cell.fold, cell.seed) in done
    ]


def as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """With a header and line feeds; what is None is empty, and numbers are not rounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row.get(name)) for name in columns})
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value


def _reasons(records: Sequence[CellRecord]) -> str:
    counts: dict[str, int] = {}
    for record in records:
        if record.status != "done":
            told = f"{record.status}: {record.reason}"
            counts[told] = counts.get(told, 0) + 1
    return "; ".join(f"{count} of {len(records)} {told}" for told, count in counts.items())


def _groups(items: Items, index: Any) -> int:
    """Slides or patients among items; an item that names none counts for itself."""
    return len({items.groups[place] or f"image {items.names[place]}" for place in index.tolist()})


def _known(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name in SUMMARY_COLUMNS}
