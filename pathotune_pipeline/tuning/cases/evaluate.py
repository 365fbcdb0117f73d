"""A finished network on other cases, frozen: embeddings from any subset of modalities, and scores where labels are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import OutputExistsError, UsageError
from pathotune_pipeline.provenance import now, package_versions
from pathotune_pipeline.tuning.cases.folder import (
    EVALUATED,
    Tuned,
    prediction_rows,
    read_tuned,
    score_rows,
    write_embeddings,
)
from pathotune_pipeline.tuning.cases.genes import read_genes
from pathotune_pipeline.tuning.cases.judges import ALL, Judges, fit_judges
from pathotune_pipeline.tuning.cases.judging import EVERYTHING, judge_cases
from pathotune_pipeline.tuning.cases.learner import embed_cases
from pathotune_pipeline.tuning.cases.material import MODALITIES, CaseMaterial, Modality
from pathotune_pipeline.tuning.cases.parts import part_cases
from pathotune_pipeline.tuning.cases.scale import gene_rows
from pathotune_pipeline.tuning.cases.source import CaseSource, check_source, open_slides
from pathotune_pipeline.tuning.cases.spec import SlideEvalSpec
from pathotune_pipeline.tuning.cases.table import CaseTable, read_cases
from pathotune_pipeline.tuning.run.folder import begin, finish, write_rows

FORMAT = "pathotune-slide-evaluated"
FILES = (EVALUATED, "embeddings.npz", "predictions.csv", "scores.csv")


def run_slide_eval(
    folder: Path, source: CaseSource, spec: SlideEvalSpec, *, out: Path, overwrite: bool = False
) -> dict[str, Any]:
    """Embed cases with a finished network as it is, and judge them.

    A cohort that the training knew is judged by the judges that were fitted there, on cases from which neither network
    nor judges learnt; the folder knows them by their ids. A cohort that is new is parted (or has its parts in the table),
    gets judges of its own, fitted on its training part, and is judged on its test part. With `refit`, and where fewer
    modalities are given than were trained with, the judges of known cohorts are fitted anew too, on those of their training
    cases that are here.

    Args:
        folder: of `run_slide_tune`.
        source: of the cases; its pathways are not looked at.
        spec: modalities, judges, columns.
        out: folder for the result.
        overwrite: whether an older evaluation may be replaced.

    Returns:
        The evaluation's card.

    Raises:
        UsageError: tables, store and network do not go together.
        OutputExistsError: something else lies at `out`.
        WeightsError: the slide encoder cannot be had.
    """
    began = time.perf_counter()
    _check_out(out, overwrite=overwrite)
    check_source(source)
    tuned = read_tuned(folder)
    clinical = [each.name for each in tuned.clinical.fields]
    table = read_cases(source.cases, spec.cases.with_values(clinical=()), also=clinical)
    slides, notes = open_slides(source, table, memory_gb=0.0)
    network = tuned.network(in_dim=None if slides is None else slides.dim, weights=spec.weights)
    device = pick_device(spec.device)
    network.to(device)
    genes = read_genes(source.genes, table.ids) if source.genes else None
    material = CaseMaterial(
        {case.case_id: case for case in table.cases},
        slides if network.encoder is not None else None,
        {}
        if genes is None or network.pathways is None
        else gene_rows(genes, network.pathways.genes, max_missing=spec.cases.max_missing_genes),
        {case.case_id: tuned.clinical.values(case) for case in table.cases} if tuned.clinical.fields else {},
        tuned.spec.max_tiles,
        device,
    ).only(spec.modalities or MODALITIES)
    ids = material.usable(table.ids)
    if not ids:
        raise UsageError(f"{table.name}: of none of its {len(table)} cases is there a modality that the network takes.")
    vectors = dict(zip(ids, embed_cases(network, material, ids), strict=True))
    fewer = _fewer(tuned, material, ids)
    here = table.only(ids)
    part = _part(tuned, here, spec)
    judges, told = _judges(tuned, here, vectors, part, spec=spec, refit=spec.refit or bool(fewer))
    judged = tuple(case for case in ids if part.get(case) == "test")
    tasks = tuple(network.spec.tasks)
    cases = [material.cases[case] for case in judged]
    answers, scores = judge_cases(judges, vectors, tasks, cases, draws=spec.judge.draws)
    left = len(table) - len(ids)
    card = {
        "format": FORMAT,
        "written": now(),
        "network": tuned.modal.recipe(),
        "trained_on": tuned.card["cohorts"],
        "cohorts": list(table.cohorts),
        "settings": spec.model_dump(mode="json"),
        "cases": len(table),
        "modalities": material.counts(table.ids),
        "tasks": list(tasks),
        "scores": [{"modalities": EVERYTHING, **score.told()} for score in scores],
        "notes": [
            *table.notes,
            *notes,
            *(genes.notes if genes is not None else ()),
            *([f"{left} cases have none of the modalities and stay out."] if left else []),
            *(
                [f"Without {', '.join(fewer)}: judges are fitted anew, for those of the training saw more."]
                if fewer
                else []
            ),
            *told,
            *judges.notes,
        ],
        "seconds": round(time.perf_counter() - began, 3),
        "versions": package_versions(),
    }
    begin(out, FILES)
    write_embeddings(out, ids, [part.get(case, "") for case in ids], tasks, np.stack([vectors[case] for case in ids]))
    write_rows(out / "predictions.csv", prediction_rows(judged, tasks, answers, material))
    write_rows(out / "scores.csv", score_rows([(EVERYTHING, score) for score in scores]))
    finish(out, card, name=EVALUATED)
    return card


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        if overwrite and (out / EVALUATED).is_file():
            return
        told = "an evaluation" if (out / EVALUATED).is_file() else "other things"
        how = ", or --overwrite" if told.startswith("an") else ""
        raise OutputExistsError(f"{out}: {told} lies there already. Give another --out{how}.")


def _fewer(tuned: Tuned, material: CaseMaterial, ids: Sequence[str]) -> list[Modality]:
    """Modalities that the training had and no case here has."""
    had = {
        "image": tuned.modal.slide_encoder is not None,
        "genes": bool(tuned.modal.genes),
        "clinical": bool(tuned.modal.clinical),
    }
    here = material.counts(ids)
    return [name for name in MODALITIES if had[name] and not here[name]]


def _part(tuned: Tuned, table: CaseTable, spec: SlideEvalSpec) -> dict[str, str]:
    """Case id -> part: that of the training, and "test" for cases of its cohorts that were not in it.

    A new cohort has no epoch to choose: what would validate trains its judges.
    """
    before, known = tuned.parts(), set(tuned.card["cohorts"])
    part = {case.case_id: before.get(case.case_id, "test") for case in table.cases if case.cohort in known}
    others = tuple(case for case in table.cases if case.cohort not in known)
    if others:
        drawn = part_cases(replace(table, cases=others), spec.cases, needs_val=False)
        part |= {case: "test" if own == "test" else "train" for case, own in drawn.of_case().items()}
    return part


def _judges(
    tuned: Tuned,
    table: CaseTable,
    vectors: Mapping[str, np.ndarray],
    part: Mapping[str, str],
    *,
    spec: SlideEvalSpec,
    refit: bool,
) -> tuple[Judges, list[str]]:
    """Those of the training for the cohorts that it knew, and others fitted here; and what was done."""
    stored = Judges({}, {}) if refit else tuned.judges
    known = {cohort for _, cohort in (*stored.cox, *stored.classifiers)}
    learnt = [case for case in table.cases if case.cohort not in known and part.get(case.case_id) == "train"]
    notes = [f"{cohort}: judged by the judges of the training." for cohort in table.cohorts if cohort in known]
    if not learnt:
        return stored, notes
    stacked = np.stack([vectors[case.case_id] for case in learnt])
    fitted = fit_judges(stacked, tuple(tuned.card["tasks"]), learnt, spec.judge)
    names = ", ".join(sorted({case.cohort for case in learnt}))
    notes.append(f"{names}: judges fitted here on {len(learnt)} cases; the network is as it was.")
    both = Judges(
        {**stored.cox, **fitted.cox},
        {
            key: each
            for key, each in {**stored.classifiers, **fitted.classifiers}.items()
            if not (known and key[1] == ALL)
        },
        fitted.notes,
    )
    return both, notes
