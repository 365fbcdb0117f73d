"""Names and places inside a store. docs/store.md says the same in prose.

    STORE/
      store.json                                  format number
      data.zarr/                                  a Zarr v3 hierarchy: committed data only
        <slide>/                                  one group a slide
          tissue-8mpp-<fingerprint>/              mask, geojson, thumbnail_jpeg
          tiles-256px-0.5mpp-<fingerprint>/       coords, tissue_fraction
          features-<encoder>-256px-0.5mpp-<fingerprint>/   features, valid
          embeddings-<slide encoder>-<encoder>-256px-0.5mpp-<fingerprint>/   embedding
      commits/<set>/<slide>@<fingerprint>.json    what is committed: one small record each
      staging/<owner>/<random>/                   being written
      leases/<set>/<slide>.json                   who is working on what; saves work, guards nothing; %all of a whole set
      runs/<run>/                                 run.json, outcomes.jsonl
      masks/<slide>@<time>.json                   which imported mask a slide uses; the newest one counts
      reviews/<slide>@<time>-<verdict>.json       what people said of slides; the newest verdict counts
      deaths/<slide>@<time>.json                  runs that gave a slide up, as processes died under it; append-only
      ledger/<number>.json                        what was done with the store, and when; append-only
      models/<fingerprint>.json                   which slides a model was trained on
      forgetting/<random>.json                    a case that is being forgotten
      cache/                                      content hashes of files, mean features, models' answers; may be deleted

A set is what one recipe makes of every slide: `features-stain-texture-256px-0.5mpp-1f0c...`, where the last part
is the recipe's fingerprint. A group's last part is the fingerprint of recipe and slide contents together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pathotune_pipeline.errors import StoreError

FORMAT = 1
DATA = "data.zarr"
COMMITS = "commits"
STAGING = "staging"
RUNS = "runs"
CACHE = "cache"
MEANS = "means-"
"""How names of files in the cache begin that hold mean features of slides."""
ANSWERS = "answers-"
"""Likewise, what a model answered for slides."""
MASKS = "masks"
LEASES = "leases"
REVIEWS = "reviews"
DEATHS = "deaths"
LEDGER = "ledger"
MODELS = "models"
FORGETTING = "forgetting"
MARKER = "store.json"
FOLDERS = (DATA, COMMITS, STAGING, RUNS, CACHE, MASKS, LEASES, REVIEWS, DEATHS, LEDGER, MODELS, FORGETTING)
"""What a store consists of; made with it."""
CHUNK_ROWS = 8192
"""Rows of features in a chunk; spans of work begin at multiples of it, so that a chunk has one writer."""

WHOLE_SET = "%all"
"""In a lease's name in the place of a slide, and no slide's key: its holder makes the whole set."""

Stage = Literal["tissue", "tiles", "features", "embeddings"]
_SET = re.compile(r"^(tissue|tiles|features|embeddings)-(.+)-([0-9a-f]{12})$")


@dataclass(frozen=True, slots=True, order=True)
class SetName:
    """Name of what one recipe makes of every slide.

    Attributes:
        stage: tissue, tiles, features, or embeddings (one vector a slide).
        label: readable: "8mpp", "256px-0.5mpp", "stain-texture-256px-0.5mpp".
        recipe: 12 hexadecimal digits of the recipe's fingerprint.
    """

    stage: Stage
    label: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.stage}-{self.label}-{self.recipe}"

    @classmethod
    def parse(cls, text: str) -> SetName:
        """Read a name back.

        Raises:
            StoreError: it is no set's name.
        """
        match = _SET.match(text)
        if not match:
            raise StoreError(f"{text!r} is no name of a set in a store.")
        return cls(match[1], match[2], match[3])  # type: ignore[arg-type]

    @staticmethod
    def is_one(text: str) -> bool:
        """Whether a text is a set's name."""
        return bool(_SET.match(text))

    def group(self, fingerprint12: str) -> str:
        """Name of one slide's group of this set."""
        return f"{self.stage}-{self.label}-{fingerprint12}"


def slug(text: str) -> str:
    """An encoder's name as part of a file name: `hf-hub:org/name` becomes `hf-hub.org.name`."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text.replace(":", ".").replace("/", ".")).strip("._") or "unnamed"


def number(value: float) -> str:
    """A number in a name: 0.5, 8, 1.3."""
    return f"{value:.6g}"
