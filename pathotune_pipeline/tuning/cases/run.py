"""From files to a folder: cases read and parted, the adapter trained, embeddings judged, everything written.

tuned.json             the card: encoder, settings, parts, scores, texts, versions; written last
modal.safetensors      the adapter with its card, and the frozen projector of the texts; no weights of the slide encoder
judges.safetensors     logistic regressions and Cox models on the embeddings
embeddings.npz         cases [N], tasks [T], parts [N], embeddings float32 [N, T, D]
cases.csv              part, modalities and texts of each case
predictions.csv        risk and class probabilities of the cases that nothing was learnt from, by task
scores.csv             every score with its interval
pathways.csv           which pathways raise the risk, by cohort
history.csv            one line for each epoch
report.html            the page
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pathotune_pipeline.adapt.modal.file import save_modal
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.provenance import fingerprint, now, package_versions
from pathotune_pipeline.slide_encoders import SlideEncoderSpec
from pathotune_pipeline.store.trained import TrainedModel
from pathotune_pipeline.tuning.cases.folder import CARD, FILES, MODAL, PAGE, case_rows, write_findings
from pathotune_pipeline.tuning.cases.judging import judge_network
from pathotune_pipeline.tuning.cases.page import write_page
from pathotune_pipeline.tuning.cases.source import CaseSource, OpenCases, open_cases
from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec
from pathotune_pipeline.tuning.cases.tune import REVISION, CaseTuning, tune_cases
from pathotune_pipeline.tuning.run.folder import begin, check_out, finish, history_rows, write_rows

FORMAT = "pathotune-slide-tuned"


def run_slide_tune(
    source: CaseSource,
    encoder: SlideEncoderSpec,
    spec: SlideTuneSpec,
    *,
    out: Path,
    overwrite: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> dict[str, Any]:
    """Join a slide encoder with genes and clinical variables on a case table, judge it, and write the result.

    Args:
        source: tables and store.
        encoder: the slide encoder.
        spec: everything else.
        out: folder; a training that was cut off there is gone on with.
        overwrite: whether an older result may be replaced.
        on_epoch: told of each epoch.

    Returns:
        The result's card.

    Raises:
        UsageError: settings, tables or store do not allow it.
        OutputExistsError: something else lies at `out`.
        WeightsError: weights are absent or do not fit.
    """
    began = time.perf_counter()
    check_out(out, overwrite=overwrite, card=CARD)
    opened = open_cases(source, encoder, spec)
    tuning = tune_cases(opened.inputs, opened.material, opened.parts, spec=spec, out=out, on_epoch=on_epoch)
    found = judge_network(tuning.network, opened.material, opened.parts, spec.judge, ablate=spec.ablate)
    card = {**_told(opened, tuning, encoder, spec), **found.told(), "seconds": round(time.perf_counter() - began, 3)}
    card["notes"] = [*opened.notes, *tuning.notes, *found.notes, *_label_notes(tuning)]
    begin(out, FILES)
    modal = save_modal(
        out / MODAL,
        tuning.network,
        name=out.name,
        slide_encoder=opened.inputs.recipe,
        projector=tuning.labels.projector,
        labels=tuning.labels.card,
        training={key: card[key] for key in ("parts", "best_epoch", "settings")},
    )
    write_rows(out / "cases.csv", case_rows(opened, tuning.labels))
    write_rows(out / "history.csv", history_rows(tuning.history))
    write_findings(out, found, opened.material)
    write_page(out / PAGE, found, opened.material, card=card, title=out.name)
    card["fingerprint"] = fingerprint("slide-tuned", REVISION, modal.recipe())
    _enter(opened, out.name, card["fingerprint"])
    finish(out, card, name=CARD)
    return card


def _enter(opened: OpenCases, name: str, prints: str) -> None:
    """Keep in the store which slides the network has learnt from, so that a forgotten case leads to it."""
    if opened.slides is None:
        return
    learnt = {*opened.parts.train, *opened.parts.val}
    learnt |= {
        case for part in ("train", "val") for case in opened.parts.unseen.get(part, ())
    }  # judges learn from these
    slides = {
        record.slide_id: case for case, records in opened.slides.found.items() if case in learnt for record in records
    }
    with contextlib.suppress(StoreUnwritableError):  # a store may be read where nobody may write
        TrainedModel(prints, name, str(opened.slides.features_set), slides).save(opened.slides.store)


def _told(opened: OpenCases, tuning: CaseTuning, encoder: SlideEncoderSpec, spec: SlideTuneSpec) -> dict[str, Any]:
    network, inputs = tuning.network, opened.inputs
    parts = opened.parts
    counted = {"train": parts.train, "val": parts.val, "test": parts.test}
    unseen = {f"unseen {name}": ids for name, ids in parts.unseen.items()}
    return {
        "format": FORMAT,
        "written": now(),
        "slide_encoder": None if inputs.encoder is None else inputs.encoder.card.model_dump(mode="json"),
        "slide_encoder_spec": None if inputs.encoder is None else encoder.model_dump(mode="json"),
        "features": None if opened.slides is None else str(opened.slides.features_set),
        "settings": spec.model_dump(mode="json"),
        "columns": dict(opened.table.columns),
        "clinical": inputs.clinical.told(),
        "pathways": 0 if inputs.pathways is None else len(inputs.pathways.pathways),
        "genes": 0 if inputs.pathways is None else len(inputs.pathways.genes),
        "text": tuning.labels.card.model_dump(mode="json"),
        "cohorts": list(opened.table.cohorts),
        "unseen_cohorts": list(spec.cases.hold_out),
        "parts": {
            name: {"cases": len(ids), **opened.material.counts(ids)} for name, ids in {**counted, **unseen}.items()
        },
        "drawn": parts.drawn,
        "best_epoch": tuning.best_epoch,
        "epochs": len(tuning.history),
        "stopped_early": tuning.stopped_early,
        "trained_parameters": sum(p.numel() for p in network.adapter.parameters()),
        "parameters": sum(p.numel() for p in network.parameters()),
        "versions": package_versions(),
    }


def _label_notes(tuning: CaseTuning) -> list[str]:
    note = tuning.labels.card.note
    return (
        [f"Text encoder {tuning.labels.card.encoder}: {note}. So nothing here shows label semantics."] if note else []
    )
