"""Modalities as tokens: pathways of genes, clinical variables, the task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pathotune_pipeline.adapt.modal.pathways import PathwayTable
from pathotune_pipeline.adapt.modal.spec import ModalSpec
from pathotune_pipeline.errors import UsageError

_FIRST_SD = 0.02  # of learned positions and of vectors that stand for what is absent


class Standardise(nn.Module):
    """(value - mean) / scale for each variable. Both are buffers, (0, 1) until they are set, and are kept with the network.

    Attributes:
        mean: float32 [n].
        scale: float32 [n].
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))

    def set(self, mean: Sequence[float] | np.ndarray, scale: Sequence[float] | np.ndarray) -> None:
        """Take numbers fitted on the training cases.

        Args:
            mean: [n].
            scale: [n], above 0; 1 for a variable that does not vary.

        Raises:
            UsageError: another number of them, or numbers of no use.
        """
        for name, given, held in (("mean", mean, self.mean), ("scale", scale, self.scale)):
            values = torch.as_tensor(np.asarray(given, np.float32))
            if values.shape != held.shape or not bool(torch.isfinite(values).all()):
                raise UsageError(
                    f"standardise: {name} must be {len(held)} finite numbers; found {tuple(values.shape)}."
                )
            if name == "scale" and not bool((values > 0).all()):
                raise UsageError("standardise: a scale is not above 0. Give 1 for a variable that does not vary.")
            held.copy_(values)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[n] -> float32 [n]; what is NaN stays NaN."""
        return (values.to(self.mean) - self.mean) / self.scale


class MixerBlock(nn.Module):
    """One MLP-Mixer block over P tokens of width w: across tokens P -> P/2 -> P, then across channels w -> w/2 -> w."""

    def __init__(self, count: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_tokens = nn.LayerNorm(width)
        self.tokens = _mlp(count, max(1, count // 2), dropout)
        self.norm_channels = nn.LayerNorm(width)
        self.channels = _mlp(width, width // 2, dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[1, P, w] -> [1, P, w]."""
        tokens = tokens + self.tokens(self.norm_tokens(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.channels(self.norm_channels(tokens))


class PathwayTokens(nn.Module):
    """Genes to tokens: a network for each pathway's genes, mixed, then made into a fixed number of tokens.

    All pathways' networks run at once: the first layers are one embedding bag over the memberships (a gene in k pathways
    has k memberships, each with a row of weights of its own), the second ones one batched product.

    Attributes:
        standardise: of the G genes.
        members: int64 [E], the gene of each membership, pathway after pathway.
        starts: int64 [P], each pathway's first membership.
    """

    members: torch.Tensor
    starts: torch.Tensor
    _order: torch.Tensor

    def __init__(self, spec: ModalSpec, table: PathwayTable, dim: int) -> None:
        super().__init__()
        count, width = len(table.pathways), spec.pathway_dim
        lengths = np.array([len(held) for held in table.members])
        self.standardise = Standardise(len(table.genes))
        self.register_buffer("members", torch.from_numpy(np.concatenate(table.members)))
        self.register_buffer("starts", torch.from_numpy(np.cumsum(lengths) - lengths))
        self.register_buffer("_order", torch.arange(int(lengths.sum())), persistent=False)
        # Each network as a self-normalising one begins: variance 1 / fan-in, no bias.
        spread = torch.from_numpy(np.repeat(lengths**-0.5, lengths)).float()
        self.first = nn.Parameter(torch.randn(int(lengths.sum()), width) * spread[:, None])
        self.first_bias = nn.Parameter(torch.zeros(count, width))
        self.second = nn.Parameter(torch.randn(count, width, width) * width**-0.5)
        self.second_bias = nn.Parameter(torch.zeros(count, width))
        self.drop = nn.AlphaDropout(spec.dropout)
        self.mixers = nn.Sequential(*(MixerBlock(count, width, spec.dropout) for _ in range(spec.n_mixers)))
        self.widen = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.gather = nn.Linear(count, spec.n_gene_tokens)

    def memberships(self, genes: torch.Tensor) -> torch.Tensor:
        """Expression [G] -> standardised values of the memberships, float32 [E]; an unknown value is the mean, 0."""
        return torch.nan_to_num(self.standardise(genes), nan=0.0)[self.members]

    def forward(self, memberships: torch.Tensor) -> torch.Tensor:
        """[E] -> tokens [1, n_gene_tokens, D]."""
        first = F.embedding_bag(
            self._order, self.first, self.starts, mode="sum", per_sample_weights=memberships.to(self.first.dtype)
        )
        hidden = self.drop(F.elu(first + self.first_bias))
        hidden = torch.bmm(hidden[:, None], self.second)[:, 0] + self.second_bias
        tokens = self.widen(self.mixers(self.drop(F.elu(hidden))[None]))
        return self.gather(tokens.transpose(1, 2)).transpose(1, 2)


class ClinicalTokens(nn.Module):
    """Clinical variables to one token: values and which of them are missing, 2 C -> D/2, ReLU, D, LayerNorm.

    Attributes:
        standardise: of the C variables.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.standardise = Standardise(count)
        self.layers = nn.Sequential(
            nn.Linear(2 * count, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim), nn.LayerNorm(dim)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[C], NaN where a value is missing -> token [1, 1, D]."""
        scaled = self.standardise(values)
        missing = torch.isnan(scaled)
        return self.layers(torch.cat([torch.nan_to_num(scaled, nan=0.0), missing.to(scaled)]))[None, None]


class TaskTokens(nn.Module):
    """LayerNorm(Linear(one-hot)): a token for each task."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.count = count
        self.linear, self.norm = nn.Linear(count, dim), nn.LayerNorm(dim)

    def forward(self, number: int) -> torch.Tensor:
        """A task's token, [1, 1, D]."""
        weight = self.linear.weight
        one_hot = F.one_hot(torch.tensor(number, device=weight.device), self.count).to(weight.dtype)
        return self.norm(self.linear(one_hot))[None, None]


class ModalTokens(nn.Module):
    """All modality tokens of a case: [task | clinical | genes], each with a learned position.

    A modality that the network knows and a case lacks is one learned vector in the place of its tokens.

    Attributes:
        genes: None where the network has no pathways.
        clinical: None where it has no clinical variables.
        tasks: one token a task.
        positions: float32 [1, m, D].
        absent: one vector for each modality that may be missing.
    """

    def __init__(self, spec: ModalSpec, dim: int, *, pathways: PathwayTable | None, n_clinical: int) -> None:
        super().__init__()
        self.tasks = TaskTokens(len(spec.tasks), dim)
        self.clinical = ClinicalTokens(n_clinical, dim) if n_clinical else None
        self.genes = PathwayTokens(spec, pathways, dim) if pathways is not None else None
        with_genes, with_clinical = self.genes is not None, self.clinical is not None
        self.n_gene_tokens = spec.n_gene_tokens * with_genes
        self.positions = fresh_vectors(1 + with_clinical + self.n_gene_tokens, dim)
        names = [name for name, there in (("clinical", with_clinical), ("genes", with_genes)) if there]
        self.absent = nn.ParameterDict({name: fresh_vectors(1, dim) for name in names})

    def of_task(self, number: int) -> torch.Tensor:
        """The token of a task, with its position: [1, 1, D]."""
        return self.tasks(number) + self.positions[:, :1]

    def of_case(self, memberships: torch.Tensor | None, clinical: torch.Tensor | None) -> torch.Tensor:
        """The tokens of a case's modalities, with positions: [1, m - 1, D], the genes' last; fewer where one is absent."""
        parts = [self.positions[:, :0]]
        if self.clinical is not None:
            place = self.positions[:, 1:2]
            parts.append(self.absent["clinical"] if clinical is None else self.clinical(clinical) + place)
        if self.genes is not None:
            places = self.positions[:, -self.n_gene_tokens :]
            parts.append(self.absent["genes"] if memberships is None else self.genes(memberships) + places)
        return torch.cat(parts, 1)


def fresh_vectors(count: int, dim: int) -> nn.Parameter:
    """Learned vectors [1, count, D] near zero: positions, and what stands for an absent modality."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, dim), std=_FIRST_SD))


def _mlp(outer: int, inner: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(outer, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, outer), nn.Dropout(dropout)
    )
