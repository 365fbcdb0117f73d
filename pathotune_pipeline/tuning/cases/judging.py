"""A frozen network on cases: embeddings, judges, scores, explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pathotune_pipeline.adapt.modal.adapter import ModalNetwork
from pathotune_pipeline.tuning.cases.explain import PathwayShare, TileShares, explain
from pathotune_pipeline.tuning.cases.judges import Judges, fit_judges
from pathotune_pipeline.tuning.cases.learner import embed_cases
from pathotune_pipeline.tuning.cases.material import MODALITIES, CaseMaterial
from pathotune_pipeline.tuning.cases.parts import CaseParts
from pathotune_pipeline.tuning.cases.scoring import CaseAnswers, CaseScore, answer, score_cases
from pathotune_pipeline.tuning.cases.spec import JudgeSpec
from pathotune_pipeline.tuning.cases.table import Case

EVERYTHING = "all"
"""Name of the judgement with all modalities."""


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What is found with some of the modalities.

    Attributes:
        modalities: "all", or the one that was given alone.
        scores: by task and cohort.
    """

    modalities: str
    scores: tuple[CaseScore, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What a frozen network is found to be worth.

    Attributes:
        tasks: T names.
        ids: N cases, of all parts.
        parts: of each case.
        embeddings: float32 [N, T, D], with all that is known of each case.
        judges: fitted on the training part's.
        judged: cases that were judged.
        answers: [judged][T].
        judgements: with all modalities, then with each alone where that was asked for.
        pathways: which of them raise the risk.
        tiles: likewise, of a few cases.
        notes: what could not be fitted.
    """

    tasks: tuple[str, ...]
    ids: tuple[str, ...]
    parts: tuple[str, ...]
    embeddings: np.ndarray
    judges: Judges
    judged: tuple[str, ...]
    answers: list[list[CaseAnswers]]
    judgements: tuple[Judgement, ...]
    pathways: list[PathwayShare]
    tiles: list[TileShares]
    notes: tuple[str, ...]

    def told(self) -> dict[str, Any]:
        """For the card, in plain values."""
        return {
            "tasks": list(self.tasks),
            "scores": [
                {"modalities": each.modalities, **score.told()} for each in self.judgements for score in each.scores
            ],
            "judges": self.judges.told(),
        }


def judge_network(
    network: ModalNetwork, material: CaseMaterial, parts: CaseParts, spec: JudgeSpec, *, ablate: bool = False
) -> Findings:
    """Embed all cases with the network as it is, fit judges on the training part, judge the test part.

    Cohorts that the network has not seen have judges of their own, fitted on their own training cases.

    Args:
        network: in evaluation mode.
        material: of all cases.
        parts: of them.
        spec: penalties, resamplings.
        ablate: whether each modality is judged alone too.

    Raises:
        PathotuneError: embeddings are not finite.
    """
    of_case = parts.of_case()
    split = ((*parts.train, *parts.unseen.get("train", ())), (*parts.test, *parts.unseen.get("test", ())))
    vectors = _embed(network, material, tuple(of_case))
    tasks = tuple(network.spec.tasks)
    judges = _fit(vectors, tasks, material, split[0], spec)
    judged = tuple(case for case in sorted(split[1]) if case in vectors)
    answers, scores = judge_cases(judges, vectors, tasks, [material.cases[case] for case in judged], draws=spec.draws)
    judgements = [Judgement(EVERYTHING, tuple(scores))]
    there = material.counts(tuple(vectors))
    several = [name for name in MODALITIES if there[name]]
    for name in several if ablate and len(several) > 1 else ():
        alone = material.only([name])
        own = _embed(network, alone, tuple(of_case))
        cases = [material.cases[case] for case in sorted(split[1]) if case in own]
        fitted = _fit(own, tasks, alone, split[0], spec)
        judgements.append(Judgement(name, tuple(judge_cases(fitted, own, tasks, cases, draws=spec.draws)[1])))
    pathways, tiles = explain(network, judges, material, judged, task=survival_task(tasks))
    return Findings(
        tasks,
        tuple(vectors),
        tuple(of_case[case] for case in vectors),
        _stacked(vectors, tuple(vectors), network),
        judges,
        judged,
        answers,
        tuple(judgements),
        pathways,
        tiles,
        judges.notes,
    )


def judge_cases(
    judges: Judges, vectors: Mapping[str, np.ndarray], tasks: Sequence[str], cases: Sequence[Case], *, draws: int
) -> tuple[list[list[CaseAnswers]], list[CaseScore]]:
    """Answers [N][T] and scores of cases.

    Args:
        judges: fitted.
        vectors: case id -> embeddings, float32 [T, D].
        tasks: T names.
        cases: N, of none of which the judges have learnt.
        draws: resamplings for the intervals.
    """
    if not cases:
        return [], []
    answers = answer(judges, np.stack([vectors[case.case_id] for case in cases]), tasks, cases)
    return answers, score_cases(answers, tasks, cases, draws=draws)


def survival_task(tasks: Sequence[str]) -> str:
    """The task whose risk is explained."""
    return "survival" if "survival" in tasks else tasks[0]


def _embed(network: ModalNetwork, material: CaseMaterial, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Case id -> embeddings, of those of which anything is known, in the order of the ids."""
    known = material.usable(sorted(ids))
    return dict(zip(known, embed_cases(network, material, known), strict=True))


def _fit(
    vectors: Mapping[str, np.ndarray],
    tasks: Sequence[str],
    material: CaseMaterial,
    train: Sequence[str],
    spec: JudgeSpec,
) -> Judges:
    own = [case for case in sorted(train) if case in vectors]
    if not own:
        return Judges({}, {}, ("No training case: nothing could be fitted.",))
    return fit_judges(np.stack([vectors[case] for case in own]), tasks, [material.cases[case] for case in own], spec)


def _stacked(vectors: Mapping[str, np.ndarray], ids: Sequence[str], network: ModalNetwork) -> np.ndarray:
    if not ids:
        return np.zeros((0, len(network.spec.tasks), network.spec.out_dim), np.float32)
    return np.stack([vectors[case] for case in ids])
