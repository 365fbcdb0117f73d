"""A network that tells tissue: a TorchScript file with a card, run over an overview in overlapping tiles.

`tissue.pt` lies beside `tissue.json`, such as

    {"mpp": 4.0, "tile_px": 512, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "class_index": 1,
     "threshold": 0.5, "sha256": "<of tissue.pt>"}

The network takes float32 [B, 3, tile_px, tile_px] and gives logits [B, C, h, w]; a coarser h x w is interpolated.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from pathotune_pipeline.encoders.card import IMAGENET_MEAN, IMAGENET_STD
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import SpecError, WeightsError
from pathotune_pipeline.spec import Spec, setting

REVISION = 1
"""Raised by hand when the way in which a network is run changes masks."""
_BATCH = 4


class SegmenterCard(Spec):
    """Facts about a network that tells tissue."""

    mpp: float = setting(..., "um/px at which it sees the slide.", gt=0)
    tile_px: int = setting(512, "Side of the square it sees; even.", ge=32, le=4096, multiple_of=2)
    mean: tuple[float, float, float] = setting(IMAGENET_MEAN, "Of RGB in 0-1; subtracted.")
    std: tuple[float, float, float] = setting(IMAGENET_STD, "Of RGB in 0-1; divided by.")
    class_index: int = setting(0, "Which of its output channels is tissue.", ge=0)
    threshold: float = setting(0.5, "Probability from which a pixel is tissue.", ge=0, le=1)
    activation: Literal["auto", "softmax", "sigmoid", "none"] = setting(
        "auto", "From output to probability; auto: softmax over several channels, sigmoid over one."
    )
    sha256: str | None = setting(None, "Of the TorchScript file, as sha256sum prints it; checked where it is given.")
    licence: str | None = setting(None, "Of the weights.", hashed=False)


def network_segmenter(argument: str, device: str) -> NetworkSegmenter:
    """`--segmenter network:PATH.pt`. Reads the card and hashes the file; the network is loaded when it is first used.

    Raises:
        SpecError: no path was given, or the card holds what it must not.
        WeightsError: file or card is absent, or the file is not the one the card means.
    """
    if not argument:
        raise SpecError("--segmenter network needs a file: network:PATH.pt, with a card PATH.json beside it.")
    path = Path(argument)
    card_path = path.with_suffix(".json")
    if not path.is_file():
        raise WeightsError(f"--segmenter network:{argument}: nothing lies there. Give a TorchScript file.")
    try:
        values = json.loads(card_path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(
            f"--segmenter network:{argument}: it has no card. Write {card_path.name} beside it, with at least "
            '{"mpp": 4.0, "tile_px": 512}.'
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"--segmenter network:{argument}: its card cannot be read ({error}). Mend it.") from None
    if not isinstance(values, dict):
        raise WeightsError(f"--segmenter network:{argument}: its card must be a JSON object. Mend it.")
    card = SegmenterCard.parse(values, f"--segmenter network: {card_path.name}")
    stat = path.stat()
    digest = _digest(path.absolute(), stat.st_size, stat.st_mtime_ns)
    if card.sha256 is not None and card.sha256 != digest:
        raise WeightsError(
            f"--segmenter network:{argument}: the file's SHA-256 begins with {digest[:12]}, its card says "
            f"{card.sha256[:12]}. Get the file that the card means."
        )
    return NetworkSegmenter(path, card, digest, device)


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, mtime_ns: int) -> str:  # size and time: a changed file is hashed anew
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NetworkSegmenter:
    """Runs a network over overviews. Several threads may call it; they take turns.

    Attributes:
        card: facts about it.
        sha256: of its file.
    """

    def __init__(self, path: Path, card: SegmenterCard, sha256: str, device: str) -> None:
        self.card, self.sha256 = card, sha256
        self._path, self._device_name = path, device
        self._module: Any = None
        self._device = torch.device("cpu")
        self._lock = threading.Lock()

    @property
    def mpp(self) -> float | None:
        return self.card.mpp

    def recipe(self) -> dict[str, Any]:
        """Card and weights: what decides masks."""
        facts = self.card.model_dump(mode="json", exclude={"licence", "sha256"})
        return {**facts, "weights_sha256": self.sha256, "revision": REVISION}

    def __call__(self, rgb: np.ndarray, mpp: float) -> np.ndarray:
        """Tissue in an overview, by tiles that overlap by half and are blended.

        Memory beyond the overview and the mask is that of one row of tiles.

        Args:
            rgb: uint8 [h, w, 3].
            mpp: its um/px, which may be coarser than the card's where a slide is too large or too coarse.

        Returns:
            bool [h, w].

        Raises:
            WeightsError: the file is no TorchScript, or its network does not take such tiles.
        """
        with self._lock, torch.inference_mode():
            self._load()
            threads = torch.get_num_threads()
            if self._device.type == "cpu":
                torch.set_num_threads(1)  # so that masks are the same bits whatever the number of threads
            try:
                return self._run(rgb)
            except RuntimeError as error:
                first = str(error).strip().splitlines()[-1]
                raise WeightsError(
                    f"--segmenter network:{self._path.name}: the network failed on a tile of {self.card.tile_px} px "
                    f"({first}). Check its card."
                ) from None
            finally:
                torch.set_num_threads(threads)

    def _load(self) -> None:
        if self._module is not None:
            return
        self._device = pick_device(self._device_name)
        try:
            with warnings.catch_warnings():
                # Newer torch urges users to torch.export; files of that kind are tied to the torch that wrote them.
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                self._module = torch.jit.load(str(self._path), map_location=self._device).eval()
        except (RuntimeError, ValueError) as error:
            raise WeightsError(
                f"--segmenter network:{self._path.name}: it is no TorchScript ({str(error).splitlines()[0]}). Save it "
                "with torch.jit.save."
            ) from None

    def _run(self, rgb: np.ndarray) -> np.ndarray:
        side = self.card.tile_px
        step = side // 2
        height, width = rgb.shape[:2]
        mask = np.zeros((height, width), bool)
        ramp = 1 - np.abs((np.arange(side) + 0.5) / side * 2 - 1)
        window = np.outer(ramp, ramp).astype(np.float32)  # over neighbours half a tile apart it sums to one
        # Half a tile of surroundings on every side, so that the blend is whole at the slide's rim.
        wide = -(-width // step) * step + side
        band = np.zeros((side, wide), np.float32)
        for top in range(-step, height, step):
            strip = _strip(rgb, top, side, step, wide)
            lefts = list(range(0, wide - side + 1, step))
            for begin in range(0, len(lefts), _BATCH):
                some = lefts[begin : begin + _BATCH]
                tiles = np.stack([strip[:, left : left + side] for left in some])
                for left, chance in zip(some, self._probabilities(tiles), strict=True):
                    band[:, left : left + side] += chance * window
            if top >= 0:
                rows = min(step, height - top)
                mask[top : top + rows] = band[:rows, step : step + width] >= self.card.threshold - 1e-6
            band[:-step] = band[step:]
            band[-step:] = 0
        return mask

    def _probabilities(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 [B, P, P, 3] to the probability of tissue, float32 [B, P, P]."""
        pixels = torch.from_numpy(tiles).to(self._device).permute(0, 3, 1, 2).float() / 255  # [B, 3, P, P]
        mean, std = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (self.card.mean, self.card.std)
        )
        out = self._module((pixels - mean) / std)
        if not isinstance(out, torch.Tensor) or out.ndim != 4 or out.shape[1] <= self.card.class_index:
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise WeightsError(
                f"--segmenter network:{self._path.name}: it gave {shape}; a tensor [B, C, h, w] with channel "
                f"{self.card.class_index} is needed. Check class_index in its card."
            )
        activation = self.card.activation
        if activation == "auto":
            activation = "softmax" if out.shape[1] > 1 else "sigmoid"
        if activation == "softmax":
            out = out.float().softmax(dim=1)
        elif activation == "sigmoid":
            out = out.float().sigmoid()
        chance = out[:, self.card.class_index : self.card.class_index + 1].float()
        if chance.shape[-2:] != pixels.shape[-2:]:
            chance = F.interpolate(chance, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        return np.asarray(chance[:, 0].cpu().numpy())


def _strip(rgb: np.ndarray, top: int, side: int, margin: int, wide: int) -> np.ndarray:
    """Rows of an overview with `margin` columns before it; what lies outside is the nearest pixel's colour."""
    rows = np.clip(np.arange(top, top + side), 0, rgb.shape[0] - 1)
    columns = np.clip(np.arange(-margin, wide - margin), 0, rgb.shape[1] - 1)
    return np.ascontiguousarray(rgb[rows][:, columns])
