"""Answers that are kept in the store's cache, so that a night reads features of new and changed slides alone.

An answer is taken again where everything that decides it is the same to the byte: the model's weights, settings and
temperatures, the rules of abstaining, the slides' commits with their checksums, the libraries and the kind of device. The
file begins with the SHA-256 of the rest; one that is damaged is no file. It may be deleted: answers are then worked out anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.models.folder import Model
from pathotune_pipeline.models.inputs import InputSlide
from pathotune_pipeline.models.quality import PredictSpec
from pathotune_pipeline.models.table import PredictionLine
from pathotune_pipeline.provenance import package_versions
from pathotune_pipeline.spec import hashed_values
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.store import FeatureStore

REVISION = 1
"""Raised when answers of the same weights and features change."""
SAVE_EVERY_S = 30.0
"""What a kill may cost."""
_LIBRARIES = ("pathotune_pipeline", "numpy", "torch")
_OF_A_MOMENT = "committed_ns"
"""Fact of a commit that changes while its contents do not."""


class KeptAnswers:
    """Lines of predictions by slide, each with the digest of what decided it."""

    def __init__(self, model: Model, store: FeatureStore, spec: PredictSpec) -> None:
        self._store = store
        self._file = f"{layout.CACHE}/{layout.ANSWERS}{model.short}.json"
        self._basis = _sha256(json.dumps(_basis(model, spec), sort_keys=True).encode())
        self._known = _read(store.place.read(self._file))
        self._new = 0
        self._saved = time.monotonic()

    def take(self, slides: Sequence[InputSlide]) -> list[PredictionLine] | None:
        """The lines of slides that are answered together; None where one of them is not known, or not of the same."""
        digest, found = self._digest(slides), []
        for slide in slides:
            entry = self._known.get(_hash(slide.slide_id))
            if entry is None or entry[0] != digest:
                return None
            found.append(_line(slide, entry[1]))
        return found

    def keep(self, slides: Sequence[InputSlide], lines: Sequence[PredictionLine]) -> None:
        """Enter the lines of slides that were answered together, in the slides' order."""
        digest = self._digest(slides)
        for slide, line in zip(slides, lines, strict=True):
            self._known[_hash(slide.slide_id)] = (digest, _plain(line))
            self._new += 1
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Replace the file whole; where the store cannot be written, the next night works everything out again."""
        self._saved = time.monotonic()
        if not self._new:
            return
        body = json.dumps(self._known, separators=(",", ":")).encode()
        with contextlib.suppress(StoreUnwritableError, OSError):
            self._store.place.replace(self._file, _sha256(body).encode() + b"\n" + body, durable=False)
        self._new = 0

    def _digest(self, slides: Sequence[InputSlide]) -> str:
        """Of all that decides the answers to slides that are one bag."""
        told = [[slide.slide_id, _commit(slide)] for slide in slides]
        return _sha256(json.dumps([self._basis, told], sort_keys=True).encode())


def _basis(model: Model, spec: PredictSpec) -> dict[str, Any]:
    """What decides answers besides the slides."""
    versions = package_versions()
    device = next((parameter.device.type for parameter in model.members[0].model.parameters()), "cpu")
    return {
        "revision": REVISION,
        "model": model.card.fingerprint,
        "heads": [member.spec.model_dump(mode="json") for member in model.members],
        "temperatures": list(model.card.temperatures),
        "unit": model.fused,
        "rules": hashed_values(spec),
        "versions": {name: versions.get(name) for name in _LIBRARIES},
        "device": device,
    }


def _commit(slide: InputSlide) -> dict[str, Any]:
    """All that a slide's record says of its features: fingerprints of the whole chain, checksums, counts, flags."""
    if slide.record is None:
        return {}
    return {name: value for name, value in slide.record.facts.items() if name != _OF_A_MOMENT}


def _plain(line: PredictionLine) -> dict[str, Any]:
    values = {name: value.tolist() for name, value in line.values.items()}  # JSON keeps every bit of a float64
    return {"status": line.status, "reason": line.reason, "tiles": line.tiles, "values": values}


def _line(slide: InputSlide, plain: Mapping[str, Any]) -> PredictionLine:
    values = {name: np.array(value, np.float64) for name, value in plain["values"].items()}
    told = (plain["status"], plain["reason"])
    return PredictionLine(slide.slide_id, slide.case_id, *told, values=values, tiles=plain["tiles"], new=False)


def _read(data: bytes | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """What was kept; nothing where the file is absent or not what was written."""
    head, _, body = (data or b"").partition(b"\n")
    if _sha256(body).encode() != head:
        return {}
    return {name: (digest, line) for name, (digest, line) in json.loads(body).items()}


def _hash(slide_id: str) -> str:
    return _sha256(slide_id.encode())[:32]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
