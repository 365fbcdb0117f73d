"""Weights of the published models, under the names their authors' code gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from pathotune_pipeline.errors import UsageError, WeightsError
from pathotune_pipeline.heads.head import MILHead

_ABMIL_UNGATED = {"attention.0": "attention_v", "attention.2": "attention_w", "classifier.0": "classifier"}
_ABMIL_GATED = {
    "attention_V.0": "attention_v",
    "attention_U.0": "attention_u",
    "attention_w": "attention_w",
    "classifier.0": "classifier",
}
_TRANSMIL_LAYER = {
    "norm": "norm",
    "attn.to_qkv": "attention.to_qkv",
    "attn.to_out.0": "attention.to_out",
    "attn.res_conv": "attention.res_conv",
}
_TRANSMIL = {
    "_fc1.0": "embed.0",
    "pos_layer.proj": "position.convs.0",
    "pos_layer.proj1": "position.convs.1",
    "pos_layer.proj2": "position.convs.2",
    "norm": "norm",
    "_fc2": "classifier",
    **{f"layer{i}.{old}": f"layer{i}.{new}" for i in (1, 2) for old, new in _TRANSMIL_LAYER.items()},
}


def load_published(head: MILHead, state: Mapping[str, Tensor], source: Literal["abmil", "transmil"] = "abmil") -> None:
    """Fill a head with weights saved by the authors' code.

    Args:
        head: ABMIL (gated or not; `embed=False`, since the published embedding belongs to a CNN) or TransMIL.
        state: the published state dict; shapes as the head's.
        source: whose names they are.

    Raises:
        UsageError: no such source.
        WeightsError: names or shapes do not fit the head.
    """
    match source:
        case "abmil":
            names = _ABMIL_GATED if any(key.startswith("attention_V.") for key in state) else _ABMIL_UNGATED
        case "transmil":
            names = _TRANSMIL
        case _:
            raise UsageError(f"source={source!r}: published weights are known for abmil and transmil.")
    renamed = {_rename(key, names): tensor for key, tensor in state.items()}
    wanted = head.state_dict()
    missing, strange = sorted(wanted.keys() - renamed.keys()), sorted(renamed.keys() - wanted.keys())
    uneven = sorted(key for key in wanted.keys() & renamed.keys() if wanted[key].shape != renamed[key].shape)
    if missing or strange or uneven:
        raise WeightsError(
            f"These weights do not fit {type(head).__name__} with in_dim {head.in_dim} and {head.n_classes} classes: "
            f"missing {missing}, not known {strange}, of another shape {uneven}. Build the head as they were trained."
        )
    head.load_state_dict(renamed)


def _rename(key: str, names: Mapping[str, str]) -> str:
    module, _, parameter = key.rpartition(".")
    return f"{names[module]}.{parameter}" if module in names else key
