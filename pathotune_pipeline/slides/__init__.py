"""Reading pixels of whole-slide images, and nothing else."""

from pathotune_pipeline.slides.describe import describe
from pathotune_pipeline.slides.open import READERS, check_scale, open_checked, open_slide
from pathotune_pipeline.slides.pyramid import RegionPlan, plan_region, read_at_mpp, read_overview, read_planned
from pathotune_pipeline.slides.slide import Level, Slide, SlideInfo, SlideSpec

__all__ = [
    "READERS",
    "Level",
    "RegionPlan",
    "Slide",
    "SlideInfo",
    "SlideSpec",
    "check_scale",
    "describe",
    "open_checked",
    "open_slide",
    "plan_region",
    "read_at_mpp",
    "read_overview",
    "read_planned",
]
