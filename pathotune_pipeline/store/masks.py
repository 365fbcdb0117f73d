"""Which imported tissue mask each slide uses: small records under `STORE/masks/`, never changed; the newest one counts.

The masks themselves are committed tissue like any other. A record without a mask takes the slide back to the tissue
that is found by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from pathotune_pipeline.errors import StoreError
from pathotune_pipeline.provenance import now
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.store.stamped import add_stamped, newest_stamps
from pathotune_pipeline.store.store import FeatureStore


@dataclass(frozen=True, slots=True)
class MaskPointer:
    """The imported mask that a slide uses.

    Attributes:
        mask: content hash of the mask.
        identity: content hash of the slide it was made for; it counts for no other file of that name.
    """

    mask: str
    identity: str

    def for_slide(self, identity: str) -> str | None:
        """The mask's hash, where the slide's contents are those it was made for."""
        return self.mask if identity == self.identity else None


def current_masks(store: FeatureStore) -> dict[str, MaskPointer]:
    """The imported masks in use, by the slide's key. One listing, and one small file for each slide ever corrected.

    Raises:
        StoreError: a record cannot be read.
    """
    found: dict[str, MaskPointer] = {}
    for key, stamp in newest_stamps(store, layout.MASKS).items():
        where = stamp.name(layout.MASKS)
        record = parse_json(store.place.read(where))
        if not isinstance(record, dict) or not {"mask", "identity"} <= set(record):
            raise StoreError(f"{where} cannot be read. Import that slide's mask again.")
        if record["mask"] is not None:
            found[key] = MaskPointer(str(record["mask"]), str(record["identity"]))
    return found


def use_mask(store: FeatureStore, slide_id: str, slide_key: str, pointer: MaskPointer | None) -> None:
    """Say which mask a slide uses from now on; None for the tissue that is found by itself."""
    record = {
        "slide_id": slide_id,
        "mask": pointer.mask if pointer else None,
        "identity": pointer.identity if pointer else None,
        "made": now(),
    }
    add_stamped(store, layout.MASKS, slide_key, record)
