"""Tables of slides: the project's own, the audit's, TRIDENT's and CLAM's.

Columns, all optional but one that says where the slide lies, in any order and case:

    path        relative to the archive's folder; also wsi, image_path, slide_path, filename, file, slide
    slide_id    the slide's name; without a path column it is looked up below the folder by id, path, file name or stem
    case_id     the patient; also patient_id, patient, case
    mpp         um/px, goes before the file's own
    stain organ scanner site block scan_date split, and any label: kept as the slide's context
    supersedes  ids of older scans, parted by ";": they are passed over
    keep        yes: stays although a newer scan is there; no: passed over
    include     no: passed over, or where `audit` says "refuse": counted as failed, with `audit_reason`;
                with mpp: as no, until the row's mpp is filled in
    process status   CLAM's: process 0 is passed over unless status says that CLAM has done it already
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pathotune_pipeline.archive.identity import decode_id, encode_id, slide_id_of
from pathotune_pipeline.archive.item import SlideItem, context_of
from pathotune_pipeline.archive.lookup import SlideLookup
from pathotune_pipeline.archive.rescans import Scan, scan_date, superseded, yes_or_no
from pathotune_pipeline.archive.series import series_in, series_of
from pathotune_pipeline.archive.table import Table, read_table
from pathotune_pipeline.errors import ManifestError

PATH_COLUMNS = ("path", "wsi", "image_path", "slide_path", "filename", "file", "slide")
ID_COLUMNS = ("slide_id", "sample_id")
CASE_COLUMNS = ("case_id", "patient_id", "patient", "case")
MPP_COLUMNS = ("mpp", "spacing_at_level_0")
WITH_MPP = "with mpp"
"""Of `include`: the slide is taken once its mpp is filled in."""
_CLAM_COLUMNS = frozenset(
    {
        "process", "status", "seg_level", "sthresh", "mthresh", "close", "use_otsu", "keep_ids", "exclude_ids", "a_t", "a_h",
        "max_n_holes", "vis_level", "line_thickness", "use_padding", "contour_fn", "white_thresh", "black_thresh", "vis",
    }
)  # fmt: skip
_CLAM_DONE = frozenset({"processed", "already_exist"})

Rescans = Literal["newest", "all"]
PassedOver = tuple[tuple[str, str], ...]


def read_listing(table: Path, root: Path, rescans: Rescans) -> tuple[tuple[SlideItem, ...], PassedOver]:
    """The slides of a table, and those that it leaves out with the reasons.

    Raises:
        ManifestError: see `read_manifest`.
    """
    return _Listing(read_table(table), root).read(rescans)


class _Listing:
    def __init__(self, table: Table, root: Path) -> None:
        self.table, self.root = table, root
        self.lookup = SlideLookup(root)
        self.path_column, self.id_column = table.first_of(PATH_COLUMNS), table.first_of(ID_COLUMNS)
        self.case_column, self.mpp_column = table.first_of(CASE_COLUMNS), table.first_of(MPP_COLUMNS)
        if self.path_column is None and self.id_column is None:
            raise ManifestError(
                f"{table.name}: no column says where the slides lie. Name one {PATH_COLUMNS[0]!r}. "
                f"Columns found: {', '.join(table.columns)}."
            )
        of_clam = {"process", "status"} <= {name.lower() for name in table.columns}
        named = {self.path_column, self.id_column, self.case_column, self.mpp_column} - {None}
        self.used = frozenset(
            {str(name).lower() for name in named} | {"include"} | (_CLAM_COLUMNS if of_clam else set())
        )
        self.of_clam = of_clam
        self.found = 0

    def read(self, rescans: Rescans) -> tuple[tuple[SlideItem, ...], PassedOver]:
        items: dict[str, SlideItem] = {}
        scans: list[Scan] = []
        passed_over: list[tuple[str, str]] = []
        for number, row in zip(self.table.lines, self.table.rows, strict=True):
            where = f"{self.table.name}: line {number}"
            path, slide_id = self._place(row, where, number)
            if slide_id in items:
                raise ManifestError(f"{where} names the slide {slide_id!r} a second time. Keep one.")
            case = row[self.case_column] if self.case_column else ""
            mpp = _number(row[self.mpp_column], where) if self.mpp_column else None
            left_out, refused = self._left_out(row, where)
            if left_out:
                passed_over.append((slide_id, left_out))
                continue
            items[slide_id] = SlideItem(slide_id, path, case or None, mpp, context_of(row, self.used), refused)
            scans.append(self._scan(row, items[slide_id], where, number))
        if not items and not passed_over:
            raise ManifestError(f"{self.table.name}: it has a header and no slide. Add one line a slide.")
        if self.path_column is None and not self.found:
            raise ManifestError(
                f"{self.table.name}: none of its {len(self.table.rows)} slides lies below the folder of slides. Check "
                f"--slides, or add a {PATH_COLUMNS[0]!r} column."
            )
        if rescans == "newest":
            dropped, absent = superseded(scans, self.table.name)
            passed_over += [*dropped.items(), *absent]
            items = {slide_id: item for slide_id, item in items.items() if slide_id not in dropped}
        if not items:
            raise ManifestError(
                f"{self.table.name}: every slide is left out; the first, {passed_over[0][0]}: {passed_over[0][1]}."
            )
        return tuple(items.values()), tuple(passed_over)

    def _place(self, row: dict[str, str], where: str, number: int) -> tuple[Path, str]:
        own_id = row[self.id_column] if self.id_column else ""
        if self.path_column is None:
            if not own_id:
                raise ManifestError(f"{where} has no {self.id_column}. Fill it or delete the line.")
            found = self.lookup.find(own_id, where)
            self.found += found is not None
            # One that is not there fails alone, when it is opened.
            return found or self.root / own_id, _own(own_id)
        if not row[self.path_column]:
            raise ManifestError(f"{where} has no {self.path_column}. Fill it or delete the line.")
        path, name = _located(row[self.path_column], self.root)
        return path, _own(own_id) if own_id else name

    def _left_out(self, row: dict[str, str], where: str) -> tuple[str, str | None]:
        """Why the row is passed over, or "", and why the audit refused it, or None."""
        small = {name.lower(): value for name, value in row.items()}
        include = small.get("include", "")
        if include.strip().lower() == WITH_MPP:
            include = "yes" if any(small.get(name) for name in MPP_COLUMNS) else "no"
        if yes_or_no(include, f"{where}: include") is False:
            if small.get("audit", "").lower() == "refuse":
                return "", small.get("audit_reason") or "no reason is given"
            return "left out by the manifest's include column", None
        if self.of_clam and yes_or_no(small["process"], f"{where}: process") is False:
            status = small["status"].lower()
            return ("" if status in _CLAM_DONE else f"process is 0 in the list, its status {status or 'empty'}"), None
        return "", None

    def _scan(self, row: dict[str, str], item: SlideItem, where: str, number: int) -> Scan:
        small = {name.lower(): value for name, value in row.items()}
        group = (item.case_id or "", small.get("block", ""), small.get("stain", "").lower())
        return Scan(
            item.slide_id,
            group=group if all(group) else None,
            scan_date=scan_date(small.get("scan_date", ""), where),
            supersedes=tuple(name.strip() for name in small.get("supersedes", "").split(";") if name.strip()),
            keep=yes_or_no(small.get("keep", ""), f"{where}: keep"),
            line=number,
            refused=item.refused is not None,
        )


def _located(cell: str, root: Path) -> tuple[Path, str]:
    """The slide's file, and the id that its place gives it. A DICOM series may be named by its folder or VOLUME."""
    path = root / cell
    if not path.exists():
        path = root / cell.replace("\\", "/")
    if path.is_dir():
        inside = series_in([file for file in path.glob("*.[dD][cC][mM]") if file.is_file()])
        return (inside[0].volume if len(inside) == 1 else path), slide_id_of(path, root)
    series = series_of(path) if path.is_file() else None
    if series is None or series.volume != path:
        return path, slide_id_of(path, root)
    folder = slide_id_of(path.parent / series.name, root) if series.name or path.parent != root else ""
    return path, folder or slide_id_of(path, root)


def _own(cell: str) -> str:
    """The id that a table gives: as it is where it is one already, such as one copied from a report."""
    return cell if encode_id(decode_id(cell)) == cell else encode_id(cell)


def _number(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        raise ManifestError(f"{where}: mpp {text!r} is no number. Give um per pixel, such as 0.25.") from None
    if not 0 < value < float("inf"):
        raise ManifestError(f"{where}: mpp {text!r} is not above 0. Give um per pixel, such as 0.25.")
    return value
