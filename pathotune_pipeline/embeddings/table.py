"""A set of slide embeddings as a table: one row a slide, as Parquet or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import MissingExtraError, UsageError
from pathotune_pipeline.features.reviewed import rejected_among
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore

SUFFIXES = (".parquet", ".csv")


def check_table(path: Path, *, overwrite: bool = False) -> None:
    """Make sure that a table can be written there, before any work.

    Raises:
        UsageError: another suffix, a folder, or a file that may not be replaced.
        MissingExtraError: it is to be Parquet, and pyarrow is absent.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out {path}: a table of embeddings ends in {' or '.join(SUFFIXES)}.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"--out {path}: something is there already. Give another name, or --overwrite.")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet", "Writing a Parquet table") from None


def write_embeddings(path: Path, store: FeatureStore, embeddings_set: SetName, *, overwrite: bool = False) -> int:
    """Write slide_id, case_id (empty where not known), tiles, and a vector's numbers e0, e1, ... as float32.

    Slides that reviewers rejected are left out.

    Args:
        path: ends in .parquet or .csv; written whole or not at all, its folder made.
        store: with the set.
        embeddings_set: which.
        overwrite: replace what is there.

    Returns:
        How many slides it has.

    Raises:
        UsageError: another suffix, something is there already, or it cannot be written.
        MissingExtraError: it is to be Parquet, and pyarrow is absent.
        CorruptDataError: what was committed cannot be read.
    """
    check_table(path, overwrite=overwrite)
    records, vectors = store.records(embeddings_set), store.embeddings(embeddings_set)
    rejected = rejected_among(store, records)
    records = {slide: record for slide, record in records.items() if slide not in rejected}
    width = max((len(vector) for vector in vectors.values()), default=0)
    about = [
        (slide, str(record.facts.get("case_id") or ""), int(record.facts["tiles"])) for slide, record in records.items()
    ]
    names = ["slide_id", "case_id", "tiles", *(f"e{i}" for i in range(width))]
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        # The shortest text that reads back as the same float32.
        writer.writerows([*row, *(str(number) for number in vectors[row[0]])] for row in about)
        data = text.getvalue().encode()
    else:
        data = _parquet(names, about, [vectors[row[0]] for row in about], str(embeddings_set))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise UsageError(f"--out {path}: cannot write there ({error.strerror or error}).") from None
    return len(about)


def _parquet(
    names: Sequence[str], about: Sequence[tuple[str, str, int]], vectors: Sequence[np.ndarray], set_name: str
) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    columns = [
        pa.array([row[i] for row in about], kind) for i, kind in enumerate((pa.string(), pa.string(), pa.int64()))
    ]
    columns += [pa.array(column) for column in (np.stack(vectors).T if vectors else ())]
    table = pa.Table.from_arrays(columns, list(names)).replace_schema_metadata({"embeddings_set": set_name})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()
