"""Tensors and a card in one safetensors file: written whole or not at all, read with words for whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.spec import Spec

C = TypeVar("C", bound=Spec)


@dataclass(frozen=True)
class TensorFile(Generic[C]):
    """One kind of file.

    Attributes:
        card: class of its card.
        key: the card's place in the file's metadata.
        what: the file in words, for messages.
        made_by: what makes such a file.
        usual_name: of such a file in a folder.
    """

    card: type[C]
    key: str
    what: str
    made_by: str
    usual_name: str

    def check_name(self, path: Path) -> None:
        """Raise UsageError unless the name ends as it must."""
        if path.suffix != ".safetensors":
            raise UsageError(f"{self.what} file {path}: its name must end in .safetensors.")

    def write(self, path: Path, tensors: Mapping[str, Tensor], card: C) -> None:
        """Write both; the folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(dict(tensors), metadata={self.key: card.model_dump_json()}))

    def read(self, path: Path, *, tensors: bool) -> tuple[C, dict[str, Tensor]]:
        """The card, and the tensors where they are wanted.

        Raises:
            UsageError: nothing lies there, or it is no such file.
            CorruptDataError: the file is damaged.
        """
        if path.is_dir():
            raise UsageError(f"{self.what} file {path}: is a folder. Give the file in it: {path / self.usual_name}.")
        if not path.is_file():
            raise UsageError(f"{self.what} file {path}: nothing lies there. Give a file of `{self.made_by}`.")
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(self.key)
                loaded = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise CorruptDataError(f"{path}: cannot be read ({error}). Copy or train it again.") from error
        if text is None:
            raise UsageError(f"{self.what} file {path}: it is a safetensors file, and no {self.what} of this package.")
        try:
            return self.card.parse(json.loads(text), str(path)), loaded
        except (ValueError, TypeError) as error:
            raise CorruptDataError(
                f"{path}: its card cannot be read ({error}). A newer version may have written it."
            ) from error


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors as they are stored: on the CPU, numbers as float32, counts as they are."""
    state = {key: tensor.detach().cpu() for key, tensor in module.state_dict().items()}
    return {
        key: (tensor.float() if tensor.is_floating_point() else tensor).contiguous() for key, tensor in state.items()
    }


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """Where two recipes differ: "key: this there, that here; ..."; empty where they do not."""
    return "; ".join(
        f"{key}: {_short(one.get(key))} there, {_short(other.get(key))} here"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    )


def unfitting(path: Path, error: Exception) -> CorruptDataError:
    """The error for tensors whose names or shapes are not those that the card gives."""
    first = " ".join(str(error).split())[:300]
    return CorruptDataError(f"{path}: its tensors do not fit what its card says ({first}). Train it again.")


def changed(path: Path) -> CorruptDataError:
    """The error for tensors with another SHA-256 than the card's."""
    return CorruptDataError(f"{path}: its tensors are not those that its card tells of. Copy or train it again.")


def _short(value: object) -> str:
    return f"{value:.12}..." if isinstance(value, str) and len(value) == 64 else str(value)
