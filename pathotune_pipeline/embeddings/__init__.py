"""Slide embeddings: a feature set through a slide encoder, one vector a slide, into the store and out as a table."""
