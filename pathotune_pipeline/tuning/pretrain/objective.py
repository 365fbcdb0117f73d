"""What a method of pretraining is to the run that trains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import Trunk


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back of a batch.

    Attributes:
        patches: [B, N, K] as the decoder restored them.
        target: [B, N, K] what they ought to be.
        taken: float32 [B, N]; 1 where a patch was taken away, and is judged.
        given: [B, 3, P, P] in 0 to 1: what the network was given to see, to be looked at.
    """

    patches: Tensor
    target: Tensor
    taken: Tensor
    given: Tensor


class Objective(Protocol):
    """An `nn.Module` that says what its losses are; its parameters that want a gradient are trained.

    Attributes:
        name: of the method.
        trunk: the encoder in it.
        patch_norm: whether patches are restored freed of their own mean and spread.
    """

    name: str
    trunk: Trunk
    patch_norm: bool

    @property
    def views_per_image(self) -> int:
        """How many views of each image a step needs."""

    def __call__(self, views: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Scalars by name for float32 [B, 3, P, P] views in 0 to 1; what is minimised is their sum."""

    def restore(self, views: Tensor, draws: Draws) -> Restored:
        """The pixels that the method takes away and restores."""

    def embed(self, views: Tensor) -> Tensor:
        """Features [B, D] of the views, as the encoder gives them."""

    def begin_epoch(self, epoch: int, loss: float | None) -> None:
        """Told at the start of each epoch, with the mean loss of the one before where there was one."""

    def state_of_course(self) -> dict[str, Any]:
        """Plain values for a line of metrics.csv: where the method's own schedule stands."""

    def artefact(self, out: Path) -> Path:
        """Where `write` puts what was learnt."""

    def write(self, out: Path, record: Mapping[str, Any]) -> Path:
        """Write what was learnt, with a record of how, and return its place."""

    def recipe(self) -> dict[str, Any]:
        """What decides the result beside the run's settings: plain values."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...  # noqa: FBT001, FBT002  nn.Module's
    def eval(self) -> Any: ...
