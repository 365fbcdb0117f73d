"""Export: a feature set written as another tool writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pathotune_pipeline.errors import CorruptDataError, ForeignFileError, OutputExistsError, UsageError
from pathotune_pipeline.exchange.layout import Layout, Named, Told, name_slides
from pathotune_pipeline.exchange.outbox import Outbox
from pathotune_pipeline.exchange.parcel import load_parcel
from pathotune_pipeline.features.reviewed import rejected_among
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.store.layout import SetName, slug
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

LAYOUTS = {
    "trident": "trident:TridentLayout",
    "clam": "clam:ClamLayout",
    "stamp": "stamp:StampLayout",
    "anndata": "spatial:SpatialLayout",
    "h5ad": "spatial:TableLayout",
    "pt": "tensors:TensorLayout",
}
"""What `--to` takes, and where its files are described."""

Status = Literal["written", "unchanged", "empty", "failed"]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one slide.

    Attributes:
        slide_id: whose.
        status: written; unchanged: its files were there with the same bytes; empty: it has no tiles, and the layout no
            files for such; failed.
        reason: why it failed or is empty.
        name: of its files, without an ending.
        tiles: how many were written.
        invalid_tiles: how many were left out because they could not be read.
    """

    slide_id: str
    status: Status
    reason: str = ""
    name: str = ""
    tiles: int = 0
    invalid_tiles: int = 0


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        features: the set's name as `--features` takes it.
        slides: one `Sent` a slide, in the order of the ids.
        rejected: ids of slides that reviewers rejected: nothing was written of them.
    """

    features: str
    slides: list[Sent]
    rejected: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """Where an export goes, and under which names.

    Attributes:
        to: which tool's layout: one of LAYOUTS.
        out: the folder.
        names: "stem" names files after the slide's file, "id" after its whole id.
        encoder: the name of the encoder that the other tool is told; None for our own name.
        overwrite: replace what lies there and differs.
    """

    to: str
    out: Path
    names: Literal["stem", "id"] = "stem"
    encoder: str | None = None
    overwrite: bool = False


def export_features(
    store: FeatureStore,
    features_set: SetName,
    target: ExportTarget,
    *,
    slides: Sequence[str] | None = None,
    on_slide: Callable[[Sent], None] | None = None,
) -> ExportResult:
    """Write the slides of a feature set. Each slide's files appear whole; those that are there already are left alone.

    Slides that reviewers rejected are left out; files that an earlier export wrote of them stay.

    Args:
        store: where the features lie.
        features_set: which set.
        target: layout, folder and names.
        slides: ids; None for all.
        on_slide: told each slide as it is done.

    Raises:
        UsageError: no such slide or layout, names that clash, or a folder that cannot be written.
        MissingExtraError: a library for the layout is not installed.
    """
    records = _chosen(store.records(features_set), slides)
    named = name_slides(list(records), target.names)
    layout = make_layout(target.to, target.encoder or _encoder_name(store, records))
    rejected = rejected_among(store, records)
    sent: list[Sent] = []
    with Outbox(target.out, overwrite=target.overwrite) as outbox:
        for slide_id, record in records.items():
            if slide_id in rejected:
                continue
            sent.append(_send(store, record, named[slide_id], layout=layout, outbox=outbox))
            if on_slide:
                on_slide(sent[-1])
        present = [Told(named[each.slide_id], each.tiles) for each in sent if each.status in ("written", "unchanged")]
        if present:
            try:
                outbox.put(layout.closing_files(present, target.out), overwrite=True)
            except OSError as error:
                raise UsageError(f"--out {target.out}: cannot write there ({error.strerror or error}).") from None
    return ExportResult(str(features_set).removeprefix("features-"), sent, sorted(rejected))


def make_layout(name: str, encoder: str) -> Layout:
    """The layout of a tool.

    Args:
        name: one of LAYOUTS.
        encoder: name of the encoder, as it stands in the tool's file names.

    Raises:
        UsageError: there is no such layout.
        MissingExtraError: a library for it is not installed.
    """
    if name not in LAYOUTS:
        raise UsageError(
            f"--to {name}: there is no such layout.{nearest(name, LAYOUTS)} Layouts: {', '.join(LAYOUTS)}."
        )
    module, _, kind = LAYOUTS[name].partition(":")
    made: Layout = getattr(import_module(f"pathotune_pipeline.exchange.{module}"), kind)(slug(encoder))
    return made


def _chosen(records: dict[str, CommitRecord], slides: Sequence[str] | None) -> dict[str, CommitRecord]:
    for slide_id in slides or ():
        if slide_id not in records:
            raise UsageError(f"--slide {slide_id}: the set holds no such slide.{nearest(slide_id, records)}")
    return {slide_id: record for slide_id, record in records.items() if not slides or slide_id in slides}


def _encoder_name(store: FeatureStore, records: dict[str, CommitRecord]) -> str:
    attributes: Any = dict(store.group(next(iter(records.values()))).attrs)
    return str(attributes["encoder"]["name"])


def _send(store: FeatureStore, record: CommitRecord, named: Named, *, layout: Layout, outbox: Outbox) -> Sent:
    try:
        parcel = load_parcel(store, record)
        if not len(parcel) and not layout.writes_empty:
            reason = str(record.facts.get("reason") or "") or "none of its tiles could be read"
            return Sent(record.slide_id, "empty", reason=reason, invalid_tiles=parcel.invalid_tiles)
        changed = outbox.put(layout.slide_files(parcel, named))
    except (CorruptDataError, ForeignFileError, OutputExistsError) as error:
        return Sent(record.slide_id, "failed", reason=str(error))
    except (OSError, MemoryError) as error:
        told = getattr(error, "strerror", None) or str(error)
        return Sent(record.slide_id, "failed", reason=f"{type(error).__name__}: {told}")
    except (LookupError, ValueError, TypeError) as error:
        return Sent(
            record.slide_id, "failed", reason=f"its data in the store make no sense ({type(error).__name__}: {error})"
        )
    status: Status = "written" if changed else "unchanged"
    return Sent(record.slide_id, status, "", named.name, len(parcel), parcel.invalid_tiles)
