"""pathotune_pipeline: from an archive of whole-slide images to trained slide-level models.

archive → slides → tissue → tiles → features → store → bags → heads → reports

Every name below is loaded when it is first used; importing the package loads none of its libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.version import VERSION as __version__

if TYPE_CHECKING:
    from pathotune_pipeline.archive.manifest import Manifest, read_manifest
    from pathotune_pipeline.bags.bag import Bag
    from pathotune_pipeline.bags.dataset import BagDataset
    from pathotune_pipeline.embeddings.encode import encode_slides
    from pathotune_pipeline.encoders.create import create_encoder
    from pathotune_pipeline.evaluation.crossval import CrossvalSpec, crossval
    from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
    from pathotune_pipeline.features.extract import extract
    from pathotune_pipeline.features.outcome import Outcome
    from pathotune_pipeline.features.plan import ExtractSpec
    from pathotune_pipeline.heads.head import create_head
    from pathotune_pipeline.reports.report import write_report
    from pathotune_pipeline.slide_encoders.create import create_slide_encoder
    from pathotune_pipeline.slides.open import open_slide
    from pathotune_pipeline.slides.pyramid import read_at_mpp
    from pathotune_pipeline.store.store import FeatureStore, open_store
    from pathotune_pipeline.tiles.grid import TileGrid, TileSpec, tile_slide
    from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec
    from pathotune_pipeline.tissue.segment import find_tissue

_HOMES = {
    "Bag": "bags.bag",
    "BagDataset": "bags.dataset",
    "CrossvalSpec": "evaluation.crossval",
    "ExecutionSpec": "execution.executor",
    "ExtractSpec": "features.plan",
    "FeatureStore": "store.store",
    "Manifest": "archive.manifest",
    "Outcome": "features.outcome",
    "TileGrid": "tiles.grid",
    "TileSpec": "tiles.grid",
    "TissueMask": "tissue.mask",
    "TissueSpec": "tissue.mask",
    "create_encoder": "encoders.create",
    "create_executor": "execution.executor",
    "create_head": "heads.head",
    "create_slide_encoder": "slide_encoders.create",
    "crossval": "evaluation.crossval",
    "encode_slides": "embeddings.encode",
    "extract": "features.extract",
    "find_tissue": "tissue.segment",
    "open_slide": "slides.open",
    "open_store": "store.store",
    "read_at_mpp": "slides.pyramid",
    "read_manifest": "archive.manifest",
    "tile_slide": "tiles.grid",
    "write_report": "reports.report",
}

__all__ = [
    "Bag",
    "BagDataset",
    "CrossvalSpec",
    "ExecutionSpec",
    "ExtractSpec",
    "FeatureStore",
    "Manifest",
    "Outcome",
    "PathotuneError",
    "TileGrid",
    "TileSpec",
    "TissueMask",
    "TissueSpec",
    "__version__",
    "create_encoder",
    "create_executor",
    "create_head",
    "create_slide_encoder",
    "crossval",
    "encode_slides",
    "extract",
    "find_tissue",
    "open_slide",
    "open_store",
    "read_at_mpp",
    "read_manifest",
    "tile_slide",
    "write_report",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
