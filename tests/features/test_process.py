"""How a process is set up: freed memory is kept, whatever its environment says, and Python's lock changes hands soon."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from pathotune_pipeline.features import process
from pathotune_pipeline.features.engines import engine_of

IMAGES = """
import resource, sys, threading
import numpy as np
from pathotune_pipeline.features.process import set_up_process

def images(count):
    for _ in range(count):
        np.ones(1 << 20, np.uint8)  # less than a huge page

def work():
    images(3)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    images(200)
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

if sys.argv[1] == "set up":
    set_up_process()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def pages_made_anew(how: str) -> int:
    # As Dask's nanny starts a worker.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", IMAGES, how]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_of_an_image_is_had_again() -> None:
    assert pages_made_anew("as it is") > 1000
    assert pages_made_anew("set up") < 100


def test_pythons_lock_changes_hands_soon() -> None:
    engine_of(torch.device("cpu"))
    assert sys.getswitchinterval() <= process.SWITCH_S * 1.001


def test_a_shorter_interval_is_left() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        process.set_up_process.__wrapped__()
        assert sys.getswitchinterval() == pytest.approx(1e-4, abs=3e-6)
    finally:
        sys.setswitchinterval(before)
