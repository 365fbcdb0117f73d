"""Slide encoders: all tiles of a slide to one vector. Tensors in, tensors out; no stores, no slides.

What needs torch is loaded when it is first used: names and settings are wanted where nothing is encoded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pathotune_pipeline.slide_encoders.card import SlideEncoderCard, SlideEncoderSpec

if TYPE_CHECKING:
    from pathotune_pipeline.slide_encoders.create import create_slide_encoder
    from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder, Tokens
    from pathotune_pipeline.slide_encoders.file import save_slide_encoder

_HOMES = {
    "StagedSlideEncoder": "encoder",
    "Tokens": "encoder",
    "create_slide_encoder": "create",
    "save_slide_encoder": "file",
}

__all__ = [
    "SlideEncoderCard",
    "SlideEncoderSpec",
    "StagedSlideEncoder",
    "Tokens",
    "create_slide_encoder",
    "save_slide_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
