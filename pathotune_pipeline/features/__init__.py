"""Slides to features: the plan, the stream of tiles, the worker's job, and the whole extraction."""

from pathotune_pipeline.features.outcome import Outcome

__all__ = ["Outcome"]
