"""Tiny language models, as their publishers would lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = (
    "stained",
    "histopathology",
    "image",
    "for",
    "classes",
    "tumor",
    "stroma",
    "colon",
    "h",
    "e",
    "ihc",
    "-",
    ";",
    ":",
)


def write_bert(
    folder: Path, *, seed: int = 0, pickled: bool = False, vocabulary: tuple[str, ...] = WORDS
) -> torch.nn.Module:
    """BERT with a vocabulary file alone, as older repositories have it; with a pooler and a head that is not used."""
    from transformers import BertConfig, BertForMaskedLM

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=24,
    )  # fmt: skip
    model = BertForMaskedLM(config).eval()
    save(model, folder, pickled=pickled)
    return model


def write_clip(folder: Path) -> torch.nn.Module:
    """CLIP with both towers and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    begin, end = "<|startoftext|>", "<|endoftext|>"
    ids = {word: position for position, word in enumerate((*WORDS, "<unk>", begin, end))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, ids[begin]), (end, ids[end])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        unk_token="<unk>",
        model_max_length=20,
    ).save_pretrained(folder)
    text = {
        "vocab_size": len(ids), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 20, "eos_token_id": ids[end], "bos_token_id": ids[begin], "pad_token_id": ids[end],
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    save(model, folder)
    return model


def save(model: torch.nn.Module, folder: Path, *, pickled: bool = False) -> None:
    model.config.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(state, folder / "model.safetensors", {"format": "pt"})
