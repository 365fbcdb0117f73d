"""`conch`: CONCH's text tower, through its authors' package; its weights are the catalogue's.

Source: mahmoodlab/CONCH, conch/open_clip_custom/{transformer,coca_model,custom_tokenizer}.py and model_configs. The
package is installed from their repository. Compared with it (141cc09c) on random weights; the real ones have not been run here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pathotune_pipeline.encoders.catalogue import find_card
from pathotune_pipeline.encoders.checkpoint import read_weights, state_sha256
from pathotune_pipeline.encoders.convert import differences
from pathotune_pipeline.encoders.published import find_weights
from pathotune_pipeline.encoders.text.encoder import REVISION, summary_and_parts
from pathotune_pipeline.encoders.text.reading import read_whole
from pathotune_pipeline.errors import MissingExtraError, WeightsError

TOWER: dict[str, Any] = {
    "context_length": 128, "vocab_size": 32007, "width": 768, "heads": 12, "layers": 12, "output_dim": 512,
    "embed_cls": True, "output_tokens": True,
}  # fmt: skip
"""As the authors' configuration of conch_ViT-B-16 has it."""


class ConchText:
    """CONCH's text tower: see `TextEncoder`.

    The summary is the class token after the final norm, before the projection to the images' space; words are the last
    layer's vectors, put through that same norm.
    """

    name = "conch"
    learned = True

    def __init__(self, tower: nn.Module, tokenizer: Any, n_tokens: int) -> None:
        self.n_tokens = n_tokens
        self.dim = int(tower.width)  # type: ignore[arg-type]
        self._tower = tower.float().eval().requires_grad_(False)
        self._tokenizer = tokenizer
        parts = f"{REVISION}|{n_tokens}|{state_sha256(self._tower)}|{tokenizer.backend_tokenizer.to_str()}"
        self.sha256 = hashlib.sha256(parts.encode()).hexdigest()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [K, T, 768].

        Raises:
            SpecError: a text holds no word, or more tokens than the tower takes.
        """
        if not texts:
            return torch.empty(0, self.n_tokens, self.dim)
        return torch.stack([self._encode(text) for text in texts]).clone()

    def _encode(self, text: str) -> torch.Tensor:
        places = int(self._tower.context_length) - 1  # type: ignore[arg-type]  # the last one is the class token's
        ids, words = read_whole(self._tokenizer, text, most=places, reader=self.name)
        padded = [*ids, *[self._tokenizer.pad_token_id] * (places - len(ids))]
        norm: Any = self._tower.ln_final
        summaries: list[torch.Tensor] = []
        # The tower gives the summary projected; what is wanted is what goes into the projection.
        hook = norm.register_forward_hook(lambda module, given, out: summaries.append(out))
        try:
            _, tokens = self._tower(torch.tensor([padded]))
        finally:
            hook.remove()
        return summary_and_parts(summaries[0][0], norm(tokens[0, : len(ids)][words]), self.n_tokens)


def conch_encoder(name: str, n_tokens: int) -> ConchText:
    """`conch`, or `conch:FILE` with the file of its weights.

    Raises:
        MissingExtraError: the package `conch` is not installed.
        WeightsError: the weights are gated, absent or do not fit.
    """
    try:
        from conch.open_clip_custom.custom_tokenizer import get_tokenizer
        from conch.open_clip_custom.transformer import TextTransformer
    except ImportError:
        raise MissingExtraError(
            "conch", "", f"The text encoder {name}",
            source="Install it from its authors' repository, mahmoodlab/CONCH; or take another text encoder, such as "
            "hf:ORG/NAME or hash-ngram.",
        ) from None  # fmt: skip
    given = name.partition(":")[2]
    file = find_weights(find_card("conch"), given or None)
    tower = TextTransformer(**TOWER)
    load_tower(tower, read_weights(file, name), name)
    return ConchText(tower, get_tokenizer(), n_tokens)


def load_tower(tower: nn.Module, loaded: Mapping[str, Any], asked: str) -> None:
    """Fill a text tower from CONCH's whole checkpoint, strictly.

    Args:
        tower: with the authors' names.
        loaded: what the file holds: names behind "text.", with "module." before them or not.
        asked: what the user asked for, for messages.

    Raises:
        WeightsError: a parameter is missing, left over or of another shape.
    """
    inner = loaded.get("state_dict")
    state = inner if isinstance(inner, Mapping) else loaded
    plain = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    text = {name.removeprefix("text."): tensor for name, tensor in plain.items() if name.startswith("text.")}
    if not text:
        raise WeightsError(f"{asked}: the file holds no text tower. Give CONCH's whole checkpoint, pytorch_model.bin.")
    wrong = differences(text, {name: tensor.shape for name, tensor in tower.state_dict().items()})
    if wrong:
        raise WeightsError(f"{asked}: the text tower does not fit: {'; '.join(wrong[:6])}. Give CONCH's checkpoint.")
    tower.load_state_dict(text, strict=True)
