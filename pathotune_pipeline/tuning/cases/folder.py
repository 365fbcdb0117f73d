"""What a tuning, or an evaluation of one, leaves on disk, and how that is read again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.adapt.modal.adapter import ModalNetwork
from pathotune_pipeline.adapt.modal.card import ModalCard
from pathotune_pipeline.adapt.modal.file import load_modal, read_modal_card
from pathotune_pipeline.adapt.modal.spec import TEXT_KINDS
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import CorruptDataError, ManifestError, UsageError
from pathotune_pipeline.slide_encoders import SlideEncoderSpec, create_slide_encoder
from pathotune_pipeline.tuning.cases.judges import Judges
from pathotune_pipeline.tuning.cases.judging import Findings
from pathotune_pipeline.tuning.cases.labels import CaseLabels
from pathotune_pipeline.tuning.cases.material import CaseMaterial
from pathotune_pipeline.tuning.cases.scale import ClinicalScale
from pathotune_pipeline.tuning.cases.scoring import CaseAnswers, CaseScore, most_probable
from pathotune_pipeline.tuning.cases.source import OpenCases
from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec
from pathotune_pipeline.tuning.run.folder import write_rows

CARD, EVALUATED = "tuned.json", "evaluated.json"
MODAL, JUDGES, EMBEDDINGS, PAGE = "modal.safetensors", "judges.safetensors", "embeddings.npz", "report.html"
FILES = (
    CARD, MODAL, JUDGES, EMBEDDINGS, PAGE, "cases.csv", "predictions.csv", "scores.csv", "pathways.csv", "history.csv"
)  # fmt: skip
"""Of a tuning; the card first."""


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A finished tuning.

    Attributes:
        folder: where it lies.
        card: tuned.json.
        spec: how it was trained.
        clinical: fields, as its training cases had them.
        judges: of its own cohorts.
        modal: card of its network.
    """

    folder: Path
    card: Mapping[str, Any]
    spec: SlideTuneSpec
    clinical: ClinicalScale
    judges: Judges
    modal: ModalCard

    def parts(self) -> dict[str, str]:
        """Case id -> part in the training, of its unseen cohorts too.

        Raises:
            CorruptDataError: cases.csv cannot be read.
        """
        try:
            table = read_table(self.folder / "cases.csv")
            return {row["case_id"]: row["part"] for row in table.rows}
        except (ManifestError, KeyError) as error:
            raise CorruptDataError(
                f"{self.folder / 'cases.csv'}: cannot be read ({error}). Copy the folder again."
            ) from None

    def network(self, *, in_dim: int | None, weights: str | None = None) -> ModalNetwork:
        """Its network, in evaluation mode.

        Args:
            in_dim: width of the tiles' features that it will be given; None where no slides are.
            weights: file with the slide encoder's weights, where they are not where they were.

        Raises:
            WeightsError: the slide encoder cannot be had.
            SpecError: the features have another width.
            UsageError: it is another slide encoder than at the training.
        """
        encoder = None
        if self.card["slide_encoder_spec"] is not None:
            asked = dict(self.card["slide_encoder_spec"]) | ({} if weights is None else {"weights": weights})
            width = in_dim if in_dim is not None else int(self.card["slide_encoder"]["in_dim"])
            encoder = create_slide_encoder(SlideEncoderSpec.parse(asked), in_dim=width)
        recipe = None if encoder is None else encoder.card.recipe()
        return load_modal(self.folder / MODAL, encoder, recipe).network


def read_tuned(folder: Path) -> Tuned:
    """Read what `run_slide_tune` wrote.

    Raises:
        UsageError: there is no finished tuning.
        CorruptDataError: a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{folder}: there is no {CARD} ({error.strerror or error}). Give a folder that `pathotune slide-tune` finished."
        ) from None
    except ValueError as error:
        raise CorruptDataError(f"{path}: is not JSON ({error}). Copy or train it again.") from None
    try:
        spec, clinical = SlideTuneSpec.parse(card["settings"], where=str(path)), ClinicalScale.of(card["clinical"])
        judges = Judges.of(card["judges"], load_file(folder / JUDGES))
    except (KeyError, TypeError, OSError, SafetensorError) as error:
        raise CorruptDataError(f"{folder}: cannot be read ({error!r}). Copy or train it again.") from None
    return Tuned(folder, card, spec, clinical, judges, read_modal_card(folder / MODAL))


def write_findings(out: Path, found: Findings, material: CaseMaterial) -> None:
    """Write judges, embeddings, predictions, scores and pathways.

    Args:
        out: folder.
        found: what was found.
        material: the cases.
    """
    from safetensors.torch import save

    write_atomically(out / JUDGES, save(found.judges.tensors()))
    write_embeddings(out, found.ids, found.parts, found.tasks, found.embeddings)
    write_rows(out / "predictions.csv", prediction_rows(found.judged, found.tasks, found.answers, material))
    write_rows(
        out / "scores.csv", score_rows([(each.modalities, score) for each in found.judgements for score in each.scores])
    )
    write_rows(out / "pathways.csv", _pathway_rows(found))


def write_embeddings(
    out: Path, ids: Sequence[str], parts: Sequence[str], tasks: Sequence[str], embeddings: np.ndarray
) -> None:
    """Write embeddings.npz, all or nothing."""
    data = io.BytesIO()
    np.savez(data, cases=np.array(ids), parts=np.array(parts), tasks=np.array(tasks), embeddings=embeddings)
    write_atomically(out / EMBEDDINGS, data.getvalue())


def case_rows(opened: OpenCases, labels: CaseLabels) -> Iterable[Sequence[Any]]:
    """Lines of cases.csv."""
    part, texts = opened.parts.of_case(), dict(zip(labels.ids, labels.texts, strict=True))
    yield ["case_id", "cohort", "part", "seen", "modalities", "label", "months", "event", *TEXT_KINDS]
    unseen = {case for ids in opened.parts.unseen.values() for case in ids}
    for case in opened.table.cases:
        if case.case_id not in part:
            continue
        months, event = case.survival or ("", "")
        told = [text or "" for text in texts.get(case.case_id, ("",) * len(TEXT_KINDS))]
        there = "+".join(opened.material.modalities(case.case_id))
        seen = int(case.case_id not in unseen)
        known = [months, "" if event == "" else int(event)]
        yield [case.case_id, case.cohort, part[case.case_id], seen, there, case.label or "", *known, *told]


def prediction_rows(
    ids: Sequence[str], tasks: Sequence[str], answers: Sequence[Sequence[CaseAnswers]], material: CaseMaterial
) -> Iterable[Sequence[Any]]:
    """Lines of predictions.csv: for each case and task the risk, the most probable class, and all probabilities."""
    yield [
        "case_id", "cohort", "task", "modalities", "label", "months", "event", "risk", "predicted", "probabilities", "cohort_said",
    ]  # fmt: skip
    for case_id, row in zip(ids, answers, strict=True):
        case = material.cases[case_id]
        months, event = case.survival or ("", "")
        known = [case.label or "", months, "" if event == "" else int(event)]
        there = "+".join(material.modalities(case_id))
        for task, said in zip(tasks, row, strict=True):
            probs = said.probabilities
            told = ";".join(f"{name}={value:.6g}" for name, value in (probs or {}).items())
            best, of = most_probable(probs), most_probable(said.cohort)
            yield [case_id, case.cohort, task, there, *known, "" if said.risk is None else said.risk, best, told, of]


def score_rows(scores: Sequence[tuple[str, CaseScore]]) -> Iterable[Sequence[Any]]:
    """Lines of scores.csv."""
    yield ["modalities", "task", "cohort", "score", "value", "low", "high", "cases", "events", "reason"]
    for modalities, each in scores:
        told = each.told()
        names = ("task", "cohort", "score", "value", "low", "high", "cases", "events", "reason")
        yield [modalities, *("" if told[name] is None else told[name] for name in names)]


def _pathway_rows(found: Findings) -> Iterable[Sequence[Any]]:
    yield ["cohort", "pathway", "mean_abs", "mean", "cases"]
    for each in found.pathways:
        yield [each.cohort, each.pathway, each.size, each.mean, each.cases]
