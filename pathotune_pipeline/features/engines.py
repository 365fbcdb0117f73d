"""This process's engines, one for each device."""

from __future__ import annotations

import atexit
import threading

import torch

from pathotune_pipeline.features.engine import Engine
from pathotune_pipeline.features.process import set_up_process

_engines: dict[str, Engine] = {}
_engines_lock = threading.Lock()


def close_engines() -> None:
    """End this process's engines: slides in hand fail at their next step, and those that come later at their first."""
    with _engines_lock:
        engines = list(_engines.values())
    for engine in engines:
        engine.close()


def forget_closed_engines() -> None:
    """Let those that come now have engines again."""
    with _engines_lock:
        for name in [name for name, engine in _engines.items() if engine.closed]:
            del _engines[name]


def engine_of(device: torch.device) -> Engine:
    """This process's engine for a device."""
    set_up_process()
    name = str(device)
    with _engines_lock:
        if name not in _engines or _engines[name].broken:
            _engines[name] = engine = Engine(device)
            atexit.register(engine.close)  # a thread that is inside torch when Python goes away would take it down
        return _engines[name]
