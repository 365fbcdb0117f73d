"""The command line."""

from pathotune_pipeline.cli.main import main

__all__ = ["main"]
