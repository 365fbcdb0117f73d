"""An extraction that is killed in mid-run, and done again: what a power cut costs."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from pathotune_pipeline import failpoints
from pathotune_pipeline.archive.identity import decode_id
from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.doctor.trial.repeat import Agreement, SlideFeatures, compare, read_features
from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.store.verify import verify_store

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from pathotune_pipeline.cli import main; raise SystemExit(main(sys.argv[1:]))"
)
"""The command line stands above this room: it is run, as a user runs it, and not imported."""
_LOOK_S = 0.1
_TOLD = 300
"""Letters of what a child said last."""


class ResumeFailedError(PathotuneError):
    """An extraction in a child process did not do what was asked of it."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """What became of an extraction that was killed.

    Attributes:
        killed_after_batch: of its encoder's.
        committed_when_killed: slides whose features were committed then.
        resumed: slides that the second run computed.
        slides: of the trial.
        agreement: of the features in the end with those of a run that nobody disturbed.
        faults: what the store's own check found wrong.
        seconds: from the first start to the second end.
    """

    killed_after_batch: int
    committed_when_killed: int
    resumed: int
    slides: int
    agreement: Agreement
    faults: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The run that the killed one is held against.

    Attributes:
        items: its slides.
        spec: its settings.
        features: its set.
        made: its features.
        batch_size: of the encoder.
        key: file of the key of pseudonyms; None where slides go by their own names. `items` have their own in any case.
    """

    items: Sequence[SlideItem]
    spec: ExtractSpec
    features: SetName
    made: Mapping[str, SlideFeatures]
    batch_size: int
    key: Path | None = None


def kill_and_resume(truth: Undisturbed, work: Path, *, limit_s: float) -> Resumption:
    """Begin `pathotune extract` in a process of its own, kill it with SIGKILL in the middle, and run it again.

    The child stops itself (SIGSTOP) when half of the batches are encoded, so that it cannot end before it is killed.

    Args:
        truth: what it has to come to.
        work: an empty folder.
        limit_s: seconds that each of both runs may take.

    Raises:
        ResumeFailedError: a run ended as it should not have, or took too long.
        CorruptDataError: committed features have not their checksums.
    """
    command, store = _command(truth, work), FeatureStore(work / "store")
    tiles = sum(len(each.rows) for each in truth.made.values())
    batch = max(1, math.ceil(tiles / truth.batch_size) // 2)
    began = time.monotonic()
    _kill_in_the_middle(command, work / "killed.txt", f"features.batch:{batch}:stop", limit_s=limit_s)
    committed = len(store.committed(truth.features))
    told = _run(command, work / "resumed.txt", limit_s=limit_s)
    found = read_features(store, truth.features)
    return Resumption(
        killed_after_batch=batch,
        committed_when_killed=committed,
        resumed=int(json.loads(told)["counts"]["computed"]),
        slides=len(truth.made),
        agreement=compare(truth.made, found),
        faults=tuple(each.what for each in verify_store(store) if each.kind == "fault"),
        seconds=time.monotonic() - began,
    )


def _command(truth: Undisturbed, work: Path) -> list[str]:
    table, settings = work / "slides.csv", work / "settings.yaml"
    with table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("slide_id", "path", "mpp"))
        writer.writerows(
            (decode_id(item.slide_id), item.path.absolute(), "" if item.mpp is None else item.mpp)
            for item in truth.items
        )
    settings.write_text(yaml.safe_dump(truth.spec.model_dump(mode="json")), encoding="utf-8")
    words = [
        "extract",
        "--manifest",
        table,
        "--config",
        settings,
        "--store",
        work / "store",
        "--executor",
        "serial",
        "--json",
    ]
    hidden = ["--pseudonymise", truth.key.absolute()] if truth.key else []
    return [sys.executable, "-c", _BOOT, json.dumps(sys.path), *map(str, [*words, *hidden])]


def _kill_in_the_middle(command: Sequence[str], said: Path, failpoint: str, *, limit_s: float) -> None:
    with _started(command, said, {failpoints.VARIABLE: failpoint}) as process:
        watched = psutil.Process(process.pid)

        def stopped() -> bool:
            if process.poll() is not None:
                raise ResumeFailedError(f"it ended ({_how(process)}) before it could be killed: {_last(said)}")
            return bool(watched.status() == psutil.STATUS_STOPPED)

        _wait(stopped, limit_s, said)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run(command: Sequence[str], said: Path, *, limit_s: float) -> str:
    """Run to the end; what was said on standard output."""
    with _started(command, said, {}) as process:
        _wait(lambda: process.poll() is not None, limit_s, said)
        if process.returncode:
            raise ResumeFailedError(f"it failed when it was run again ({_how(process)}): {_last(said)}")
    return said.with_suffix(".json").read_text(encoding="utf-8")


@contextlib.contextmanager
def _started(command: Sequence[str], said: Path, more: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, and a process group, of its own, of which nothing is left afterwards."""
    own = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
    with said.open("wb") as errors, said.with_suffix(".json").open("wb") as answer:
        process = subprocess.Popen(
            command, env={**own, **more}, stdin=subprocess.DEVNULL, stdout=answer, stderr=errors, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(done: Callable[[], bool], limit_s: float, said: Path) -> None:
    until = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > until:
            raise ResumeFailedError(f"it took longer than {limit_s:.0f} s: {_last(said)}")
        time.sleep(_LOOK_S)


def _how(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _last(said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][-_TOLD:] if lines else "it said nothing"
