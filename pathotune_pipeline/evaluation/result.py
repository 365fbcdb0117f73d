"""What a cross-validation found, in memory and on disk.

A result's folder holds `crossval.json` (settings, scores, ROC points), `predictions.csv`, `splits.csv`,
`attention.npz` (one array for each slide, in the order of its tiles) and `models/seed{S}-fold{F}/`.
"""

from __future__ import annotations

import csv
import json
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.evaluation.intervals import bootstrap
from pathotune_pipeline.evaluation.metrics import Score, accuracy, auroc, balanced_accuracy, roc_points
from pathotune_pipeline.heads.train import TrainedHead
from pathotune_pipeline.heads.trained import save_head

FORMAT = "pathotune-crossval"
REVISION = 1
_SCORES = {"auroc": auroc, "balanced_accuracy": balanced_accuracy, "accuracy": accuracy}


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """What the model that had not seen a slide said of it, with one seed.

    Attributes:
        slide_id: the slide.
        case_id: its patient.
        label: its class.
        seed: of the run.
        fold: whose test part it was in.
        probs: of each class.
    """

    slide_id: str
    case_id: str
    label: str
    seed: int
    fold: int
    probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SplitRow:
    """Where a slide was: in "train", "val" or "test" of one fold of one seed."""

    seed: int
    fold: int
    part: str
    slide_id: str


@dataclass(frozen=True, slots=True)
class FoldRun:
    """How one model was trained; epochs count from 0 in `best_epoch`."""

    seed: int
    fold: int
    best_epoch: int
    epochs: int


@dataclass(slots=True, eq=False)
class CrossvalResult:
    """What a cross-validation found.

    Attributes:
        settings: of the CrossvalSpec.
        classes: names in the order of the probabilities; of two, the second is the positive one.
        feature_set: name or fingerprint of the features.
        versions: of the libraries.
        notes: what a reader should know.
        context: plain values of the caller's own, e.g. the target column.
        predictions: one row for each slide and seed.
        splits: one row for each slide, seed and fold.
        runs: one for each model.
        attention: slide id -> [N] float32, mean over seeds, each from the model that had not seen the slide.
        models: (seed, fold) -> model; empty when read from disk (`heads.load_head` reads one).
        scores: name -> {"value", "low", "high", "level", "reason"} of the mean probability over seeds; the
            interval is a bootstrap over patients. A value that is not defined is None with a reason.
        per_seed: the scores of each seed's pooled predictions.
        per_fold: the scores of each model's test part.
        roc: class -> {"fpr", "tpr"} of the mean probability over seeds.
    """

    settings: dict[str, Any]
    classes: tuple[str, ...]
    feature_set: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    predictions: list[PredictionRow] = field(default_factory=list)
    splits: list[SplitRow] = field(default_factory=list)
    runs: list[FoldRun] = field(default_factory=list)
    attention: dict[str, Any] = field(default_factory=dict)
    models: dict[tuple[int, int], TrainedHead] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_seed: list[dict[str, Any]] = field(default_factory=list)
    per_fold: list[dict[str, Any]] = field(default_factory=list)
    roc: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def pooled(self) -> list[PredictionRow]:
        """One row for each slide, sorted by id: its mean probabilities over the seeds (seed and fold are -1)."""
        rows: dict[str, list[PredictionRow]] = defaultdict(list)
        for row in self.predictions:
            rows[row.slide_id].append(row)
        pooled = []
        for slide, each in sorted(rows.items()):
            probs = np.mean([row.probs for row in each], axis=0)
            pooled.append(PredictionRow(slide, each[0].case_id, each[0].label, -1, -1, tuple(probs.tolist())))
        return pooled

    def summarise(self, *, draws: int, seed: int) -> None:
        """Fill scores, per_seed, per_fold and roc from the predictions."""
        rows = self.pooled()
        targets, probs = self._arrays(rows)
        intervals = bootstrap(targets, probs, groups=[row.case_id for row in rows], draws=draws, seed=seed)
        for name, said in self._scores(rows).items():
            interval = intervals[name]
            self.scores[name] = asdict(said) | {"low": interval.low, "high": interval.high, "level": interval.level}
        self.roc = roc_points(targets, probs, self.classes)
        for each in sorted({row.seed for row in self.predictions}):
            of_seed = [row for row in self.predictions if row.seed == each]
            self.per_seed.append({"seed": each, **self._plain(of_seed)})
        for run in self.runs:
            of_fold = [row for row in self.predictions if (row.seed, row.fold) == (run.seed, run.fold)]
            self.per_fold.append({**asdict(run), "n_test": len(of_fold), **self._plain(of_fold)})

    def _arrays(self, rows: Sequence[PredictionRow]) -> tuple[np.ndarray, np.ndarray]:
        targets = np.array([self.classes.index(row.label) for row in rows], dtype=np.int64)
        return targets, np.array([row.probs for row in rows], dtype=np.float64)

    def _scores(self, rows: Sequence[PredictionRow]) -> dict[str, Score]:
        targets, probs = self._arrays(rows)
        return {name: score(targets, probs) for name, score in _SCORES.items()}

    def _plain(self, rows: Sequence[PredictionRow]) -> dict[str, Any]:
        scores = self._scores(rows)
        reasons = {f"{name}_reason": said.reason for name, said in scores.items() if said.reason}
        return {name: said.value for name, said in scores.items()} | reasons


def write_result(
    result: CrossvalResult, out_dir: Path, *, context: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a result into a folder, all or nothing, and return the folder.

    Args:
        result: of `crossval`.
        out_dir: absent or empty, unless `overwrite`.
        context: plain values to add to the result's own context.
        overwrite: whether to replace what is there.

    Raises:
        UsageError: the folder holds something, or is a file.
    """
    if out_dir.exists() and not overwrite and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UsageError(f"{out_dir} holds something already. Choose another folder, or allow overwriting.")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_dir.with_name(f".{out_dir.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        _write_files(result, temporary, {**result.context, **(context or {})})
        _put_in_place(temporary, out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out_dir


def read_result(folder: Path) -> CrossvalResult:
    """Read what `write_result` wrote; `models` stays empty.

    Raises:
        FileNotFoundError: there is no result in the folder.
        CorruptDataError: its files cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads((folder / "crossval.json").read_text(encoding="utf-8"))
        if record.pop("format") != FORMAT or record.pop("revision") != REVISION:
            raise CorruptDataError(f"{folder}: not a cross-validation of a format that this version knows.")
        classes = tuple(record.pop("classes"))
        runs = [FoldRun(**run) for run in record.pop("runs")]
        predictions = [
            PredictionRow(
                row["slide_id"],
                row["case_id"],
                row["label"],
                int(row["seed"]),
                int(row["fold"]),
                tuple(float(row[f"prob_{name}"]) for name in classes),
            )
            for row in _read_rows(folder / "predictions.csv")
        ]
        splits = [
            SplitRow(int(row["seed"]), int(row["fold"]), row["part"], row["slide_id"])
            for row in _read_rows(folder / "splits.csv")
        ]
        with np.load(folder / "attention.npz", allow_pickle=False) as arrays:
            attention = {name: arrays[name] for name in arrays.files}
        return CrossvalResult(
            classes=classes, runs=runs, predictions=predictions, splits=splits, attention=attention, **record
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{folder}: the cross-validation's files cannot be read ({error}).") from error


def _write_files(result: CrossvalResult, folder: Path, context: Mapping[str, Any]) -> None:
    record = {"format": FORMAT, "revision": REVISION, "runs": [asdict(run) for run in result.runs]}
    record["context"] = dict(context)
    for name in ("settings", "classes", "feature_set", "versions", "notes", "scores", "per_seed", "per_fold", "roc"):
        record[name] = getattr(result, name)
    text = json.dumps(record, indent=1, allow_nan=False)
    (folder / "crossval.json").write_text(text + "\n", encoding="utf-8")
    header = ["slide_id", "case_id", "label", "seed", "fold", *(f"prob_{name}" for name in result.classes)]
    rows = ([r.slide_id, r.case_id, r.label, r.seed, r.fold, *map(repr, r.probs)] for r in result.predictions)
    _write_rows(folder / "predictions.csv", header, rows)
    places = ([row.seed, row.fold, row.part, row.slide_id] for row in result.splits)
    _write_rows(folder / "splits.csv", ["seed", "fold", "part", "slide_id"], places)
    np.savez(folder / "attention.npz", **result.attention)
    for (seed, fold), trained in result.models.items():
        save_head(folder / "models" / f"seed{seed}-fold{fold}", trained)


def _put_in_place(new: Path, place: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
