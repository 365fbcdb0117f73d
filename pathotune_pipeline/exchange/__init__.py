"""Features to and from other tools: TRIDENT, CLAM, STAMP, LazySlide (SpatialData), AnnData, and plain tensors."""

from pathotune_pipeline.exchange.bring import ImportResult, import_features
from pathotune_pipeline.exchange.geometry import ImportSpec
from pathotune_pipeline.exchange.send import ExportResult, Sent, export_features

__all__ = ["ExportResult", "ImportResult", "ImportSpec", "Sent", "export_features", "import_features"]
