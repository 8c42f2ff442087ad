"""The public ODELIA challenge data: a row a breast, images and affines in the cells of parquet files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from climb_model.atomic import write_text_atomic
from climb_model.data.exam import SPLITS
from climb_model.data.made_reports import MADE, is_made, made_report
from climb_model.data.tables import folded, whole_number
from climb_model.intake.drafts import draft_of, show, tidy
from climb_model.intake.forgotten import REASON, SITE_LOCK, is_forgotten
from climb_model.intake.import_report import ImportResult, write_report
from climb_model.intake.parquet.made_marker import write_marker
from climb_model.intake.parquet.rows import (
    AFFINE,
    IMAGE,
    Row,
    find_files,
    heavy_cells,
    light_rows,
    of_institution,
)
from climb_model.intake.parquet.source import claim, row_digest
from climb_model.intake.parquet.volumes import write_volume
from climb_model.intake.pseudonym import site_key
from climb_model.intake.reports.site_tables import ExamRow, assign_split, write_tables
from climb_model.intake.sequences.native import PROVENANCE, read_provenance
from climb_model.intake.site_records import read_reports
from climb_model.intake.study import LeftOut, SeriesError
from climb_model.lock import only_process
from climb_model.made_by import made_by

UNILATERAL = "data_unilateral"

CHANGED = "the exam is there already, made of another image; --replace imports it anew"

Progress = Callable[[int, int], None]
"""Called with how many rows are done, and of how many."""

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}_(left|right)")
_SEQUENCES = re.compile(r"Pre|Post_[0-9]{1,3}|Sub|Sub_[0-9]{1,3}|T2")


def import_parquet(
    source: Path,
    site_dir: Path,
    *,
    make_reports: bool,
    institution: str = "",
    replace: bool = False,
    on_exam: Progress | None = None,
) -> ImportResult:
    """Write one institution's rows as `data_unilateral/<UID>/` and tables into a site's folder.

    The columns are UID, Institution, PatientID, Age, Split, Fold, Lesion, and `Image_<sequence>` with
    `Affine_<sequence>`. The index axes of an image are the columns of its affine, in this order. UIDs and
    patients are public pseudonyms and stay as they are. Rows are read one at a time: a file may be larger
    than the memory. Of a breast that an earlier import finished one image is read, to see whether it is
    still the same; if it is not, volumes and table rows stay as they are and the breast is listed.

    Args:
        source: folder of parquet files.
        site_dir: the site's folder, made if missing.
        make_reports: give each breast with a class the German text of `made_reports`, marked as made in
            `metadata_unilateral/reports-made.json`. A text that is there and was not made stays.
        institution: name in the column Institution; needed where there are several.
        replace: whether breasts that are there are made again.

    Raises:
        DataError: folders that cannot be used, no pyarrow, no file, a file or column that cannot be used,
            several institutions, or another one than the site's folder holds.
        LockedError: if another process works in the folder.
    """
    from climb_model.intake.importer import check_folders

    check_folders(source, site_dir)
    paths, outside = find_files(source)
    rows = of_institution(light_rows(paths), institution)
    (site_dir / SITE_LOCK).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_process(site_dir / SITE_LOCK, what="works in this site's folder"):
        claim(site_dir, rows[0].cells["Institution"])
        tidy(site_dir / UNILATERAL)
        wanted, left_out = _usable(rows, site_dir)
        done, changed = (set[str](), []) if replace else _present(wanted, site_dir)
        others = {entry.study for entry in changed}
        jobs = [row for row in wanted if row.uid not in done | others]
        made, faults = _write_exams(jobs, site_dir, on_exam)
        there = [row for row in wanted if row.uid in done | made]
        told, unclear = _table_rows(there, site_dir, make_reports=make_reports)
        written = write_tables(site_dir, told)
        num_made = write_marker(site_dir)
        entries = (*outside, *left_out, *changed, *faults, *unclear, *written.left_out)
        write_report(site_dir, entries)
    reports = read_reports(site_dir)
    num_there = sum((site_dir / UNILATERAL / row.uid).is_dir() for row in wanted)
    notices = (f"{num_made} reports are made from Lesion; nobody wrote them",) if num_made else ()
    return ImportResult(
        num_imported=len(made),
        num_present=num_there - len(made),
        num_left_out=len(rows) - num_there,
        num_breasts=len(there),
        num_reports=sum(bool(reports.get(row.uid)) for row in there),
        redacted={},
        entries=entries,
        notices=(*notices, *written.notices),
    )


def _usable(rows: Sequence[Row], site_dir: Path) -> tuple[list[Row], list[LeftOut]]:
    times = Counter(row.uid for row in rows)
    wanted: list[Row] = []
    left_out: list[LeftOut] = []
    for row in rows:
        if not _UID.fullmatch(row.uid):
            left_out.append(
                LeftOut(what="exam", reason="a UID that is no <ID>_left or <ID>_right", num_files=0)
            )
        elif times[row.uid] > 1:
            left_out.append(LeftOut(what="exam", reason="a UID in several rows", study=row.uid, num_files=0))
        elif folded(row.cells["Split"]) not in ("", *SPLITS):
            reason = "a Split that is not train, val or test"
            left_out.append(LeftOut(what="exam", reason=reason, study=row.uid, num_files=0))
        elif is_forgotten(site_dir, row.uid):
            left_out.append(LeftOut(what="exam", reason=REASON, study=row.uid, num_files=0))
        else:
            wanted.append(row)
    return wanted, left_out


def _present(rows: Sequence[Row], site_dir: Path) -> tuple[set[str], list[LeftOut]]:
    """UIDs that an earlier import made of the same image, and those that it made of another."""
    earlier = {
        row.uid: provenance
        for row in rows
        if (provenance := read_provenance(site_dir / UNILATERAL / row.uid)) is not None
    }
    done: set[str] = set()
    changed: list[LeftOut] = []
    for row, cells in heavy_cells([row for row in rows if row.uid in earlier], one_image=True):
        if earlier[row.uid].get("source") == row_digest(cells):
            done.add(row.uid)
        else:
            changed.append(LeftOut(what="exam", reason=CHANGED, study=row.uid, num_files=0))
    return done, changed


def _write_exams(
    rows: Sequence[Row], site_dir: Path, on_exam: Progress | None
) -> tuple[set[str], list[LeftOut]]:
    """Write the images of some rows; their UIDs, and what could not be written."""
    made: set[str] = set()
    faults: list[LeftOut] = []
    for done, (row, cells) in enumerate(heavy_cells(rows), start=1):
        try:
            _write_exam(cells, site_dir / UNILATERAL / row.uid)
            made.add(row.uid)
        except SeriesError as error:
            faults.append(LeftOut(what="exam", reason=str(error), study=row.uid))
        if on_exam is not None:
            on_exam(done, len(rows))
    return made, faults


def _write_exam(cells: Mapping[str, Any], folder: Path) -> None:
    """All sequences of a breast, shown when they are whole.

    Raises:
        SeriesError: an image that cannot be used, or none.
    """
    with draft_of(folder) as draft:
        files: dict[str, Any] = {}
        for column, cell in cells.items():
            sequence = _sequence(column)
            if sequence and cell.is_valid:
                try:
                    affine = cells.get(f"{AFFINE}{folded(sequence)}")
                    path = draft / f"{sequence}.nii.gz"
                    files[sequence] = write_volume(cell, affine, path)
                except SeriesError as error:
                    raise SeriesError(f"{sequence}: {error}") from None
        if not files:
            raise SeriesError("no image in its row")
        record = {
            "program": made_by()["version"],
            "source_format": "ODELIA parquet",
            "source": row_digest(cells),
            "files": files,
        }
        write_text_atomic(draft / PROVENANCE, json.dumps(record, indent=1, sort_keys=True) + "\n")
        show(draft, folder)


def _sequence(column: str) -> str:
    """`Post_1` of `image_post_1`; empty for what is no sequence of ours."""
    name = column.removeprefix(IMAGE)
    name = name.upper() if name == "t2" else name.capitalize()
    return name if column.startswith(IMAGE) and _SEQUENCES.fullmatch(name) else ""


def _table_rows(
    rows: Sequence[Row], site_dir: Path, *, make_reports: bool
) -> tuple[list[ExamRow], list[LeftOut]]:
    """What the tables say of each breast, and what of it is no number."""
    present = read_reports(site_dir)
    told: list[ExamRow] = []
    unclear: list[LeftOut] = []
    for row in rows:
        numbers: dict[str, int | None] = {}
        for name in ("Age", "Lesion", "Fold"):
            try:
                numbers[name] = whole_number(row.cells[name])
            except ValueError:
                numbers[name] = None
                unclear.append(LeftOut(what="notice", reason=f"{name} is no whole number", study=row.uid))
        lesion = numbers["Lesion"]
        if lesion is not None and lesion not in MADE:
            unclear.append(LeftOut(what="notice", reason="Lesion is not 0, 1 or 2", study=row.uid))
            lesion = None
        written = present.get(row.uid, "")
        report = made_report(lesion) if make_reports and lesion is not None else ""
        patient = row.cells["PatientID"] or row.uid.rpartition("_")[0]
        split = folded(row.cells["Split"]) or assign_split(patient, site_key(site_dir))[0]
        told.append(
            ExamRow(
                uid=row.uid,
                patient=patient,
                age_days=numbers["Age"],
                lesion=lesion,
                split=split,
                fold=numbers["Fold"] or 0,
                report="" if written and not is_made(written) else report,
            )
        )
    return told, unclear
