"""Work in this process, one item after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from pathotune_pipeline.execution.executor import Result, usable_cores


class SerialExecutor:
    """One item at a time; an item may use every core."""

    here = True

    @property
    def workers(self) -> int:
        return 1

    def threads_per_item(self) -> int:
        return usable_cores()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        for index, item in enumerate(items):
            try:
                yield Result(index, value=function(item))
            except Exception as error:  # noqa: BLE001 - an item that fails does not stop the others
                yield Result(index, error=error)

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()
