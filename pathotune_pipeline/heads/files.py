"""The two files of a trained head, `head.safetensors` and `head.json`, and how they are told from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from pathotune_pipeline.engine.checkpoint import load_checkpoint
from pathotune_pipeline.errors import CorruptDataError

FORMAT = "pathotune-head"
REVISION = 1
REVISION_WITH_TASK = 2
"""Of heads whose logits are not those of one class for each slide; older versions would misread them."""


def read_head_files(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and record of a trained head.

    Raises:
        FileNotFoundError: there is none in the folder.
        CorruptDataError: it cannot be read, or is of a format this version does not know.
    """
    state, record = load_checkpoint(folder / "head")
    if record.get("format") != FORMAT or record.get("revision") not in (REVISION, REVISION_WITH_TASK):
        found = f"{record.get('format')!r} revision {record.get('revision')!r}"
        raise CorruptDataError(f"{folder}: expected {FORMAT!r} revision {REVISION}, found {found}.")
    return state, record
