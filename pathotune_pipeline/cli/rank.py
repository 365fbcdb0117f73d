"""Rank models by their mean rank over tasks; equal scores share the mean of their places.

Example:
  pathotune rank leaderboard.csv --out ranks.csv           # a line for each model, a column for each task
  pathotune rank bach/summary.csv crc/summary.csv          # of `pathotune study`, a task each
  pathotune rank results.csv --lower ece brier --leave-out consep

A table may also be long: columns model, task, score, and perhaps better (higher or lower). Every model needs a score in
every task.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathotune_pipeline.evaluation.ranking import Ranking

FORMATS = (".csv", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", type=Path, nargs="+", metavar="CSV", help="tables of scores")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="those that count [all]")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="NAME", help="tasks and models that do not count")
    parser.add_argument("--lower", nargs="+", default=[], metavar="TASK", help="tasks in which less is better")
    parser.add_argument("--score", default="", metavar="NAME", help="of a study's summary.csv [its first]")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the ranks there too, as .csv or .json")
    parser.add_argument("--json", action="store_true", help="print the ranking as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.evaluation.ranking import chosen, rank_models, read_scores
    from pathotune_pipeline.store.files import replace_file

    out: Path | None = arguments.out
    if out is not None and (out.suffix not in FORMATS or not out.resolve().parent.is_dir()):
        raise UsageError(f"--out {out}: give a file that ends in {' or '.join(FORMATS)}, in a folder that is there.")
    scores = read_scores(arguments.tables, score=arguments.score)
    ranking = rank_models(chosen(scores, tasks=arguments.tasks, leave_out=arguments.leave_out, lower=arguments.lower))
    text = json.dumps(ranking.plain(), indent=1) + "\n"
    if out is not None:
        replace_file(out, (text if out.suffix == ".json" else _as_csv(ranking)).encode())
    if arguments.json:
        sys.stdout.write(text)
        return 0
    _tell(ranking)
    for note in scores.notes:
        print(f"note: {note}")
    return 0


def _tell(ranking: Ranking) -> None:
    width = max(len("model"), *map(len, ranking.models))
    print(f"{'model':<{width}}  mean rank  firsts  ranks in {', '.join(ranking.tasks)}")
    for each in ranking.plain()["models"]:
        ranks = " ".join(f"{rank:g}" for rank in each["ranks"].values())
        print(f"{each['model']:<{width}}  {each['mean_rank']:9.2f}  {each['firsts']:6}  {ranks}")


def _as_csv(ranking: Ranking) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("model", "mean_rank", "firsts", *ranking.tasks))
    for each in ranking.plain()["models"]:
        writer.writerow((each["model"], each["mean_rank"], each["firsts"], *each["ranks"].values()))
    return file.getvalue()
