"""Encoders: uint8 tiles to feature vectors, each described by a card."""

from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec

__all__ = ["EncoderCard", "EncoderSpec"]
