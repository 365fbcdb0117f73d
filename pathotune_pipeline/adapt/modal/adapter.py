"""A frozen slide encoder joined by genes and clinical variables: one embedding of a case for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pathotune_pipeline.adapt.backbone import clone_shared
from pathotune_pipeline.adapt.modal.interaction import interaction_blocks
from pathotune_pipeline.adapt.modal.pathways import PathwayTable
from pathotune_pipeline.adapt.modal.spec import ModalSpec
from pathotune_pipeline.adapt.modal.tokens import ModalTokens, fresh_vectors
from pathotune_pipeline.errors import SpecError, UsageError

if TYPE_CHECKING:
    from pathotune_pipeline.slide_encoders import StagedSlideEncoder, Tokens


@dataclass(frozen=True, slots=True)
class ModalCase:
    """A case as it is given. What is absent is None.

    Attributes:
        features: float [N, in_dim], tiles of all its slides.
        coords: [N, 2], (x, y), level-0 pixels; slides of a case must not overlap.
        stride_px: level-0 pixels from one tile to the next.
        genes: float [G], expression in the order of `pathways.genes`; NaN is the mean of the training cases, and all NaN
            is no expression.
        clinical: float [C], in the order of the network's names; NaN where a value is missing, and all NaN is none.
    """

    features: torch.Tensor | None = None
    coords: torch.Tensor | None = None
    stride_px: float = 1
    genes: torch.Tensor | None = None
    clinical: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class ModalInputs:
    """A case as the network's first step takes it: embedded, standardised. What is absent is None.

    Attributes:
        tiles: embedded by the slide encoder.
        memberships: float32 [E], standardised expression, once for each pathway that a gene is in.
        clinical: [C], NaN where a value is missing.
    """

    tiles: Tokens | None
    memberships: torch.Tensor | None
    clinical: torch.Tensor | None

    def is_empty(self) -> bool:
        """Whether no modality is there."""
        return self.tiles is None and self.memberships is None and self.clinical is None


@dataclass(frozen=True, slots=True)
class ModalReadOut:
    """What the network says of a case, for T tasks.

    Attributes:
        embedding: float [T, out_dim].
        image: float [T, D], the slide encoder's own read-out.
        gene: float [T, D], the mean of the gene tokens; None where the network has no pathways.
        task: float [T, D], the task token.
    """

    embedding: torch.Tensor
    image: torch.Tensor
    gene: torch.Tensor | None
    task: torch.Tensor


class ModalAdapter(nn.Module):
    """All that is trained.

    Attributes:
        tokens: modalities and tasks as tokens.
        blocks: interaction blocks; with D = 768, 12 heads and 3 blocks 8,169,792 numbers.
        head: LayerNorm and Linear, from the joined read-outs to the embedding.
        absent_image: float32 [1, 1, D], in the place of the tiles of a case without slides.
    """

    def __init__(self, spec: ModalSpec, dim: int, *, pathways: PathwayTable | None, n_clinical: int) -> None:
        super().__init__()
        self.tokens = ModalTokens(spec, dim, pathways=pathways, n_clinical=n_clinical)
        self.blocks = interaction_blocks(spec, dim)
        self.absent_image = fresh_vectors(1, dim)
        width = dim * (3 if pathways is not None else 2) if spec.combine == "concat" else dim
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.out_dim))


class ModalNetwork(nn.Module):
    """A frozen slide encoder and the adapter around its layers. Make it with `attach_modal`.

    Attributes:
        encoder: a frozen clone over the encoder's own memory, in eval mode whatever `train` is told; None for a network
            of genes and clinical variables alone.
        adapter: holds the only parameters that ask for gradients.
        spec: what was attached.
        dim: width D.
        pathways: the genes and their pathways, in the order in which `genes` stand; None where it takes none.
        clinical: names of the clinical variables, in their order.
    """

    def __init__(
        self,
        encoder: StagedSlideEncoder | None,
        spec: ModalSpec,
        *,
        pathways: PathwayTable | None,
        clinical: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.spec = spec
        self.dim = spec.dim if encoder is None else encoder.dim
        self.pathways = pathways
        self.clinical = clinical
        self.adapter = ModalAdapter(spec, self.dim, pathways=pathways, n_clinical=len(clinical))

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Dropout of the adapter as told; the slide encoder stays as in use."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    def trainable_names(self) -> list[str]:
        """Names of the parameters that training moves, as `named_parameters` has them."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def forward(
        self,
        features: torch.Tensor | None,
        coords: torch.Tensor | None,
        stride_px: float,
        *,
        genes: torch.Tensor | None = None,
        clinical: torch.Tensor | None = None,
        task: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One case to an embedding for each task.

        In training mode each modality of the case is left out with chance `modality_dropout`, for all tasks alike; where
        none would stay, all do.

        Args:
            features: as the others, of a `ModalCase`: float [N, in_dim], or None.
            coords: [N, 2], or None.
            stride_px: level-0 pixels.
            genes: float [G], or None.
            clinical: float [C], or None.
            task: numbers of tasks of the spec, T of them; None for all.

        Returns:
            float [T, out_dim].

        Raises:
            UsageError: no modality at all, one that the network was not made for, or another number of values.
            ValueError: tiles that the slide encoder does not take.
        """
        inputs = self.inputs(ModalCase(features, coords, stride_px, genes, clinical))
        return self.read(self._dropped(inputs) if self.training else inputs, task).embedding

    def inputs(self, case: ModalCase) -> ModalInputs:
        """Check a case and embed it; errors as of `forward`."""
        made = ModalInputs(self._tiles(case), self._genes(case.genes), self._clinical(case.clinical))
        if made.is_empty():
            raise UsageError(
                "modal network: the case has no tiles, no expression and no clinical value. Leave it out, or give one."
            )
        return made

    def read(self, inputs: ModalInputs, task: Sequence[int] | torch.Tensor | None = None) -> ModalReadOut:
        """All read-outs of a case for T tasks, whose passes share nothing but the tokens of the case.

        Raises:
            UsageError: a task that the spec does not have.
        """
        case = self.adapter.tokens.of_case(inputs.memberships, inputs.clinical)
        found = [self._read_task(inputs.tiles, case, number) for number in self._tasks(task)]
        image, gene, tasks = (torch.stack(parts) for parts in zip(*found, strict=True))
        read = [image, gene, tasks] if self.pathways is not None else [image, tasks]
        joined = torch.cat(read, -1) if self.spec.combine == "concat" else torch.stack(read).sum(0)
        embedding = torch.stack([self.adapter.head(row) for row in joined])  # one by one: a task's bits are its own
        return ModalReadOut(embedding, image, gene if self.pathways is not None else None, tasks)

    def _read_task(
        self, tiles: Tokens | None, case: torch.Tensor, number: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        modal = torch.cat([self.adapter.tokens.of_task(number), case], 1)
        encoder, n_blocks = self.encoder, self.spec.n_blocks
        blocks: Any = self.adapter.blocks
        for index, block in enumerate(blocks):
            modal = block.mixed(modal)
            if tiles is None or encoder is None:
                for extract in block.extract:
                    modal = extract(modal, self.adapter.absent_image)
                continue
            run = self._step_of(tiles)
            tiles = tiles.with_x(run(partial(_inject_behind, block.inject, encoder.prefix), tiles.x, modal))
            # The layers look after their own memory: nothing is run thrice.
            tiles = encoder.run(tiles, encoder.n_layers * index // n_blocks, encoder.n_layers * (index + 1) // n_blocks)
            for extract in block.extract:
                modal = run(partial(_extract_behind, extract, encoder.prefix), tiles.x, modal)
        image = self.adapter.absent_image[0, 0] if tiles is None or encoder is None else encoder.read_out(tiles)
        return image, modal[0, 1 + bool(self.clinical) :].mean(0) if self.pathways is not None else image, modal[0, 0]

    def _step_of(self, tiles: Tokens) -> Callable[..., torch.Tensor]:
        """How a step around the layers is made: in a large case, what it makes on its way is made again for the gradients."""
        if torch.is_grad_enabled() and tiles.x.shape[1] > self.spec.checkpoint_tiles:
            return partial(checkpoint, use_reentrant=False)
        return _call

    def _tasks(self, task: Sequence[int] | torch.Tensor | None) -> list[int]:
        count = len(self.spec.tasks)
        numbers = list(range(count)) if task is None else [int(number) for number in task]
        if not numbers or min(numbers) < 0 or max(numbers) >= count:
            raise UsageError(
                f"modal network: tasks {numbers} were asked for; it has 0 to {count - 1}: {', '.join(self.spec.tasks)}."
            )
        return numbers

    def _tiles(self, case: ModalCase) -> Tokens | None:
        if case.features is None:
            return None
        if self.encoder is None:
            raise UsageError("modal network: it was made without a slide encoder and takes no tiles. Leave them out.")
        if case.coords is None:
            raise UsageError("modal network: tiles were given without their coordinates. Give coords [N, 2].")
        return self.encoder.embed(case.features, case.coords, stride_px=case.stride_px)

    def _genes(self, genes: torch.Tensor | None) -> torch.Tensor | None:
        tokens = self.adapter.tokens.genes
        known = 0 if self.pathways is None else len(self.pathways.genes)
        values = _known(genes, known, "genes", "pathways")
        return None if values is None or tokens is None else tokens.memberships(values)

    def _clinical(self, clinical: torch.Tensor | None) -> torch.Tensor | None:
        return _known(clinical, len(self.clinical), "clinical values", "clinical variables")

    def _dropped(self, inputs: ModalInputs) -> ModalInputs:
        """The case as one training step sees it."""
        # As many draws whatever the case has, on the CPU: the next case's do not depend on it.
        tiles, memberships, clinical = (torch.rand(3) >= self.spec.modality_dropout).tolist()
        seen = ModalInputs(
            inputs.tiles if tiles else None,
            inputs.memberships if memberships else None,
            inputs.clinical if clinical else None,
        )
        return inputs if seen.is_empty() else seen


def attach_modal(
    encoder: StagedSlideEncoder | None,
    spec: ModalSpec,
    *,
    pathways: PathwayTable | None = None,
    clinical: Sequence[str] = (),
) -> ModalNetwork:
    """Put a fresh modal adapter around a slide encoder, which is left as it is.

    Args:
        encoder: whose layers are shared out among the blocks: L layers, n blocks: block i gets L i // n to L (i + 1) // n.
            None for a network of genes and clinical variables alone, as wide as `spec.dim`.
        spec: which adapter. Its tensors are drawn from torch's global random state.
        pathways: genes and pathways; None where there is no expression.
        clinical: names of clinical variables, each a number.

    Returns:
        the network, in training mode, on the encoder's device.

    Raises:
        SpecError: the width cannot be shared out; a clinical variable is named twice; there is nothing to learn from.
    """
    names = tuple(clinical)
    if len(set(names)) != len(names):
        raise SpecError(f"modal adapter: clinical variables {', '.join(names)}: one is named twice. Name each once.")
    if encoder is None and pathways is None and not names:
        raise SpecError(
            "modal adapter: neither a slide encoder, nor pathways, nor clinical variables. Give one of them."
        )
    clone = None if encoder is None else clone_shared(encoder).eval()
    network = ModalNetwork(clone, spec, pathways=pathways, clinical=names)
    held = None if clone is None else next(iter(clone.state_dict().values()), None)
    if held is not None and held.device.type != "meta":
        network.adapter.to(held.device)
    return network.train()


def _call(step: Callable[..., torch.Tensor], *given: torch.Tensor) -> torch.Tensor:
    return step(*given)


def _inject_behind(inject: nn.Module, prefix: int, x: torch.Tensor, modal: torch.Tensor) -> torch.Tensor:
    """All tokens, of which the tiles' have taken up the modalities."""
    return torch.cat([x[:, :prefix], inject(x[:, prefix:], modal)], 1)


def _extract_behind(extract: nn.Module, prefix: int, x: torch.Tensor, modal: torch.Tensor) -> torch.Tensor:
    return extract(modal, x[:, prefix:])


def _known(values: torch.Tensor | None, count: int, what: str, made_with: str) -> torch.Tensor | None:
    """Values [count] of a modality; None where none of them is known."""
    if values is None:
        return None
    if not count:
        raise UsageError(f"modal network: {what} were given, and it was made without {made_with}. Leave them out.")
    if values.shape != (count,):
        raise UsageError(f"modal network: {what} must be [{count}]; found {tuple(values.shape)}.")
    if bool(torch.isinf(values).any()):
        raise UsageError(f"modal network: {what} hold an infinite value. Mend the table, or leave the value empty.")
    return None if bool(torch.isnan(values).all()) else values
