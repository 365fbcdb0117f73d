"""A catalogue card to its network: timm's trunk and the pooling that was published with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pathotune_pipeline.encoders.card import Pooling
from pathotune_pipeline.encoders.catalogue import CatalogueCard
from pathotune_pipeline.errors import SpecError


class TokenPool(nn.Module):
    """A transformer's class token, the mean of its patch tokens, or both; register tokens count as neither."""

    def __init__(self, trunk: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling
        self.skipped = int(trunk.num_prefix_tokens)  # type: ignore[arg-type]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, P, P] -> [B, D], or [B, 2D] with cls+mean."""
        tokens = self.trunk.forward_features(pixels)  # type: ignore[operator]  # [B, T, D]
        if self.pooling == "cls":
            return tokens[:, 0]
        mean = tokens[:, self.skipped :].mean(1)
        if self.pooling == "mean":
            return self.trunk.fc_norm(mean)  # type: ignore[operator]  # timm normalises after such a pool, not before
        return torch.cat([tokens[:, 0], mean], 1)


class GlobalPool(nn.Module):
    """A network that pools its feature map itself."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.trunk(pixels)  # [B, D]


class ConchPool(nn.Module):
    """CONCH's contrastive query: one learned query attends to all tokens. Parameters are named as published.

    Source: mahmoodlab/CONCH, conch/open_clip_custom/{transformer,vision_tower}.py.
    """

    def __init__(self, dim: int, context_dim: int, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=context_dim, vdim=context_dim, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(context_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, C] -> [B, D]."""
        context = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)
        return self.attn(query, context, context, need_weights=False)[0][:, 0]


class ConchV15Pool(nn.Module):
    """CONCHv1.5's contrastive query, with separate projections and no biases. Parameters are named as published.

    Source: mahmoodlab/TRIDENT, patch_encoder_models/model_zoo/conchv1_5.
    """

    def __init__(self, dim: int, context_dim: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, dim))
        self.ln_k = nn.LayerNorm(context_dim)
        self.ln_q = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, C] -> [B, D]."""
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)  # [B, 1, D]
        keys, values = self.to_kv(self.ln_k(tokens)).chunk(2, -1)
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, keys, values)]
        attended = F.scaled_dot_product_attention(*split)  # [B, heads, 1, D / heads]
        return self.to_out(attended.transpose(1, 2).flatten(2))[:, 0]


class AttentionTower(nn.Module):
    """CONCH's visual tower up to its normalised embedding, before the projection that meets the text."""

    def __init__(self, trunk: nn.Module, pool: type[ConchPool | ConchV15Pool], dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = pool(dim, int(trunk.num_features))  # type: ignore[arg-type]
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.trunk.forward_features(pixels)  # type: ignore[operator]
        return self.ln_contrast(self.attn_pool_contrast(tokens))


def build_network(card: CatalogueCard) -> nn.Module:
    """The network of a card with random weights, on torch's default device, so also on `meta`.

    Raises:
        SpecError: the card asks for what this timm does not have.
    """
    import timm

    try:
        trunk = timm.create_model(card.architecture, pretrained=False, num_classes=0, **_arguments(card.arguments))
    except (RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise SpecError(
            f"{card.name}: timm {timm.__version__} cannot build {card.architecture} as the card says ({first}). "
            "Install a newer timm."
        ) from None
    if card.tower != "timm":
        return AttentionTower(trunk, ConchPool if card.tower == "conch" else ConchV15Pool, card.dim)
    return GlobalPool(trunk) if card.pooling == "avg" else TokenPool(trunk, card.pooling)


def with_pooling(card: CatalogueCard, pooling: str) -> CatalogueCard:
    """The card with another pooling of tokens, and the vector length that follows; "card" leaves it as it is.

    Raises:
        SpecError: the network does not give tokens that could be pooled so.
    """
    if pooling in ("card", card.pooling):
        return card
    token_poolings = {"cls": 1, "mean": 1, "cls+mean": 2}
    if card.pooling not in token_poolings or "global_pool" in card.arguments:
        raise SpecError(f"--pooling {pooling}: {card.name} pools by {card.pooling} itself. Leave --pooling out.")
    width = card.dim // token_poolings[card.pooling]
    return card.with_values(pooling=pooling, dim=width * token_poolings[pooling])


def _arguments(plain: dict[str, Any]) -> dict[str, Any]:
    """A card's plain values to what timm takes: names of layers become layers."""
    import timm.layers

    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": nn.SiLU}
    return {
        name: layers.get(value, value) if isinstance(value, str) and name.endswith("_layer") else value
        for name, value in plain.items()
    }
