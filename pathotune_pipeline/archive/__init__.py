"""What lies in an archive: which slides, under which ids, with which contents."""

from pathotune_pipeline.archive.discover import Discovery, discover
from pathotune_pipeline.archive.identity import IdentityCache, Pseudonymiser, content_hash, slide_id_of
from pathotune_pipeline.archive.manifest import Manifest, SlideItem, read_manifest

__all__ = [
    "Discovery",
    "IdentityCache",
    "Manifest",
    "Pseudonymiser",
    "SlideItem",
    "content_hash",
    "discover",
    "read_manifest",
    "slide_id_of",
]
