"""Survival of a real cohort by genes and clinical fields alone: there are no slides of it here.

Tables as SurvPath publishes them (TCGA-BLCA): survival and age by slide, stage and grade by case, RNA, hallmark
pathways as a matrix, five folds. A fold's `val` part is what is tested, as there; validation is cut from its train part.
Rows of JSON: Harrell's C of each model, mean and deviation over the five test parts, and the folds' own values.

- `cox, clinical`: a Cox model of age, sex and stage.
- `cox, genes`: a Cox model of the genes of the pathways.
- `network, ...`: a modal network trained on texts, then a Cox model of its embedding for the task `survival`.

    python benchmarks/cohort_survival.py [--data ../shared/data/cohort] [--epochs 10] [--endpoint dss]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from timing import row

from pathotune_pipeline.adapt.modal.pathways import PathwayTable, read_pathways
from pathotune_pipeline.bags.split_files import read_splits
from pathotune_pipeline.bags.splits import split_off_validation
from pathotune_pipeline.evaluation.metrics import concordance_index
from pathotune_pipeline.tuning.cases.genes import GeneTable, read_genes
from pathotune_pipeline.tuning.cases.judges import fit_cox
from pathotune_pipeline.tuning.cases.judging import judge_network
from pathotune_pipeline.tuning.cases.material import CaseMaterial
from pathotune_pipeline.tuning.cases.parts import CaseParts
from pathotune_pipeline.tuning.cases.scale import ClinicalScale, GeneScale, gene_rows
from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec
from pathotune_pipeline.tuning.cases.table import CaseTable, read_cases
from pathotune_pipeline.tuning.cases.tune import Inputs, tune_cases

BENCH = "cohort_survival"
COLUMNS = {
    "overall": {"time": "survival_months", "event": "censorship"},
    "dss": {"time": "survival_months_dss", "event": "censorship_dss"},
}
CLINICAL = ("age", "is_female", "stage")
COX_PENALTY = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """What the tables hold."""

    table: CaseTable
    genes: GeneTable
    pathways: PathwayTable
    folds: tuple[CaseParts, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "cohort")
    parser.add_argument("--endpoint", choices=COLUMNS, default="overall")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    spec = SlideTuneSpec.parse({
        "cases": {**COLUMNS[arguments.endpoint], "clinical": CLINICAL, "cohort": "oncotree_code"},
        "modal": {"tasks": ["survival"], "dim": 96, "n_blocks": 1, "n_gene_tokens": 16, "pathway_dim": 64, "out_dim": 128},
        "train": {"epochs": arguments.epochs, "lr": 5e-4, "warmup_epochs": 1, "patience": 3, "accumulate": 4,
                  "seed": arguments.seed},
        "judge": {"cox_penalty": COX_PENALTY},
    })  # fmt: skip
    cohort = read_cohort(arguments.data, spec)
    sequenced = set(cohort.genes.cases)
    known = [case for case in cohort.table.cases if case.case_id in sequenced]
    events = sum(case.survival[1] for case in known if case.survival is not None)
    row(BENCH, f"blca, {arguments.endpoint}: cases with RNA, no slides", len(known), "cases", events=events,
        pathways=len(cohort.pathways.pathways))  # fmt: skip
    contenders: dict[str, Callable[[CaseParts], float]] = {
        "cox, clinical": lambda parts: plain_cox(cohort, parts, genes=False),
        "cox, genes": lambda parts: plain_cox(cohort, parts, genes=True),
        "network, genes and clinical": lambda parts: network(cohort, parts, spec),
        "network, genes": lambda parts: network(
            cohort, parts, spec.with_values(cases={**spec.cases.model_dump(), "clinical": ()})
        ),
    }
    for name, judge in contenders.items():
        values = [judge(parts) for parts in cohort.folds]
        folds = {f"fold_{number}": value for number, value in enumerate(values)}
        row(BENCH, f"blca, {arguments.endpoint}: {name}", float(np.mean(values)), "C-index, five folds",
            std=float(np.std(values, ddof=1)), **folds)  # fmt: skip


def read_cohort(data: Path, spec: SlideTuneSpec) -> Cohort:
    """The tables as they are published."""
    tables = [data / "metadata" / "tcga_blca.csv", data / "clinical_data" / "tcga_blca_clinical.csv"]
    table = read_cases(tables, spec.cases)
    genes = read_genes(data / "raw_rna_data" / "xena" / "blca" / "rna_clean.csv", table.ids)
    known = {
        case.case_id: case for case in table.cases if case.survival is not None and case.case_id in set(genes.cases)
    }
    folds = []
    for fold in read_splits(data / "splits_blca").folds:
        train, test = (tuple(case for case in fold.parts[part] if case in known) for part in ("train", "val"))
        strata = {case: str(known[case].survival[1]) for case in train}  # type: ignore[index]
        own, val = split_off_validation(train, strata, {case: case for case in train}, key=(0, fold.fold), share=0.2)
        folds.append(CaseParts(own, val, test, {}, drawn=False))
    pathways = read_pathways(data / "pathway_compositions" / "hallmarks_comps.csv").restricted_to(genes.genes)
    return Cohort(table.only(sorted(known)), genes, pathways, tuple(folds))


def plain_cox(cohort: Cohort, parts: CaseParts, *, genes: bool) -> float:
    """C of a Cox model without a network, fitted on what trains and validates the network."""
    train = (*parts.train, *parts.val)
    cases = {case.case_id: case for case in cohort.table.cases}
    if genes:
        scale = GeneScale.fit(cohort.genes, train)
        names = [gene for gene in cohort.pathways.genes if gene in set(scale.genes)]
        rows = gene_rows(cohort.genes, names)
        mean, std = scale.of(names)
    else:
        clinical = ClinicalScale.fit([cases[case] for case in train], CLINICAL)
        rows = {case: clinical.values(each) for case, each in cases.items()}
        mean, std = clinical.scale

    def values(ids: Sequence[str]) -> np.ndarray:
        return np.nan_to_num((np.stack([rows[case] for case in ids]) - mean) / std)

    learnt, asked = ([cases[case].survival for case in ids] for ids in (train, parts.test))
    times, events = np.array([each[0] for each in learnt]), np.array([each[1] for each in learnt])  # type: ignore[index]
    model = fit_cox(values(train), times, events, penalty=COX_PENALTY)
    score = concordance_index(
        np.array([each[0] for each in asked]), np.array([each[1] for each in asked]), model.risks(values(parts.test))  # type: ignore[index]
    )  # fmt: skip
    return float(score.value or np.nan)


def network(cohort: Cohort, parts: CaseParts, spec: SlideTuneSpec) -> float:
    """C of a modal network of one fold, its Cox model fitted on the cases that trained it."""
    cases = {case.case_id: case for case in cohort.table.cases}
    scale = GeneScale.fit(cohort.genes, parts.train)
    pathways = cohort.pathways.restricted_to(scale.genes)
    clinical = ClinicalScale.fit([cases[case] for case in parts.train], spec.cases.clinical)
    fields = {case: clinical.values(each) for case, each in cases.items()} if clinical.fields else {}
    material = CaseMaterial(cases, None, gene_rows(cohort.genes, pathways.genes), fields)
    inputs = Inputs(pathways=pathways, genes=scale, clinical=clinical)
    tuning = tune_cases(inputs, material, parts, spec=spec)
    found = judge_network(tuning.network, material, parts, spec.judge)
    return next(float(each.value or np.nan) for each in found.judgements[0].scores if each.score == "c_index")


if __name__ == "__main__":
    main()
