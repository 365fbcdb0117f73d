"""A store that cannot be written: no batch goes on, none is tried again, and the flow has the reason."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flows.tasks import Batch
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.execution.executor import Result
from pathotune_pipeline.execution.serial import SerialExecutor
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.planning import plan_extract
from pathotune_pipeline.features.run_logs import RunLogs
from pathotune_pipeline.store import FeatureStore
from pathotune_pipeline.store.unwritable import unwritable


class FullDisk(SerialExecutor):
    """Every item meets a full disk; counts those that were begun."""

    begun = 0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        for index, _ in enumerate(items):
            self.begun += 1
            yield Result(index, error=unwritable("store", errno.ENOSPC))


def test_a_full_disk_stops_every_batch(small_archive: Path, tmp_path: Path) -> None:
    store, manifest = FeatureStore(tmp_path / "store"), read_manifest(small_archive)
    plan = plan_extract(manifest, ExtractSpec(), store)
    log, executor = RunLogs(store, manifest, plan), FullDisk()
    one, two = Batch(plan, plan.jobs[:3], executor, log), Batch(plan, plan.jobs[3:], executor, log)
    assert one.run() == [], "nothing is tried again"
    assert plan.stopped is not None
    assert "Free space" in str(plan.stopped)
    assert two.run() == []
    assert executor.begun == 1, "the first slide tells all"
    assert not one.outcomes
    assert not two.outcomes
