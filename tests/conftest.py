"""What every test may use: a small synthetic archive, made once, and quiet offline libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores; and bits depend on it
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and references beside the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides of 1536 px in three folders, and one that is no slide at all."""
    from pathotune_pipeline.testing.slides import write_slide

    root = tmp_path_factory.mktemp("archive")
    for number in range(6):
        pattern = "planted" if number % 2 else "decoy"
        write_slide(root / f"case-{number // 2}" / f"s{number}.tif", size_px=(1536, 1536), seed=number, pattern=pattern)
    (root / "case-0" / "broken.svs").write_bytes(b"this is no slide")
    return root
