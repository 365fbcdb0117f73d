"""From a store and model folders to one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.provenance import now
from pathotune_pipeline.reports.collect import SlideRow, StoreView, choose_set, collect
from pathotune_pipeline.reports.html import MANY_SLIDES, Heat, ModelPanel, render
from pathotune_pipeline.reports.models import ModelView, model_folders, read_model
from pathotune_pipeline.reports.pictures import Picture, heat_picture, overview_picture
from pathotune_pipeline.reports.predictions import Attention, pick_slides
from pathotune_pipeline.store.files import replace_file
from pathotune_pipeline.store.runs import read_runs
from pathotune_pipeline.store.store import FeatureStore, open_store

PAGE = "report.html"
PICTURE_PX, PICTURE_BYTES = 320, 12_000
SMALL_PICTURE_PX, SMALL_PICTURE_BYTES = 144, 4_000
"""Pictures of the slide table where it has over MANY_SLIDES rows."""
TINY_PICTURE_PX = 80
ALL_PICTURE_BYTES, LEAST_PICTURE_BYTES = 16_000_000, 1_000
"""Of all pictures of the slide table together, so that the page can be opened; where each would have less, it has none."""


def write_report(
    store: str | Path, out: str | Path, *, models: Sequence[str | Path] = (), features: str | None = None
) -> Path:
    """Write `<out>/report.html`: one page that loads nothing from anywhere.

    Args:
        store: the store's folder.
        out: folder for the page; made if it is new. An older page there is replaced whole.
        models: folders that `pathotune crossval` wrote; of several targets the folder above theirs will do.
        features: the feature set to show, in full or its beginning; None takes the only one, else the first model's,
            else the newest.

    Returns:
        Path of the page.

    Raises:
        UsageError: there is no store, no such feature set, no result in a model folder, or `out` cannot be written.
    """
    folder = writable(Path(out))
    opened = open_store(store)
    views = [read_model(folder) for model in models for folder in model_folders(Path(model))]
    chosen = choose_set(opened, read_runs(opened.runs), asked=features, of_models=[view.features for view in views])
    view = collect(opened, chosen)
    panels = [_panel(opened, view, model) for model in views]
    pictures = _pictures(opened, view)
    page = render(view, panels, pictures, made=now().replace("T", " ").replace("Z", " UTC"))
    try:
        replace_file(folder / PAGE, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder / PAGE


def writable(out: Path) -> Path:
    """A folder for pages, made if it is new.

    Raises:
        UsageError: it is a file, or cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"--out {out}: a folder is needed, a file was found. Give another place; {PAGE} is put into it."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from None
    return out


def cannot_write(out: Path, error: OSError) -> UsageError:
    """What is told where a page cannot be written."""
    told = error.strerror or type(error).__name__
    return UsageError(
        f"--out {out}: cannot write there ({told}). Give a folder on a disk that can be written and has room."
    )


def _pictures(store: FeatureStore, view: StoreView) -> dict[str, Picture]:
    many = len(view.slides) > MANY_SLIDES
    long_side, most = (SMALL_PICTURE_PX, SMALL_PICTURE_BYTES) if many else (PICTURE_PX, PICTURE_BYTES)
    room = ALL_PICTURE_BYTES // max(len(view.slides), 1)
    if room < most:
        long_side, most = TINY_PICTURE_PX, room
    if most < LEAST_PICTURE_BYTES:
        view.warnings.append(f"{len(view.slides)} slides are too many for pictures on one page; none is shown.")
        return {}
    made = ((row.slide_id, overview_picture(store, row, long_side=long_side, max_bytes=most)) for row in view.slides)
    return {slide_id: picture for slide_id, picture in made if picture is not None}


def _panel(store: FeatureStore, view: StoreView, model: ModelView) -> ModelPanel:
    panel = ModelPanel(model)
    if model.features != view.features:
        shown = view.features or "none"
        model.warnings.append(
            f"Trained on features {model.features or 'of no name'}; this page shows {shown} of this store. "
            "Its scores stand; its attention is not drawn."
        )
        return panel
    rows = {row.slide_id: row for row in view.slides}
    _case_ids(rows, model)
    with Attention(model.folder) as attention:
        seen = [
            prediction
            for slide_id, prediction in model.predictions.items()
            if slide_id in attention.slides and slide_id in rows and rows[slide_id].features is not None
        ]
        for why, prediction in pick_slides(seen, model.classes):
            values = attention.of(prediction.slide_id)
            if values is None:
                model.warnings.append(f"{prediction.slide_id}: its attention cannot be read.")
                continue
            try:
                panel.heats.append(Heat(why, prediction, heat_picture(store, rows[prediction.slide_id], values)))
            except CorruptDataError as error:
                model.warnings.append(str(error))
    return panel


def _case_ids(rows: dict[str, SlideRow], model: ModelView) -> None:
    """Cases that the store does not know and the label table told the model of."""
    for slide_id, prediction in model.predictions.items():
        if slide_id in rows and not rows[slide_id].case_id:
            rows[slide_id].case_id = prediction.case_id
