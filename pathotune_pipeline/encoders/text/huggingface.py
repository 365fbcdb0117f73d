"""`hf:...`: language models in transformers' layout, CLIP's text towers or BERT and its kin, from a folder or the hub."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.encoders.hub import cached_file, hub_errors, split_revision
from pathotune_pipeline.encoders.text.encoder import REVISION, summary_and_parts
from pathotune_pipeline.encoders.text.reading import read_whole
from pathotune_pipeline.errors import MissingExtraError, SpecError, WeightsError

_CLIP = frozenset({"clip", "clip_text_model"})
_OFFSET = ("roberta", "camembert", "mpnet")
"""Families that count places from behind their padding token's id."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""In the order of preference; pickles are loaded as tensors alone."""
_BESIDES = ("*.json", "*.txt", "*.model")
_HINT = "Fetch it once on a machine with internet, or give a folder with its files as hf:FOLDER."
_UNUSED = re.compile(r"(^|\.)(pooler\.|embeddings\.position_ids$)")
"""Parameters that a checkpoint may lack: the vectors do not go through them."""


class HuggingFaceText:
    """A language model of transformers: see `TextEncoder`.

    The summary is the last layer's vector of CLIP's end-of-text token or of BERT's class token; words are the last
    layer's vectors of all tokens that are not special.
    """

    learned = True

    def __init__(self, model: Any, tokenizer: Any, *, name: str, n_tokens: int) -> None:
        self.name = name
        self.n_tokens = n_tokens
        self.dim = int(model.config.hidden_size)
        self._model = model.float().eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._clip = model.config.model_type in _CLIP
        self._longest = _longest_text(model.config, tokenizer)
        parts = f"{REVISION}|{n_tokens}|{state_sha256(self._model)}|{model.config.to_json_string()}"
        self.sha256 = hashlib.sha256(f"{parts}|{_tokenizer_text(tokenizer)}".encode()).hexdigest()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [K, T, d]. Each text goes through alone, so that no padding takes part.

        Raises:
            SpecError: a text holds no word, or more tokens than the model takes.
        """
        if not texts:
            return torch.empty(0, self.n_tokens, self.dim)
        return torch.stack([self._encode(text) for text in texts]).clone()

    def _encode(self, text: str) -> torch.Tensor:
        numbers, words = read_whole(self._tokenizer, text, most=self._longest, reader=self.name)
        ids = torch.tensor([numbers])
        output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
        states = output.last_hidden_state[0]  # [tokens, d]
        summary = output.pooler_output[0] if self._clip else states[0]
        return summary_and_parts(summary, states[words], self.n_tokens)


def huggingface_encoder(name: str, n_tokens: int) -> HuggingFaceText:
    """`hf:FOLDER`, `hf:ORG/NAME` or `hf:ORG/NAME@COMMIT`.

    Raises:
        MissingExtraError: transformers is not installed.
        WeightsError: the model is absent, gated, incomplete, or of another kind than CLIP or BERT.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "transformers", f"The text encoder {name}") from None
    given = name.partition(":")[2]
    if not given:
        raise SpecError(f"{name}: name a model, such as hf:ORG/NAME or hf:FOLDER.")
    local = Path(given).expanduser()
    folder = local if local.is_dir() else _hub_folder(given, name)
    with _quiet(transformers):
        model, tokenizer = _load(transformers, folder, name)
    shown = f"hf:{local.resolve().name}" if local.is_dir() else name
    return HuggingFaceText(model, tokenizer, name=shown, n_tokens=n_tokens)


def _longest_text(config: Any, tokenizer: Any) -> int:
    """Tokens that fit, special ones included."""
    places = int(getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)
    if any(family in config.model_type for family in _OFFSET):  # their first places are never taken
        places -= int(config.pad_token_id) + 1
    return min(places, int(tokenizer.model_max_length))


def _load(transformers: Any, folder: Path, asked: str) -> tuple[Any, Any]:
    own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # None would ask on the terminal
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **own)
    except Exception as error:
        raise WeightsError(
            f"{asked}: its config.json names no model that transformers knows ({_first(error)}). Give a repository or a "
            "folder in transformers' layout."
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise WeightsError(f"{asked}: {config.model_type} is no encoder of CLIP's or BERT's kind. Give one of those.")
    clip = config.model_type in _CLIP
    settings: dict[str, Any] = {"add_pooling_layer": False} if config.model_type == "bert" else {}
    kind = transformers.CLIPTextModel if clip else transformers.AutoModel
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **own)
        model, told = kind.from_pretrained(  # what does not fit is told, and refused below
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **own, **settings
        )
    except Exception as error:
        raise WeightsError(f"{asked}: cannot be loaded ({_first(error)}). Fetch it anew.") from error
    absent = sorted(key for key in told["missing_keys"] if not _UNUSED.search(key))
    wrong = [*absent, *sorted(key if isinstance(key, str) else key[0] for key in told["mismatched_keys"])]
    if wrong:
        raise WeightsError(
            f"{asked}: the weights lack or have in another shape: {', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}. "
            "Give those of this model."
        )
    if not clip and getattr(tokenizer, "cls_token_id", None) is None:
        raise WeightsError(f"{asked}: its tokenizer has no class token; it is of neither CLIP's nor BERT's kind.")
    return model, tokenizer


def _hub_folder(repository: str, asked: str) -> Path:
    """The folder of a repository's files in the hub's cache, which is asked first."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, revision = split_revision(repository)
    try:
        config = cached_file(repository, ["config.json"])
    except HFValidationError:
        raise WeightsError(f"{asked}: nothing lies at {repository}, and it is no name on the hub. Check it.") from None
    if config is not None and _has_weights(config.parent):
        return config.parent
    with hub_errors(asked, name, hint=_HINT):
        for weights in _WEIGHTS:
            folder = Path(
                snapshot_download(
                    name,
                    revision=revision,
                    cache_dir=constants.HF_HUB_CACHE,
                    allow_patterns=[*_BESIDES, weights],
                    ignore_patterns=["*/*"],
                )
            )
            if any(folder.glob(weights)):
                return folder
    raise WeightsError(
        f"{asked}: the repository has no weights for PyTorch, or they are not in the local cache. {_HINT}"
    )


def _has_weights(folder: Path) -> bool:
    return any(path.is_file() for pattern in _WEIGHTS for path in folder.glob(pattern))


def _tokenizer_text(tokenizer: Any) -> str:
    """All that decides how the tokenizer cuts a text, whichever files it came from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    return f"{type(tokenizer).__name__}|{sorted(tokenizer.get_vocab().items())}"


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' reports of what it leaves out, and its progress bars: what matters is checked here."""
    logger = transformers.utils.logging
    level, bars = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity(logging.CRITICAL)
    logger.disable_progress_bar()
    try:
        yield
    finally:
        logger.set_verbosity(level)
        if bars:
            logger.enable_progress_bar()


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
