"""What encoders are worth on real data: RankMe, probes of patches, ABMIL on the regions of a slide. Each score is kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from adaptation import mitosis, tissue
from real_bags import TUMOUR, attention_score, cell_of, cut_regions, slide_bag, tissue_spec

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.evaluation.comparison import compare_results
from pathotune_pipeline.evaluation.crossval import crossval
from pathotune_pipeline.evaluation.result import CrossvalResult, read_result, write_result
from pathotune_pipeline.evaluation.run_scores import compare_runs
from pathotune_pipeline.reports.study import write_study_page
from pathotune_pipeline.store.files import parse_json, replace_file, to_json
from pathotune_pipeline.tuning.patches.spec import PatchSpec
from pathotune_pipeline.tuning.pretrain.rankme import rankme
from pathotune_pipeline.tuning.pretrain.sources import open_source
from pathotune_pipeline.tuning.pretrain.spec import PretrainSpec
from pathotune_pipeline.tuning.studies.file import merged
from pathotune_pipeline.tuning.studies.ledger import Ledger, records_of
from pathotune_pipeline.tuning.studies.opening import OpenStudy, StudyRequest, open_study
from pathotune_pipeline.tuning.studies.study import run_study

Encoders = Mapping[str, Mapping[str, Any]]
PAIRS = (
    ("base + puzzle prompts", "base"),
    ("base + MAE", "base"),
    ("base + puzzle prompts", "base + MAE"),
    ("student distilled", "student untrained"),
    ("student distilled", "base"),
)
"""Encoders that are compared: the first's score less the second's."""
SCORE = "balanced_accuracy"
HEAD = "abmil"
SIDE_PX = 64
CAMELYON_NOTE = "89 patches, split one by one: there are four slides, of which two have one class each."


def judge_rankme(encoders: Encoders, spec: PretrainSpec, work: Path) -> None:
    """RankMe of each encoder's features of the images that the runs watch."""
    place = work / "rankme.json"
    found = kept(place)
    missing = [name for name in encoders if name not in found]
    if not missing:
        return
    source = open_source(spec.data, input_px=SIDE_PX, seed=spec.seed)
    images = source.watched(spec.watch_images)
    for name in missing:
        encoder = create_adapted_encoder(EncoderSpec.parse(dict(encoders[name])))
        parts = [
            encoder.encode(images[at : at + encoder.batch_size]) for at in range(0, len(images), encoder.batch_size)
        ]
        found[name] = rankme(torch.cat(parts))
        replace_file(place, to_json(found))


def judge_patches(encoders: Encoders, settings: Mapping[str, Any], *, data: Path, work: Path, quick: bool) -> None:
    """Probes of patches of each data set: a study's folder, and scores.json in it with differences."""
    common = {name: settings[name] for name in ("adapt", "methods", "scaling")}
    for name, own in {"tissue": tissue(data, work), "camelyon": camelyon(data), "mitosis": mitosis(data)}.items():
        out = work / "patches" / name
        out.mkdir(parents=True, exist_ok=True)
        own["patches"] |= {"side_px": SIDE_PX, "cache": str(work / "cache")}
        if quick:
            own = merged(own, {"scaling": {"folds": 2, "fractions": [0.3]}})
        file = out / "study.yaml"
        whole = {**merged(common, own), "encoders": {name: dict(each) for name, each in encoders.items()}}
        file.write_text(yaml.safe_dump(whole, sort_keys=False))
        request = StudyRequest("scaling", file, out, {})
        study = open_study(request)
        rows = run_study(request, opener=lambda _, study=study: study, on_cell=_tell)["summary"]
        write_study_page(out)
        replace_file(out / "scores.json", to_json({"rows": rows, "pairs": differences(study, out)}))


def camelyon(data: Path) -> dict[str, Any]:
    """Normal or tumour, in lymph nodes (CC0)."""
    source = data / "patches" / "camelyon-patches"
    return {
        "title": "Lymph node, normal or tumour",
        "note": CAMELYON_NOTE,
        "patches": PatchSpec(source=source).model_dump(mode="json", include={"source"}),
        "scaling": {"folds": 5},
    }


def differences(study: OpenStudy, out: Path) -> list[dict[str, Any]]:
    """Of each pair of encoders, by method and test set, in the same folds."""
    ledger = Ledger(out, study.grid.items)
    records = records_of(ledger, list(study.grid.cells))
    said = {
        (cell.contender.encoder, cell.contender.method, cell.fold, test): run
        for cell in study.grid.cells
        for test, run in records[cell.file_name].tests.items()
    }
    rows = []
    for first, second in PAIRS:
        for method, test in sorted({(method, test) for encoder, method, _, test in said if encoder == first}):
            runs = [
                (run, said[second, method, fold, test])
                for (encoder, own, fold, where), run in said.items()
                if (encoder, own, where) == (first, method, test) and (second, method, fold, test) in said
            ]
            if runs:
                apart = compare_runs(runs, draws=study.draws)[SCORE]
                told = {"mean": apart.mean, "low": apart.low, "high": apart.high}
                rows.append({"first": first, "second": second, "method": method, "test": test, **told})
    return rows


def judge_regions(encoders: Encoders, *, data: Path, work: Path, quick: bool) -> None:
    """ABMIL on the regions of `crc01` by each encoder's features: a cross-validation each, and regions.json."""
    grid = np.load(data / "truth" / "crc01" / "class_grid_228x167.npy")
    place = work / "regions.json"
    found = kept(place)
    results: dict[str, CrossvalResult] = {}
    for name, settings in list(encoders.items())[: 2 if quick else None]:
        folder = work / "regions" / name.replace(" ", "_").replace("/", "_").replace(":", "_")
        if name not in found or not folder.exists():
            slide = slide_bag(data / "slides" / "crc01.tif", work / "store", settings)
            regions = cut_regions(slide, cell_of(np.asarray(slide.coords), grid) == TUMOUR)
            spec = tissue_spec(HEAD)
            result = crossval(regions.bags, spec.with_values(train={**spec.train, "epochs": 2}) if quick else spec)
            folder.parent.mkdir(exist_ok=True)
            write_result(result, folder, overwrite=True)
            score = result.scores["auroc"]
            told = {key: score[key] for key in ("value", "low", "high")}
            found[name] = {"auroc": told, "attention": attention_score(result, regions), "regions": len(regions.bags)}
            replace_file(place, to_json({**found, "pairs": []}))
            sys.stderr.write(f"regions: {name} {score['value']:.3f}\n")
        results[name] = read_result(folder)
    pairs = []
    for first, second in PAIRS:
        if first in results and second in results:
            apart = compare_results(results[first], results[second], "auroc")
            told = {"mean": apart.difference, "low": apart.low, "high": apart.high, "p_value": apart.p_value}
            pairs.append({"first": first, "second": second, **told})
    replace_file(place, to_json({**found, "pairs": pairs}))


def kept(place: Path) -> dict[str, Any]:
    """What is known already."""
    found = parse_json(place.read_bytes()) if place.exists() else None
    return found or {}


def _tell(cell: Any, record: Any) -> None:
    reason = f": {record.reason}" if record.reason else ""
    sys.stderr.write(f"patches: {cell.title}, {record.status}{reason}\n")
