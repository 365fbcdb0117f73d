"""Where a slide has tissue."""

from pathotune_pipeline.tissue.geojson import to_geojson
from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec
from pathotune_pipeline.tissue.segment import find_tissue

__all__ = ["TissueMask", "TissueSpec", "find_tissue", "to_geojson"]
