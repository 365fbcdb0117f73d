"""Reading pixels of whole-slide images, and nothing else."""

from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.slides.pyramid import read_at_mpp
from pathotune_pipeline.slides.slide import Level, Slide, SlideInfo, SlideSpec

__all__ = ["Level", "Slide", "SlideInfo", "SlideSpec", "open_slide", "read_at_mpp"]
