"""Patch retrieval: for each patch of one part, those of another that an encoder takes to be most like it.

As "A Generalizable Pathology Foundation Model Using a Unified Knowledge Distillation Pretraining Framework" (GPFM, arXiv
2407.18449) judges encoders: features freed of the gallery's mean, divided by its deviation, Euclidean distance; a query
counts as found among the first k where one of them is of its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import SpecError, UsageError
from pathotune_pipeline.evaluation.intervals import bootstrap_scores
from pathotune_pipeline.provenance import now, package_versions
from pathotune_pipeline.store.files import replace_file, to_json
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.patches.read import read_patches
from pathotune_pipeline.tuning.patches.splits import check_parts, grouped_split
from pathotune_pipeline.tuning.studies.embeddings import embed_patches
from pathotune_pipeline.tuning.studies.file import StudyFile
from pathotune_pipeline.tuning.studies.material import items_of
from pathotune_pipeline.tuning.studies.protocol import named_parts
from pathotune_pipeline.tuning.studies.spec import RetrievalSpec
from pathotune_pipeline.tuning.studies.tables import SUMMARY_COLUMNS, as_csv
from pathotune_pipeline.tuning.studies.write import SUMMARY_TABLE

METHOD = "retrieval"
QUERIES_TABLE, RESULT = "queries.csv", "retrieval.json"
_QUERIES_AT_ONCE, _GALLERY_AT_ONCE = 512, 8192
_LEAST_STD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Who asks, and who is asked.

    Attributes:
        gallery: [N] int64, patches that may be retrieved.
        queries: [Q] int64.
        part: what the queries' part is called.
        notes: how the parts came about.
    """

    gallery: np.ndarray
    queries: np.ndarray
    part: str
    notes: tuple[str, ...] = ()


def divide(patches: PatchSet, spec: RetrievalSpec) -> Asked:
    """The gallery is the part `train`; `test` asks, or `val` where there is none; what is not named is cut by group.

    Raises:
        ManifestError: no part is train, or a class is in too few groups.
        PathotuneError: a group is in two parts.
    """
    named, notes = named_parts(patches, test_share=spec.test_share, seed=spec.split_seed)
    part = "test" if len(named["test"]) or not len(named["val"]) else "val"
    if not len(named[part]):
        shares = {"train": 1 - spec.test_share, "test": spec.test_share}
        named |= grouped_split(patches, shares, seed=spec.split_seed, index=named["train"])
        notes.append("The data name neither a test nor a validation part: queries are cut off by slide or patient.")
    elif part == "val":
        notes.append("There is no test part: the validation part asks.")
    check_parts(patches, {"train": named["train"], part: named[part]}, where="retrieval")
    alone = ~np.isin(patches.labels[named[part]], patches.labels[named["train"]])
    if alone.any():
        notes.append(f"{int(alone.sum())} queries are of classes that the gallery lacks; they count as not found.")
    return Asked(named["train"], named[part], part, tuple(notes))


def nearest_patches(gallery: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Places in the gallery of the patches nearest to each query, the nearest first; of equals, the first in the gallery.

    Features are freed of the gallery's mean and divided by its deviation, in float64; a number that is the same in the
    whole gallery is left undivided.

    Args:
        gallery: float [N, D].
        queries: float [Q, D].
        count: K of them, or N where that is less.

    Returns:
        int64 [Q, min(K, N)].
    """
    mean, std = gallery.mean(axis=0, dtype=np.float64), gallery.std(axis=0, dtype=np.float64)
    std = np.where(std > _LEAST_STD, std, 1.0)

    def scaled(features: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((features.astype(np.float64) - mean) / std)

    found = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        asked = scaled(queries[start : start + _QUERIES_AT_ONCE])
        least = torch.zeros(len(asked), 0, dtype=torch.float64)
        places = torch.zeros(len(asked), 0, dtype=torch.int64)
        for begin in range(0, len(gallery), _GALLERY_AT_ONCE):
            known = scaled(gallery[begin : begin + _GALLERY_AT_ONCE])
            squared = asked.square().sum(1, keepdim=True) + known.square().sum(1) - 2 * asked @ known.T
            here = torch.arange(begin, begin + len(known)).expand(len(asked), -1)
            ordered = torch.cat([least, squared], 1).sort(dim=1, stable=True)
            kept = ordered.indices[:, :count]
            least, places = ordered.values[:, :count], torch.cat([places, here], 1).gather(1, kept)
        found.append(places)
    return torch.cat(found).numpy()


def found_within(retrieved: np.ndarray, targets: np.ndarray, tops: Sequence[int]) -> np.ndarray:
    """Whether one of the first k that were retrieved is of the query's class, bool [Q, len(tops)].

    Args:
        retrieved: int [Q, K] classes, the nearest first.
        targets: int [Q].
        tops: numbers k.
    """
    right = retrieved == targets[:, None]
    return np.stack([right[:, :top].any(axis=1) for top in tops], axis=1)


def run_retrieval(path: Path, out: Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Judge the encoders of a study's file by retrieval; features that were made before are taken from `out`.

    Args:
        path: the study's YAML: patches, encoders, perhaps retrieval and baseline (an encoder's name).
        out: folder of features and tables.
        flags: settings that go over the file's.

    Returns:
        "summary" (rows as in a study's summary.csv), "notes" and what else `retrieval.json` holds.

    Raises:
        UsageError: a setting or the data are wrong, or `out` cannot be written.
        WeightsError: an encoder's weights are absent or do not fit.
    """
    file = StudyFile.read(path)
    spec, encoders = file.retrieval_spec(flags), file.encoder_specs()
    if not encoders:
        raise SpecError("study retrieval compares encoders. Name at least one under `encoders`.")
    baseline = file.baseline or next(iter(encoders))
    if baseline not in encoders:
        raise SpecError(f"baseline: {baseline!r} is none of the encoders {', '.join(encoders)}.")
    patches = read_patches(file.patches)
    patches = patches.subset(patches.where(labelled=True))
    asked = divide(patches, spec)
    items, nearest = items_of(patches), dict[str, np.ndarray]()
    for name, encoder in encoders.items():
        made = create_adapted_encoder(encoder, device=pick_device(encoder.device))
        features = embed_patches(made, patches, items, out)
        nearest[name] = nearest_patches(features[asked.gallery], features[asked.queries], max(spec.tops))
    hits = {
        name: found_within(patches.labels[asked.gallery][places], patches.labels[asked.queries], spec.tops)
        for name, places in nearest.items()
    }
    summary = _summary(hits, patches, asked, spec=spec, baseline=baseline)
    result = {
        "title": file.title or "Study: retrieval",
        "note": file.note,
        "notes": [*patches.notes, *asked.notes],
        "settings": {"retrieval": spec.model_dump(mode="json")},
        "gallery": len(asked.gallery),
        "queries": len(asked.queries),
        "classes": list(patches.classes),
        "summary": summary,
        "made": now(),
        "versions": package_versions(),
    }
    try:
        replace_file(out / QUERIES_TABLE, _queries(nearest, patches, asked).encode())
        replace_file(out / SUMMARY_TABLE, as_csv(SUMMARY_COLUMNS, summary).encode())
        replace_file(out / RESULT, to_json(result))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}). Give a folder with room.") from None
    return result


def _summary(
    hits: Mapping[str, np.ndarray], patches: PatchSet, asked: Asked, *, spec: RetrievalSpec, baseline: str
) -> list[dict[str, Any]]:
    """Rows of SUMMARY_COLUMNS: each encoder's share of queries that found their class, and how much more than another's."""
    named = [bool(patches.groups[place]) for place in asked.queries.tolist()]
    groups = [
        f"group {patches.groups[place]}" if patches.groups[place] else f"image {patches.names[place]}"
        for place in asked.queries.tolist()
    ]
    rows = []
    for name, found in hits.items():
        for column, top in enumerate(spec.tops):
            own, other = (each[:, column].astype(np.float64) for each in (found, hits[baseline]))
            intervals = bootstrap_scores(
                {"own": _Share(own), "apart": _Share(own - other)}, groups=groups, draws=spec.bootstrap
            )
            sure, apart = intervals["own"], intervals["apart"] if name != baseline else None
            known = {
                "encoder": name, "method": METHOD, "train_domain": "", "fraction": 1.0, "test": asked.part,
                "in_domain": True, "score": f"top_{top}", "mean": float(own.mean()), "runs": 1, "cells": 1,
                "images": len(own), "groups": len(set(groups)), "reason": "",
                "resampled": "group" if all(named) else "group or image" if any(named) else "image",
            }  # fmt: skip
            if sure is not None:
                known |= {"low": sure.low, "high": sure.high, "level": sure.level}
            if apart is not None:
                difference = {"against": baseline, "difference": float((own - other).mean())}
                known |= {**difference, "difference_low": apart.low, "difference_high": apart.high}
            rows.append(dict.fromkeys(SUMMARY_COLUMNS) | known)
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """The weighted mean of [Q] values, of weights [R, Q]."""

    values: np.ndarray

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        mean: np.ndarray = weights @ self.values / weights.sum(axis=1)
        return mean


def _queries(nearest: Mapping[str, np.ndarray], patches: PatchSet, asked: Asked) -> str:
    """A row for each encoder and query: which patches were retrieved, of which classes."""
    rows, columns = [], ["encoder", "query", "class"]
    for name, places in nearest.items():
        for query, found in zip(asked.queries.tolist(), asked.gallery[places].tolist(), strict=True):
            row = {"encoder": name, "query": patches.names[query], "class": patches.classes[patches.labels[query]]}
            for rank, place in enumerate(found, 1):
                row |= {
                    f"nearest_{rank}": patches.names[place],
                    f"class_{rank}": patches.classes[patches.labels[place]],
                }
            rows.append(row)
    return as_csv([*columns, *list(rows[0])[len(columns) :]], rows)
