"""Weights of the published models, under the names their authors' code gives them."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pathotune_pipeline.errors import UsageError, WeightsError
from pathotune_pipeline.heads.head import MILHead

Source = Literal["abmil", "clam", "transmil", "dsmil", "dtfd"]

SOURCES: dict[str, Source] = {
    "abmil": "abmil",
    "abmil-ungated": "abmil",
    "clam-sb": "clam",
    "clam-mb": "clam",
    "transmil": "transmil",
    "dsmil": "dsmil",
    "dtfd": "dtfd",
}
"""Head -> whose weights it takes."""

# Their names as patterns, ours as replacements. Several of theirs for one of ours are versions of their code.
_NAMES: dict[Source, list[tuple[str, str]]] = {
    "abmil": [
        (r"attention\.0", "attention_v"),
        (r"attention\.2", "attention_w"),
        (r"attention_V\.0", "attention_v"),
        (r"attention_U\.0", "attention_u"),
        (r"classifier\.0", "classifier"),
    ],
    "clam": [
        (r"attention_net\.0", "embed.0"),
        (r"attention_net\.[23]\.attention_a\.0", "attention.v"),
        (r"attention_net\.[23]\.attention_b\.0", "attention.u"),
        (r"attention_net\.[23]\.attention_c", "attention.w"),
        (r"attention_net\.[23]\.module\.0", "attention.v"),
        (r"attention_net\.[23]\.module\.[23]", "attention.w"),
        (r"classifiers", "classifier"),
        (r"classifiers\.(\d+)", r"classifier.\1"),
        (r"instance_classifiers\.(\d+)", r"instance_classifiers.\1"),
    ],
    "transmil": [
        (r"_fc1\.0", "embed.0"),
        (r"pos_layer\.proj", "position.convs.0"),
        (r"pos_layer\.proj1", "position.convs.1"),
        (r"pos_layer\.proj2", "position.convs.2"),
        (r"_fc2", "classifier"),
        (r"layer([12])\.attn\.to_out\.0", r"layer\1.attention.to_out"),
        (r"layer([12])\.attn\.(\w+)", r"layer\1.attention.\2"),
    ],
    "dsmil": [
        (r"i_classifier\.fc(\.0)?", "instance_classifier"),
        (r"b_classifier\.q", "query.0"),
        (r"b_classifier\.q\.([02])", r"query.\1"),
        (r"b_classifier\.v\.1", "values.1"),
        (r"b_classifier\.fcc", "classifier"),
    ],
    "dtfd": [
        (r"dim_reduction\.fc1", "embed.0"),
        (r"classifier\.fc", "first.classifier"),
        (r"attention\.attention_V\.0", "first.attention.v"),
        (r"attention\.attention_U\.0", "first.attention.u"),
        (r"attention\.attention_weights", "first.attention.w"),
        (r"att_classifier\.classifier\.fc", "second.classifier"),
        (r"att_classifier\.attention\.attention_V\.0", "second.attention.v"),
        (r"att_classifier\.attention\.attention_U\.0", "second.attention.u"),
        (r"att_classifier\.attention\.attention_weights", "second.attention.w"),
    ],
}
# What torch's reader and safetensors' say of a file that is damaged, or holds more than tensors.
_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
# What the authors save along with a head: constants of a loss, and the encoder.
_ASIDE = ("instance_loss_fn.", "i_classifier.feature_extractor.")


def load_published(head: MILHead, state: Mapping[str, Any], source: Source = "abmil") -> None:
    """Fill a head with weights saved by the authors' code.

    Args:
        head: built as the weights were trained. ABMIL with `embed=False`, since the published embedding belongs to a
            CNN; DSMIL with its `query` and `values` as they were in that version of the authors' code.
        state: the published state dict, or for DTFD-MIL its four; shapes as the head's. Prefixes of wrappers
            ("model.", "module.") are taken off.
        source: whose names they are.

    Raises:
        UsageError: no such source.
        WeightsError: names or shapes do not fit the head.
    """
    if source not in _NAMES:
        raise UsageError(f"source={source!r}: published weights are known for {', '.join(_NAMES)}.")
    renamed = _stacked({_rename(key, source): value for key, value in _flat(state).items() if not _aside(key)})
    if source == "dsmil" and "classifier.weight" in renamed:
        renamed["classifier.weight"] = renamed["classifier.weight"].flatten(1)  # a convolution's [C, C, D]
    wanted = head.state_dict()
    missing, strange = sorted(wanted.keys() - renamed.keys()), sorted(renamed.keys() - wanted.keys())
    uneven = sorted(key for key in wanted.keys() & renamed.keys() if wanted[key].shape != renamed[key].shape)
    if missing or strange or uneven:
        raise WeightsError(
            f"These weights do not fit {type(head).__name__} with in_dim {head.in_dim} and {head.n_classes} classes: "
            f"missing {missing}, not known {strange}, of another shape {uneven}. Build the head as they were trained."
        )
    head.load_state_dict(renamed)


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pt, .pth or .ckpt file without running anything pickled in it.

    A state dict that lies under "state_dict" is taken out; nested ones get names with dots.

    Raises:
        FileNotFoundError: it does not exist.
        WeightsError: it cannot be read, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path}: cannot be read as bare tensors ({reason}). Save its state_dict alone, best as .safetensors."
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict. Save the state_dict alone.")
    inner = content.get("state_dict", content)
    return {key: value for key, value in _flat(inner).items() if isinstance(value, Tensor)}


def _flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in state.items():
        name = prefix + re.sub(r"^((model|module)\.)+", "", f"{key}")
        flat.update(_flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat


def _aside(key: str) -> bool:
    return key.startswith(_ASIDE)


def _rename(key: str, source: Source) -> str:
    module, _, parameter = key.rpartition(".")
    if source == "clam":
        module = module.replace("attention_net.module.", "attention_net.")  # the authors' DataParallel
    for pattern, name in _NAMES[source]:
        if re.fullmatch(pattern, module):
            return f"{re.sub(pattern, name, module)}.{parameter}"
    return f"{module}.{parameter}" if module else parameter


def _stacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers that CLAM keeps one for each class ("classifier.0.weight", ...), as one layer."""
    rows: dict[str, dict[int, Tensor]] = {}
    for key in list(state):
        if found := re.fullmatch(r"(classifier|instance_classifiers)\.(\d+)\.(\w+)", key):
            rows.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = state.pop(key)
    return state | {key: torch.cat([each[i] for i in sorted(each)]) for key, each in rows.items()}
