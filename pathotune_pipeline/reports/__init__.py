"""Reports: one self-contained HTML page of what a store holds and what models made of it."""

from pathotune_pipeline.reports.report import write_report

__all__ = ["write_report"]
