"""Slide encoders adapted to whole cases: slides, gene expression and clinical variables, several tasks at once."""
