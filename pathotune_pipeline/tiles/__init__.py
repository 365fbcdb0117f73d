"""Which tiles of a slide are read, and reading them at an exact scale."""

from pathotune_pipeline.tiles.grid import TileGrid, TileSpec, grid_coords, tile_slide
from pathotune_pipeline.tiles.read import read_tile, read_tiles

__all__ = ["TileGrid", "TileSpec", "grid_coords", "read_tile", "read_tiles", "tile_slide"]
