"""Slide encoders: all tiles of a slide to one vector. Tensors in, tensors out; no stores, no slides."""

from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder, Tokens

__all__ = ["StagedSlideEncoder", "Tokens"]
