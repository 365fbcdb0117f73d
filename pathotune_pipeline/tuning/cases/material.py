"""What a network is given of each case: tiles, expression, clinical values, whichever there are."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import torch

from pathotune_pipeline.adapt.modal.adapter import ModalCase
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.tuning.cases.slides import CaseTiles
from pathotune_pipeline.tuning.cases.table import Case

Modality = Literal["image", "genes", "clinical"]
MODALITIES: tuple[Modality, ...] = ("image", "genes", "clinical")
_JUDGED = 0xE7A1


class TilesByCase(Protocol):
    """Cases' tiles: `CaseSlides`, or a dict."""

    def __contains__(self, case_id: object) -> bool: ...
    def __getitem__(self, case_id: str, /) -> CaseTiles: ...


@dataclass(frozen=True, slots=True, eq=False)
class CaseMaterial:
    """What is known of cases.

    Attributes:
        cases: by id.
        tiles: of those that have slides; None where slides have no part in it.
        genes: float32 [G] of those that were sequenced, NaN where nothing was measured.
        clinical: float32 [C] of each, NaN where nothing is known; empty where clinical fields have no part in it.
        max_tiles: most tiles that are given at once.
        device: where tensors go.
    """

    cases: Mapping[str, Case]
    tiles: TilesByCase | None = None
    genes: Mapping[str, np.ndarray] = field(default_factory=dict)
    clinical: Mapping[str, np.ndarray] = field(default_factory=dict)
    max_tiles: int = 25_000
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def only(self, modalities: Sequence[Modality]) -> CaseMaterial:
        """The same cases without the other modalities."""
        return replace(
            self,
            tiles=self.tiles if "image" in modalities else None,
            genes=self.genes if "genes" in modalities else {},
            clinical=self.clinical if "clinical" in modalities else {},
        )

    def modalities(self, case_id: str) -> tuple[Modality, ...]:
        """What is there of a case."""
        there = (
            self.tiles is not None and case_id in self.tiles,
            case_id in self.genes and not bool(np.isnan(self.genes[case_id]).all()),
            case_id in self.clinical and not bool(np.isnan(self.clinical[case_id]).all()),
        )
        return tuple(name for name, each in zip(MODALITIES, there, strict=True) if each)

    def usable(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Those of the cases of which anything is there."""
        return tuple(case for case in ids if self.modalities(case))

    def counts(self, ids: Sequence[str]) -> dict[str, int]:
        """How many of the cases have each modality."""
        there = [self.modalities(case) for case in ids]
        return {name: sum(name in each for each in there) for name in MODALITIES}

    def given(self, case_id: str, *, key: Sequence[int] = ()) -> ModalCase:
        """A case as the network takes it.

        Args:
            case_id: which.
            key: decides which tiles are drawn where there are more than `max_tiles`; by default the case's id alone.

        Raises:
            UsageError: nothing is there of it.
        """
        there = self.modalities(case_id)
        if not there:
            raise UsageError(
                f"case {case_id!r}: no slide, no expression and no clinical value of it is known. Leave it out."
            )
        made = ModalCase(
            genes=self._tensor(self.genes[case_id]) if "genes" in there else None,
            clinical=self._tensor(self.clinical[case_id]) if "clinical" in there else None,
        )
        if self.tiles is None or "image" not in there:
            return made
        tiles = self.shown(case_id, key=key)
        features = self._tensor(np.asarray(tiles.features, np.float32))
        coords = torch.from_numpy(tiles.coords).to(self.device)
        return replace(made, features=features, coords=coords, stride_px=tiles.stride_px)

    def shown(self, case_id: str, *, key: Sequence[int] = ()) -> CaseTiles:
        """The tiles that `given` gives."""
        if self.tiles is None:
            raise UsageError(f"case {case_id!r}: slides have no part in it.")
        return self.tiles[case_id].part(self.max_tiles, key=tuple(key) or (_JUDGED, zlib.crc32(case_id.encode())))

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
