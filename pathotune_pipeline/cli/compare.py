"""Compare model folders on the slides that they share: paired by patient, p-values corrected by Holm.

Example:
  pathotune compare abmil/ mean/ transmil/ --score auroc --score brier

The first folder is held against each of the others. Intervals of the difference come from resampled patients, p-values
from exchanging the two models' predictions patient by patient.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="MODEL", help="a folder that crossval wrote")
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER", help="folders to hold it against")
    parser.add_argument(
        "--score", action="append", default=[], metavar="NAME", help="score to compare; several times [the headline]"
    )
    parser.add_argument("--draws", type=int, default=2000, metavar="N", help="of bootstrap and permutations [2000]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws [0]")
    parser.add_argument("--json", action="store_true", help="print the comparisons as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.evaluation.comparison import compare_results, holm
    from pathotune_pipeline.evaluation.result import CrossvalResult, read_result

    def read(folder: Path) -> CrossvalResult:
        try:
            return read_result(folder)
        except FileNotFoundError:
            raise UsageError(f"{folder}: it holds no crossval.json. Give a folder that crossval wrote.") from None

    first, others = read(arguments.first), [(folder, read(folder)) for folder in arguments.others]
    headline = next(iter(first.scores), "")
    asked = [(folder, other, name) for folder, other in others for name in arguments.score or [headline]]
    found = [
        compare_results(first, other, name, draws=arguments.draws, seed=arguments.seed) for _, other, name in asked
    ]
    corrected = holm([each.p_value for each in found])
    rows = [
        {"first": str(arguments.first), "other": str(folder), "score": name, **asdict(each), "p_holm": p}
        for (folder, _, name), each, p in zip(asked, found, corrected, strict=True)
    ]
    if arguments.json:
        print(json.dumps({"comparisons": rows}))
        return 0
    for row in rows:
        print(
            f"{row['score']:<18} {row['value_a']:.3f} - {row['value_b']:.3f} ({row['other']}) = "
            f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], p {row['p_value']:.4g}, "
            f"Holm {row['p_holm']:.4g}, {row['patients']} patients"
        )
    return 0
