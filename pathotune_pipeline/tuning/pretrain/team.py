"""Processes that train together: `torchrun` starts them, each has a part of every batch, and gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.tuning.pretrain.sources import Team


@contextmanager
def joined(device: str) -> Iterator[tuple[Team, torch.device]]:
    """This process's place among those that `torchrun` started, and its device; alone without it.

    Args:
        device: as `engine.pick_device` takes it; with several processes on GPUs, each takes that of its local rank.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team(), pick_device(device)
        return
    place = pick_device(device)
    if place.type == "cuda":
        place = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(place)
    torch.distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Team(torch.distributed.get_rank(), torch.distributed.get_world_size()), place
    finally:
        torch.distributed.destroy_process_group()


def average_gradients(parameters: Sequence[nn.Parameter], team: Team) -> None:
    """Replace each gradient by its mean over the processes, in one exchange."""
    if team.world == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= team.world
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def averaged(values: Tensor, team: Team) -> Tensor:
    """The mean of a tensor over the processes."""
    if team.world > 1:
        torch.distributed.all_reduce(values)
        values /= team.world
    return values


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes that `joined` brought together; the tensor itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


def wait_for_all(team: Team) -> None:
    """Go on when every process has come here."""
    if team.world > 1:
        torch.distributed.barrier()
