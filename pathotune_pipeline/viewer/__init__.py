"""Slides in a browser, on this machine: deep zoom, tissue, tiles, attention, quality flags and reviews."""
