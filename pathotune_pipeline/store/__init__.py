"""Where results live: one Zarr hierarchy of committed data, and small records that say what is committed."""

from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.runs import RunLog, read_runs
from pathotune_pipeline.store.store import CommitRecord, FeatureStore, open_store
from pathotune_pipeline.store.write import StagedGroup

__all__ = ["CommitRecord", "FeatureStore", "RunLog", "SetName", "StagedGroup", "open_store", "read_runs"]
