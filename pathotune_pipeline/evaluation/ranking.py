"""Models by their average rank over tasks: which place each takes in each, and the mean of its places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.archive.table import Table, read_table
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.registry import nearest

MODEL_COLUMNS = ("model", "encoder", "name", "method")
TASK_COLUMNS = ("task", "dataset", "data_set")
SCORE_COLUMNS = ("score", "value", "mean")
BETTER_COLUMN = "better"
_STUDY = ("encoder", "method", "train_domain", "fraction", "test", "score", "mean")
"""Columns of a study's summary.csv, where `score` is a name and `mean` the number."""
_ABSENT = ("", "-", "–", "—", "n/a", "na", "nan", "none")
_TEST = "/test"
"""Ending of a column with scores of a task's test part, beside one with those of its validation part (eva)."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What M models reach in T tasks.

    Attributes:
        models: names, each once.
        tasks: names, each once.
        values: float64 [M, T]; NaN where a score is absent.
        lower: tasks in which lower scores are better.
        notes: what a reader should know of how they were read.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    values: np.ndarray
    lower: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Models in the order of their mean rank; of equals, as they were given.

    Attributes:
        models: M names.
        tasks: T names.
        ranks: float64 [M, T] from 1, the best; equal scores share the mean of their places.
        scores: float64 [M, T].
        lower: tasks in which lower scores are better.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    ranks: np.ndarray
    scores: np.ndarray
    lower: frozenset[str] = frozenset()

    @property
    def mean_ranks(self) -> np.ndarray:
        """float64 [M]."""
        means: np.ndarray = self.ranks.mean(axis=1)
        return means

    @property
    def firsts(self) -> np.ndarray:
        """int64 [M]: in how many tasks no other model scores better."""
        counts: np.ndarray = (self.ranks == self.ranks.min(axis=0)).sum(axis=1)
        return counts

    def plain(self) -> dict[str, Any]:
        """Plain values: the tasks, and each model's mean rank, firsts, ranks and scores."""
        columns = (
            self.models,
            self.mean_ranks.tolist(),
            self.firsts.tolist(),
            self.ranks.tolist(),
            self.scores.tolist(),
        )
        return {
            "tasks": [{"task": task, "better": "lower" if task in self.lower else "higher"} for task in self.tasks],
            "models": [
                {
                    "model": model,
                    "mean_rank": mean,
                    "firsts": firsts,
                    "ranks": dict(zip(self.tasks, ranks, strict=True)),
                    "scores": dict(zip(self.tasks, scores, strict=True)),
                }
                for model, mean, firsts, ranks, scores in zip(*columns, strict=True)
            ],
        }


def mid_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of [N] numbers from 1, the lowest; equal ones share the mean of their places. float64 [N]."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def rank_models(scores: Scores) -> Ranking:
    """Rank models in each task.

    Raises:
        UsageError: there are no models or tasks, or a score is absent: means over other tasks do not compare.
    """
    if not scores.models or not scores.tasks:
        raise UsageError(
            f"rank: there are {len(scores.models)} models and {len(scores.tasks)} tasks. Give one of each."
        )
    absent = np.argwhere(~np.isfinite(scores.values))
    if len(absent):
        model, task = absent[0].tolist()
        raise UsageError(
            f"rank: {scores.models[model]!r} has no score in task {scores.tasks[task]!r} ({len(absent)} of "
            f"{scores.values.size} scores are absent). Mean ranks need every model in every task: add it, or leave the task "
            "or the model out (--leave-out)."
        )
    signs = np.array([1.0 if task in scores.lower else -1.0 for task in scores.tasks])
    ranks = np.column_stack([mid_ranks(column) for column in (scores.values * signs).T])
    order = np.argsort(ranks.mean(axis=1), kind="stable")
    models = tuple(scores.models[place] for place in order.tolist())
    return Ranking(models, scores.tasks, ranks[order], scores.values[order], scores.lower)


def read_scores(paths: Sequence[Path], *, score: str = "") -> Scores:
    """Scores from tables, whose tasks stand side by side.

    A table is wide (a line for each model, a column for each task; of eva's leaderboards, where a task has a column
    TASK and one TASK/test, the latter counts), or long (columns model, task, score, and perhaps better: higher or
    lower), or the `summary.csv` of a study, whose task is its folder's name, with what differs in it.

    Args:
        paths: of the tables.
        score: which of a study's scores; empty takes the first.

    Raises:
        ManifestError: a table cannot be read.
        UsageError: a cell is no number, or a model has two scores in one task.
    """
    found: dict[tuple[str, str], float] = {}
    models: dict[str, None] = {}
    tasks: dict[str, None] = {}
    lower: set[str] = set()
    notes: list[str] = []
    for path in paths:
        table = read_table(path)
        if set(_STUDY) <= set(table.columns):
            cells = _of_study(table, path, score)
        elif task := table.first_of(TASK_COLUMNS):
            cells = _of_long(table, task, lower)
        else:
            cells, told = _of_wide(table)
            notes += told
        for model, task, value in cells:
            models[model] = tasks[task] = None
            if (model, task) in found:
                raise UsageError(f"{path.name}: {model!r} has two scores in task {task!r}. Keep one.")
            found[model, task] = value
    values = np.array([[found.get((model, task), np.nan) for task in tasks] for model in models], np.float64)
    return Scores(tuple(models), tuple(tasks), values, frozenset(lower), tuple(notes))


def chosen(
    scores: Scores, *, tasks: Sequence[str] = (), leave_out: Sequence[str] = (), lower: Sequence[str] = ()
) -> Scores:
    """Some of the scores.

    Args:
        scores: all of them.
        tasks: to keep, in their order; none named keeps all.
        leave_out: tasks and models that do not count.
        lower: tasks in which lower scores are better, beside those that the tables name.

    Raises:
        UsageError: there is no such task or model.
    """
    known = {"task": scores.tasks, "task or model": (*scores.tasks, *scores.models)}
    for what, asked in (("task", (*tasks, *lower)), ("task or model", leave_out)):
        for name in asked:
            if name not in known[what]:
                told = f"{nearest(name, known[what])} Tasks: {', '.join(scores.tasks)}."
                raise UsageError(f"rank: there is no {what} {name!r}.{told}")
    columns = [scores.tasks.index(task) for task in (tasks or scores.tasks) if task not in leave_out]
    rows = [place for place, model in enumerate(scores.models) if model not in leave_out]
    return Scores(
        tuple(scores.models[row] for row in rows),
        tuple(scores.tasks[column] for column in columns),
        scores.values[np.ix_(rows, columns)],
        scores.lower | set(lower),
        scores.notes,
    )


def _of_wide(table: Table) -> tuple[list[tuple[str, str, float]], list[str]]:
    model = table.first_of(MODEL_COLUMNS) or table.columns[0]
    tasks = [name for name in table.columns if name != model]
    validated = {name.removesuffix(_TEST) for name in tasks if name.endswith(_TEST)} & set(tasks)
    notes = [f"{table.name}: of {', '.join(sorted(validated))} the test part counts."] if validated else []
    cells = [
        (row[model], task, _number(table, place, task))
        for place, row in enumerate(table.rows)
        for task in tasks
        if task not in validated
    ]
    if len({row[model] for row in table.rows}) < len(table.rows):
        names = [row[model] for row in table.rows]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{table.name}: {twice!r} has two lines. Keep one, or name the tasks in a column `task`.")
    return cells, notes


def _of_long(table: Table, task: str, lower: set[str]) -> list[tuple[str, str, float]]:
    model, value = table.first_of(MODEL_COLUMNS), table.first_of(SCORE_COLUMNS)
    if model is None or value is None:
        wanted = " or ".join(MODEL_COLUMNS if model is None else SCORE_COLUMNS)
        raise UsageError(f"{table.name}: a table with a column {task!r} needs one called {wanted}, too. Rename it.")
    better = table.first_of((BETTER_COLUMN,))
    said: dict[str, str] = {}
    for row in table.rows if better else ():
        word = row[better or ""].lower()
        if word not in ("higher", "lower") or said.setdefault(row[task], word) != word:
            raise UsageError(
                f"{table.name}: column {better} of task {row[task]!r}: give higher or lower, one in all its lines."
            )
    lower |= {name for name, word in said.items() if word == "lower"}
    return [(row[model], row[task], _number(table, place, value)) for place, row in enumerate(table.rows)]


def _of_study(table: Table, path: Path, score: str) -> list[tuple[str, str, float]]:
    known = list(dict.fromkeys(row["score"] for row in table.rows))
    if score and score not in known:
        raise UsageError(f"{path}: there is no score {score!r}.{nearest(score, known)} Scores: {', '.join(known)}.")
    rows = [(place, row) for place, row in enumerate(table.rows) if row["score"] == (score or known[0])]
    folder = path.resolve().parent.name
    parts = [name for name in ("train_domain", "fraction", "test") if len({row[name] for _, row in rows}) > 1]
    return [
        (
            ", ".join(filter(None, (row["encoder"], row["method"]))),
            " ".join((folder, *(row[name] for name in parts))),
            _number(table, place, "mean"),
        )
        for place, row in rows
    ]


def _number(table: Table, place: int, column: str) -> float:
    text = table.rows[place][column]
    if text.lower() in _ABSENT:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{table.name}: line {table.lines[place]}, column {column!r}: {text!r} is no number. Take the column out, or "
            "write the score as one number."
        ) from None
