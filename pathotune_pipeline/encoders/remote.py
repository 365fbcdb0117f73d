"""Hub repositories that bring their own Python code: refused, unless the user says that it may run."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from pathotune_pipeline.encoders.card import IMAGENET_MEAN, IMAGENET_STD, EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.catalogue import catalogue
from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.encoders.hub import cached_file, hub_errors, hub_file, split_revision
from pathotune_pipeline.errors import MissingExtraError, WeightsError


class ClassToken(nn.Module):
    """The class token of a network that gives transformers' outputs."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.trunk(pixels).last_hidden_state[:, 0]  # [B, D]


def repository_config(repository: str, asked: str) -> dict[str, Any]:
    """A repository's config.json, from the hub or its cache.

    Raises:
        WeightsError: the repository is absent, gated or out of reach, or has no such file.
    """
    with hub_errors(asked, repository):
        path = hub_file(repository, ["config.json"])
    loaded = _read_json(path.read_text(encoding="utf-8"))
    if loaded is None:
        raise WeightsError(f"{asked}: its config.json is no JSON object. Fetch it anew.")
    return loaded


def remote_encoder(spec: EncoderSpec, repository: str, config: dict[str, Any]) -> tuple[nn.Module, EncoderCard]:
    """A repository that is not in timm's layout, run through transformers with its own code.

    Args:
        spec: with `trust_remote_code`.
        repository: ORG/NAME or ORG/NAME@REVISION.
        config: its config.json.

    Raises:
        WeightsError: it has no code to run, or the user has not allowed it.
        MissingExtraError: transformers is not installed.
    """
    code = sorted({str(value) for value in (config.get("auto_map") or {}).values()})
    name, revision = split_revision(repository)
    twin = next((card.name for card in catalogue().values() if (card.hub or "").lower() == name.lower()), None)
    instead = f"--encoder {twin} runs the same weights without it. " if twin else ""
    if not code:
        raise WeightsError(
            f"{spec.name}: the repository is not in timm's layout (its config.json names no architecture). {instead}"
            "`pathotune encoders list` shows what is known."
        )
    if not spec.trust_remote_code:
        raise WeightsError(
            f"{spec.name}: needs Python code of the repository ({', '.join(code)}), which is not run unasked. {instead}"
            "Read the code; then allow it with --trust-remote-code, best for one commit: hf-hub:ORG/NAME@COMMIT."
        )
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "transformers", f"{spec.name} with its own code") from None
    with hub_errors(spec.name, name):
        trunk = transformers.AutoModel.from_pretrained(name, revision=revision, trust_remote_code=True)
    module = ClassToken(trunk).float()
    processor = _preprocessor(repository)
    side = int(config.get("image_size", 224))
    return module, EncoderCard(
        name=spec.name,
        source="remote-code",
        architecture=code[0],
        dim=int(config["hidden_size"]),
        input_px=side,
        tile_px=side,
        mean=tuple(processor.get("image_mean", IMAGENET_MEAN)),
        std=tuple(processor.get("image_std", IMAGENET_STD)),
        pooling="cls",
        licence=None,
        weights_sha256=state_sha256(module),
    )


def _preprocessor(repository: str) -> dict[str, Any]:
    path = cached_file(repository, ["preprocessor_config.json"])
    return (_read_json(path.read_text(encoding="utf-8")) if path else None) or {}


def _read_json(text: str) -> dict[str, Any] | None:
    try:
        loaded = json.loads(text)
    except ValueError:
        return None
    return loaded if isinstance(loaded, dict) else None
