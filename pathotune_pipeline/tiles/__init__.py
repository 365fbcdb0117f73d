"""Which tiles of a slide are read, and reading them at an exact scale."""

from pathotune_pipeline.tiles.concentric import concentric
from pathotune_pipeline.tiles.grid import TileGrid, TileSpec, grid_coords, tile_slide
from pathotune_pipeline.tiles.read import read_tile, read_tiles
from pathotune_pipeline.tiles.select import select_tiles
from pathotune_pipeline.tiles.stain import Macenko, Reinhard

__all__ = [
    "Macenko",
    "Reinhard",
    "TileGrid",
    "TileSpec",
    "concentric",
    "grid_coords",
    "read_tile",
    "read_tiles",
    "select_tiles",
    "tile_slide",
]
