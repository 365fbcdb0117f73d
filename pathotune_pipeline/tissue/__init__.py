"""Where a slide has tissue."""

from pathotune_pipeline.tissue.geojson import to_geojson
from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec
from pathotune_pipeline.tissue.pen import find_pen
from pathotune_pipeline.tissue.quality import Quality, QualitySpec, flags
from pathotune_pipeline.tissue.segment import find_tissue

__all__ = ["Quality", "QualitySpec", "TissueMask", "TissueSpec", "find_pen", "find_tissue", "flags", "to_geojson"]
