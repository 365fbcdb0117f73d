"""Forgetting a case: its slides are found, everything made of them goes, and the models that learnt from them are named."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.cache import content_key, segments_with
from pathotune_pipeline.bags.labels import CASE_COLUMNS
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.exchange.reviews import known_slides
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.models.card import CARD, SLIDES
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.store.forget import Forgetting, purge, records_of
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.store.trained import trained_models
from pathotune_pipeline.tuning.cases.folder import CARD as TUNED

CACHES, OUTPUTS, MODELS = "caches", "outputs", "models"
_TEXTS = (".html", ".json", ".jsonl", ".geojson", ".md", ".txt", ".svg")
_RESULTS = (CARD, "crossval.json", TUNED)
"""What marks the folder of a model, which is never touched."""


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """A model that was trained on what is to be forgotten.

    Attributes:
        name: of its folder, or the folder itself where it was looked for.
        fingerprint: of its card; empty of a cross-validation older than cards.
        slides: how many of the slides it has seen.
    """

    name: str
    fingerprint: str
    slides: int


def find_case(
    store: FeatureStore, case: str | None, slides: Sequence[str] = (), *, places: dict[str, list[str]] | None = None
) -> Forgetting:
    """The slides of a case, as the store's records and its models' records have it, and slides that are named.

    Args:
        store: an existing store.
        case: the patient, as in the manifest, or as its pseudonym.
        slides: ids of further slides: a slide that never got features has no case in the store.
        places: folders outside of the store that are to be cleared along: CACHES, OUTPUTS.

    Raises:
        UsageError: the store knows no such slide.
    """
    found = (
        {record.slide_id for record in records_of(store, lambda record: record.facts.get("case_id") == case)}
        if case
        else set()
    )
    found |= {slide for model in trained_models(store) for slide, of in model.slides.items() if case and of == case}
    known = known_slides(store) if slides else set()
    for slide in slides:
        if slide not in known | found:
            raise UsageError(f"--slide {slide}: the store knows no such slide.{nearest(slide, known)}")
    found |= set(slides)
    records = records_of(store, lambda record: record.slide_id in found)
    return Forgetting(
        {slide: key_of(slide) for slide in sorted(found)},
        case or "",
        sorted({str(record.facts["identity"]) for record in records if record.facts.get("identity")}),
        sorted(content_key(record) for record in records if record.set_name.stage == "features"),
        {name: [str(Path(each).absolute()) for each in folders] for name, folders in (places or {}).items()},
    )


def forget(store: FeatureStore, what: Forgetting) -> None:
    """Forget slides; what a process that died began goes on where it was.

    Args:
        store: on which nobody is at work.
        what: of `find_case`, or of `store.forget.unfinished`.

    Raises:
        StoreUnwritableError: the store is read-only or forbidden.
        UsageError: a folder outside of it cannot be written.
    """
    noted = what if what.note else what.write(store)
    purge(store, noted, outside=_clear_places)


def models_of(store: FeatureStore, what: Forgetting) -> list[TrainedOn]:
    """Models that were trained on the slides: of the store's record, and those in folders that are named."""
    seen = [(m.name, m.fingerprint, sum(slide in what.slides for slide in m.slides)) for m in trained_models(store)]
    found = [TrainedOn(*each) for each in seen if each[2]]
    for folder in map(Path, what.places.get(MODELS, [])):
        for table in sorted(folder.rglob(SLIDES)):
            count = sum(row.get("slide_id") in what.slides for row in read_table(table).rows)
            if count:
                found.append(TrainedOn(str(table.parent), "", count))
    return found


def outside(what: Forgetting) -> list[str]:
    """Files and folders outside of the store that are to go or to change."""
    return [str(path) for path in (*_segments(what), *_tables(what), *_files(what))]


def _clear_places(what: Forgetting) -> None:
    try:
        for segment in _segments(what):
            shutil.rmtree(segment)
        for path in _files(what):
            path.unlink()
            failpoint("forget.file")
        for path in _tables(what):
            write_atomically(path, _rows_without(path, what) or b"")
    except OSError as error:
        raise UsageError(
            f"{error.filename}: cannot be changed ({error.strerror}). Mend that, and run forget again."
        ) from None


def _segments(what: Forgetting) -> list[Path]:
    """Segments of training caches with one of the slides; they are made again from the store when they are needed."""
    wanted = frozenset(what.bags)
    return [segment for folder in what.places.get(CACHES, []) for segment in segments_with(Path(folder), wanted)]


def _outputs(what: Forgetting) -> Iterator[Path]:
    """Files of the folders with predictions, reports and maps; those in folders of models are left alone."""
    for folder in map(Path, what.places.get(OUTPUTS, [])):
        results = {path.parent for name in _RESULTS for path in folder.rglob(name)}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not results & {*path.parents}:
                yield path


def _tables(what: Forgetting) -> list[Path]:
    return [path for path in _outputs(what) if path.suffix == ".csv" and _rows_without(path, what) is not None]


def _rows_without(path: Path, what: Forgetting) -> bytes | None:
    """A table's bytes without the rows that name one of the slides, or the case; None where none does."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    of_case = [at for at, name in enumerate(rows[0] if rows else []) if name.lower() in CASE_COLUMNS]
    named = _naming(what)
    kept = [
        row
        for row in rows
        if not any(named.search(cell) for cell in row)
        and not (what.case and any(row[at] == what.case for at in of_case if at < len(row)))
    ]
    if len(kept) == len(rows):
        return None
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(kept)
    return text.getvalue().encode(errors="surrogateescape")


def _files(what: Forgetting) -> list[Path]:
    """Files that bear a slide's name, and pages that name one."""
    named, found = _naming(what), []
    for path in _outputs(what):
        text = path.read_text(encoding="utf-8", errors="replace") if path.suffix in _TEXTS else ""
        if named.match(path.name) or named.search(text):
            found.append(path)
    return found


def _naming(what: Forgetting) -> re.Pattern[str]:
    """Finds one of the slides in a text, and not another one whose name holds its name."""
    names = sorted({*what.slides, *what.slides.values()}, key=len, reverse=True)
    return re.compile(rf"(?<![\w%~-])(?:{'|'.join(map(re.escape, names)) or '(?!)'})(?![\w%~-])")
