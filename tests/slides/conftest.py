from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathotune_pipeline.slides import open as open_module
from pathotune_pipeline.slides.slide import Slide

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def real_slides() -> Path:
    folder = SHARED / "data" / "slides"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


@pytest.fixture(autouse=True)
def close_slides(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every slide a test opened: an open file that is forgotten is a warning, and warnings are errors."""
    opened: list[Slide] = []
    real = open_module._open_with

    def remember(path: Path, names: list[str] | None) -> Slide:
        opened.append(real(path, names))
        return opened[-1]

    monkeypatch.setattr(open_module, "_open_with", remember)
    yield
    for slide in opened:
        slide.close()


def smooth_picture(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: gradients that JPEG keeps well and that tell every place apart."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    red = 40 + 180 * x / max(1, width - 1)
    green = 40 + 180 * y / max(1, height - 1)
    blue = 128 + 60 * np.sin(x / 40) * np.cos(y / 40)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def write_pyramid() -> Callable[..., np.ndarray]:
    def write(path: Path, pixels: np.ndarray, *, mpp: float | tuple[float, float] | None, factors=(1, 2, 4), tile=64):
        across, down = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        with tifffile.TiffWriter(path) as tiff:
            for index, factor in enumerate(factors):
                height, width = pixels.shape[0] // factor * factor, pixels.shape[1] // factor * factor
                level = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
                resolution = {} if mpp is None else {
                    "resolution": (1e4 / across / factor, 1e4 / down / factor), "resolutionunit": "CENTIMETER"
                }  # fmt: skip
                tiff.write(
                    level.mean((1, 3)).round().astype(np.uint8), tile=(tile, tile), compression="jpeg",
                    compressionargs={"level": 95}, photometric="rgb", subfiletype=1 if index else 0, metadata=None,
                    **resolution,
                )  # fmt: skip
        return pixels

    return write


@pytest.fixture(scope="session")
def pyramid(tmp_path_factory: pytest.TempPathFactory, write_pyramid) -> tuple[Path, np.ndarray]:
    """A slide of 640 x 480 px at 0.5 um/px with three levels, and its pixels."""
    path = tmp_path_factory.mktemp("slides") / "synthetic.tif"
    return path, write_pyramid(path, smooth_picture(480, 640), mpp=0.5)
