"""Encoders trained without labels on a lab's own slides and images: masked autoencoding, puzzles, distillation."""
