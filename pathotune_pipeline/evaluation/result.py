"""What a cross-validation found, in memory and on disk.

A result's folder holds `crossval.json` (settings, scores, ROC points), `predictions.csv`, `splits.csv`,
`attention.npz` (one array for each slide, in the order of its tiles) and `models/seed{S}-fold{F}/`, each with the weights
after its last epoch in `last/` where they are others; `predictions_last.csv` is what those said, and
`predictions_external.csv` what all models said of an external test set.
"""

from __future__ import annotations

import csv
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.evaluation.bands import bands_of
from pathotune_pipeline.evaluation.metrics import roc_points
from pathotune_pipeline.evaluation.pooling import FoldRun, Pool, PredictionRow
from pathotune_pipeline.evaluation.scoring import CLASSES, Sample, curves_of, score_table, scorers
from pathotune_pipeline.heads.learner import TrainedHead
from pathotune_pipeline.heads.trained import save_head
from pathotune_pipeline.store.npz import DAMAGED, open_npz

FORMAT = "pathotune-crossval"
REVISION = 1
PREDICTIONS = {
    "predictions": "predictions.csv",
    "predictions_last": "predictions_last.csv",
    "predictions_external": "predictions_external.csv",
}
"""Attributes of a result and their files."""
PROBABLE = (*CLASSES, "ordinal", "multilabel")
"""Kinds of which probabilities are predicted."""


@dataclass(frozen=True, slots=True)
class SplitRow:
    """Where a slide was: in "train", "val" or "test" of one fold of one seed."""

    seed: int
    fold: int
    part: str
    slide_id: str


@dataclass(slots=True, eq=False)
class CrossvalResult:
    """What a cross-validation found.

    Attributes:
        settings: of the CrossvalSpec.
        classes: names in the order of the probabilities; of two, the second is the positive one. Of a number or of
            survival the names of what is predicted.
        feature_set: name or fingerprint of the features.
        versions: of the libraries.
        notes: what a reader should know.
        context: plain values of the caller's own, e.g. the target column.
        predictions: one row for each slide and seed.
        splits: one row for each slide, seed and fold.
        runs: one for each model.
        attention: slide id -> [N] float32, mean over seeds, each from the model that had not seen the slide.
        models: (seed, fold) -> model; empty when read from disk (`heads.load_head` reads one).
        scores: name -> {"value", "low", "high", "level", "reason"} of the mean probability over seeds, of the weights
            with the lowest validation loss; the interval is a bootstrap over patients. A value that is not defined is
            None with a reason.
        per_seed: the scores of each seed's pooled predictions.
        per_fold: the scores of each model's test part.
        roc: class -> {"fpr", "tpr"} of the mean probability over seeds.
        kind: of the target.
        horizons: times at which survival is predicted.
        curves: reliability of classes, and bands of their ROC and precision-recall curves; of survival scores by time,
            Kaplan-Meier curves of the halves of lower and higher risk, and their log-rank test.
        censoring: (seed, fold, slide id) -> [1 + T] float64, probability of being uncensored just before the slide's
            own time and at each horizon, from the training part; not on disk.
        predictions_last: as `predictions`, of the weights after each model's last epoch.
        runs_last: as `runs`, of those weights.
        scores_last: as `scores`, of those weights.
        predictions_external: what every model said of every slide of an external test set.
        external: of the mean of those over all models: {"slides", "patients", "scores", "roc", "curves"}; or empty.
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
    kind: str = ""
    horizons: tuple[float, ...] = ()
    curves: dict[str, Any] = field(default_factory=dict)
    censoring: dict[tuple[int, int, str], np.ndarray] = field(default_factory=dict)
    predictions_last: list[PredictionRow] = field(default_factory=list)
    runs_last: list[FoldRun] = field(default_factory=list)
    scores_last: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions_external: list[PredictionRow] = field(default_factory=list)
    external: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kind = self.kind or ("binary" if len(self.classes) == 2 else "multiclass")

    def pool(self, rows: Sequence[PredictionRow] | None = None, *, runs: Sequence[FoldRun] | None = None) -> Pool:
        """Predictions and all that is needed to score them.

        Args:
            rows: of slides; `predictions` by default.
            runs: the models that made them; `runs` by default.
        """
        return Pool(
            self.predictions if rows is None else rows,
            self.kind,
            self.classes,
            self.horizons,
            self.runs if runs is None else runs,
            by_patient=self.by_patient,
            censoring=self.censoring,
        )

    @property
    def by_patient(self) -> bool:
        """Whether the answers for a patient's slides are averaged before they are scored."""
        return self.settings.get("unit") == "average"

    def pooled(self) -> list[PredictionRow]:
        """One row for each slide or patient, sorted by id: the mean over its models (seed and fold are -1)."""
        return self.pool().pooled()

    def sample(self, rows: Sequence[PredictionRow] | None = None) -> Sample:
        """Predictions to be scored: the mean over its models of each slide or patient.

        Args:
            rows: some of `predictions`; all by default.
        """
        return self.pool(rows).sample()

    def summarise(self, *, draws: int, seed: int) -> None:
        """Fill all scores, roc and curves from the predictions; without any they stay empty."""
        if self.predictions_external:
            self.external = self._block(self.pool(self.predictions_external), draws=draws, seed=seed)
        if self.predictions_last:
            last = self.pool(self.predictions_last, runs=self.runs_last)
            groups = [row.case_id for row in last.pooled()]
            self.scores_last = score_table(last.sample(), groups=groups, draws=draws, seed=seed)
        if not self.predictions:
            return
        block = self._block(self.pool(), draws=draws, seed=seed)
        self.scores, self.roc, self.curves = block["scores"], block.get("roc", {}), block["curves"]
        for each_seed in sorted({row.seed for row in self.predictions}):
            of_seed = [row for row in self.predictions if row.seed == each_seed]
            self.per_seed.append({"seed": each_seed, **self._plain(of_seed)})
        for run in self.runs:
            of_fold = [row for row in self.predictions if (row.seed, row.fold) == (run.seed, run.fold)]
            self.per_fold.append({**asdict(run), "n_test": len(of_fold), **self._plain(of_fold)})

    def _block(self, pool: Pool, *, draws: int, seed: int) -> dict[str, Any]:
        """Scores with intervals, and curves, of some predictions."""
        sample, groups = pool.sample(), [row.case_id for row in pool.pooled()]
        block: dict[str, Any] = {"slides": len({row.slide_id for row in pool.rows}), "patients": len(set(groups))}
        block["scores"] = score_table(sample, groups=groups, draws=draws, seed=seed)
        if self.kind in CLASSES:
            block["roc"] = roc_points(sample.truth(), sample.values, self.classes)
        block["curves"] = curves_of(sample)
        if bands := bands_of(sample, groups=groups, draws=draws, seed=seed):
            block["curves"]["bands"] = bands
        return block

    def _plain(self, rows: Sequence[PredictionRow]) -> dict[str, Any]:
        sample = self.sample(rows)
        scores = {name: each.once(len(sample.labels)) for name, each in scorers(sample).items()}
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
    return write_results({"": result}, out_dir, context=context, overwrite=overwrite)


def write_results(
    results: Mapping[str, CrossvalResult],
    out_dir: Path,
    *,
    context: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Write the results of several targets, each into a folder of its name; as `write_result`.

    Args:
        results: by the name of their folder; "" for `out_dir` itself.
        out_dir: absent or empty, unless `overwrite`.
        context: plain values to add to the results' own context.
        overwrite: whether to replace what is there.
        finish: adds files of its own to each result's folder before any of it is seen.

    Raises:
        UsageError: the folder holds something, or is a file, or a target's name makes no folder's name.
    """
    if out_dir.exists() and not overwrite and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UsageError(f"{out_dir} holds something already. Choose another folder, or allow overwriting.")
    odd = [name for name in results if name != Path(name).name and name]
    if odd:
        raise UsageError(f"Target {odd[0]!r} makes no folder's name. Rename the column.")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_dir.with_name(f".{out_dir.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        for name, result in results.items():
            (temporary / name).mkdir(exist_ok=True)
            _write_files(result, temporary / name, {**result.context, **(context or {})})
            if finish:
                finish(temporary / name)
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
        columns = table_columns(record.get("kind", ""), classes)
        record["horizons"] = tuple(record.get("horizons", ()))
        for name in ("runs", "runs_last"):
            record[name] = [FoldRun(**_known(FoldRun, run)) for run in record.get(name, ())]
        for name, file in PREDICTIONS.items():
            if name == "predictions" or (folder / file).exists():
                record[name] = [_prediction(row, columns) for row in _read_rows(folder / file)]
        splits = [
            SplitRow(int(row["seed"]), int(row["fold"]), row["part"], row["slide_id"])
            for row in _read_rows(folder / "splits.csv")
        ]
        with open_npz(folder / "attention.npz") as arrays:
            attention = {name: arrays[name] for name in arrays.files}
        return CrossvalResult(classes=classes, splits=splits, attention=attention, **_known(CrossvalResult, record))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, *DAMAGED) as error:
        raise CorruptDataError(f"{folder}: the cross-validation's files cannot be read ({error}).") from error


def _known(made: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataclass takes of a record; a later version may have written more."""
    names = {each.name for each in fields(made)}
    return {name: value for name, value in record.items() if name in names}


def _prediction(row: Mapping[str, str], columns: Sequence[str]) -> PredictionRow:
    probs = tuple(float(row[column]) for column in columns)
    return PredictionRow(row["slide_id"], row["case_id"], row["label"], int(row["seed"]), int(row["fold"]), probs)


def _write_files(result: CrossvalResult, folder: Path, context: Mapping[str, Any]) -> None:
    record = {"format": FORMAT, "revision": REVISION, "runs": [asdict(run) for run in result.runs]}
    record["context"] = dict(context)
    for name in ("settings", "classes", "feature_set", "versions", "notes", "scores", "per_seed", "per_fold", "roc"):
        record[name] = getattr(result, name)
    for name in ("curves", "scores_last", "external"):
        if getattr(result, name):
            record[name] = getattr(result, name)
    if result.runs_last:
        record["runs_last"] = [asdict(run) for run in result.runs_last]
    if result.kind not in CLASSES:
        record |= {"kind": result.kind, "horizons": result.horizons}
    text = json.dumps(record, indent=1, allow_nan=False)
    (folder / "crossval.json").write_text(text + "\n", encoding="utf-8")
    header = ["slide_id", "case_id", "label", "seed", "fold", *table_columns(result.kind, result.classes)]
    for name, file in PREDICTIONS.items():
        said: list[PredictionRow] = getattr(result, name)
        if said or name == "predictions":
            rows = ([r.slide_id, r.case_id, r.label, r.seed, r.fold, *map(repr, r.probs)] for r in said)
            write_rows(folder / file, header, rows)
    places = ([row.seed, row.fold, row.part, row.slide_id] for row in result.splits)
    write_rows(folder / "splits.csv", ["seed", "fold", "part", "slide_id"], places)
    np.savez(folder / "attention.npz", **result.attention)
    for (seed, fold), trained in result.models.items():
        save_head(folder / "models" / f"seed{seed}-fold{fold}", trained)
        if trained.last:
            save_head(folder / "models" / f"seed{seed}-fold{fold}" / "last", trained.last)


def table_columns(kind: str, names: Sequence[str]) -> list[str]:
    """Of the predictions' table: probabilities, or what else is predicted by its own name."""
    return [f"prob_{name}" if not kind or kind in PROBABLE else name for name in names]


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


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
