"""What a method of pretraining is to the run that trains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import Trunk
from pathotune_pipeline.tuning.pretrain.spec import ViewSpec


class Judge(Protocol):
    """Measures a method on images that are not learnt from."""

    def add(self, views: Tensor, draws: Draws, picture: Path | None) -> None:
        """Count float32 [B, 3, P, P] views in 0 to 1 in; where a method has something to show, draw it."""

    def losses(self) -> tuple[float | None, float | None]:
        """The loss, and that of the best constant answer; None where the method knows of no such thing."""


class Objective(Protocol):
    """An `nn.Module` that says what its losses are; its parameters that want a gradient are trained.

    Attributes:
        name: of the method.
    """

    name: str

    @property
    def trunk(self) -> Trunk:
        """The encoder that is kept in the end."""

    def cut(self, images: Tensor, spec: ViewSpec, draws: Draws) -> Any:
        """What a step looks at, from uint8 [B, S, S, 3] images on its device."""

    def __call__(self, views: Any, draws: Draws) -> dict[str, Tensor]:
        """Scalars by name for what `cut` gave; what is minimised is their sum."""

    def judge(self) -> Judge:
        """A new judge of what has been learnt."""

    def embed(self, views: Tensor) -> Tensor:
        """Features [B, D] of the views, as the encoder gives them."""

    def begin_epoch(self, epoch: int, loss: float | None) -> None:
        """Told at the start of each epoch, with the mean loss of the one before where there was one."""

    def begin_step(self, step: int, steps: int) -> None:
        """Told before each step of a run of so many."""

    def end_step(self) -> None:
        """Told when the weights have been changed."""

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
