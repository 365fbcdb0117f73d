"""Flows that tell nothing to another machine's Prefect server unless that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow

from flows.environment import refuse_remote

P = ParamSpec("P")
R = TypeVar("R")


class GuardedFlow(Flow[P, R]):
    """A flow that looks where Prefect's API is when it is called, which is before anything is sent.

    A worker does not call a flow but runs its function, so that begins with `refuse_remote()` too.
    """

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        refuse_remote()
        return super().__call__(*arguments, **more)


def guarded_flow(**options: Any) -> Callable[[Callable[P, R]], GuardedFlow[P, R]]:
    """What `prefect.flow` is, for a GuardedFlow.

    Args:
        options: as `prefect.flow` takes them.
    """
    return lambda function: GuardedFlow(function, **options)
