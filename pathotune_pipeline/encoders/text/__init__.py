"""Text encoders: sentences about a task to vectors, each known by its contents."""

from pathotune_pipeline.encoders.text.create import create_text_encoder
from pathotune_pipeline.encoders.text.embed import embed_texts, text_cache
from pathotune_pipeline.encoders.text.encoder import TextEncoder
from pathotune_pipeline.encoders.text.template import DEFAULT_TEMPLATE, check_template, fill_template

__all__ = [
    "DEFAULT_TEMPLATE",
    "TextEncoder",
    "check_template",
    "create_text_encoder",
    "embed_texts",
    "fill_template",
    "text_cache",
]
