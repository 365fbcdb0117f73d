"""Slide encoders: all tiles of a slide to one vector. Tensors in, tensors out; no stores, no slides."""

from pathotune_pipeline.slide_encoders.card import SlideEncoderCard, SlideEncoderSpec
from pathotune_pipeline.slide_encoders.create import create_slide_encoder
from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder, Tokens
from pathotune_pipeline.slide_encoders.file import save_slide_encoder

__all__ = [
    "SlideEncoderCard",
    "SlideEncoderSpec",
    "StagedSlideEncoder",
    "Tokens",
    "create_slide_encoder",
    "save_slide_encoder",
]
