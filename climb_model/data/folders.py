"""Readers of the folder layouts that sites have: ODELIA (one breast per folder) and UKA/CLIMB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from climb_model.data.exam import DataError, ExamRecord, SiteData
from climb_model.data.tables import (
    Row,
    by_uid,
    check_patients,
    folded,
    read_findings,
    read_table,
    site_fault,
    split_rows,
    whole_number,
)

NO_FOLDER = "no folder below data_unilateral"
NO_ROW = "no row in the split table"
NO_PATIENT = "no patient in the tables"
NO_SIDE = "UID does not end in _left or _right"
NO_SEQUENCE = "no sequence file"
NO_REPORT = "no report"
NO_FINDINGS = "no row in the findings table"
BAD_NUMBER = "Fold, Age or Lesion is not a whole number"
"""Reasons of `SiteData.left_out`. They name no exam, so their counts may be told to the server."""

UKA_KEYS = ("AnforderungsNr", "UntersuchungsNr")
"""Columns of `mrt-befund.csv` whose numbers, the second in two digits, name the exam."""

UKA_SIDES = {"left": "Linke Mamma", "right": "Rechte Mamma"}
"""Its columns of report text."""


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """What a layout's tables say, under one set of names. None: was not asked for, was not read."""

    splits: dict[str, Row]
    patients: dict[str, str]
    annotations: dict[str, Row]
    reports: dict[str, str] | None
    findings: dict[str, dict[str, int | None]] | None


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    reports: bool
    findings: tuple[str, ...] | None
    sequences: tuple[str, ...]
    fold: int


def list_sites(root: Path) -> dict[str, Path]:
    """Sites below a data root: folders with `data_unilateral/`, sorted by name; or the root itself.

    Raises:
        DataError: no such folder, or no site in it.
    """
    if not root.is_dir():
        raise DataError(f"data folder is missing ({root})", public="data folder is missing")
    if (root / "data_unilateral").is_dir():
        return {root.resolve().name: root}
    sites = {path.name: path for path in sorted(root.iterdir()) if (path / "data_unilateral").is_dir()}
    if not sites:
        fact = "no site: neither the data folder nor a folder in it holds data_unilateral/"
        raise DataError(f"{fact} ({root})", public=fact)
    return sites


def read_site(
    root: Path,
    name: str | None = None,
    *,
    need_reports: bool,
    need_findings: bool,
    sequences: Sequence[str],
    findings: Sequence[str],
    fold: int = 0,
) -> SiteData:
    """All usable exams of one site; no pixel is read.

    Reports and findings are opened only where needed: without need, those files may lack or hold anything.
    A patient of the ODELIA layout is its PatientID; of the UKA layout the AnforderungsNr in the UID,
    unless the split table has a PatientID.

    Args:
        root: the site's folder, or a folder with one folder per site.
        name: the site's name; picks the folder below `root` where `root` is not a site itself.
        need_reports: leave out exams without a report.
        need_findings: read the findings; leave out exams without a row.
        sequences: sequences of which an exam must have at least one.
        findings: findings that must have a column where needed.
        fold: which fold counts where the split table lists every UID once per fold, as ODELIA's do.

    Raises:
        DataError: a fault of the whole site. A fault of one exam only puts it into `left_out`.
    """
    folder = _site_folder(root, name)
    site = folder.resolve().name if name is None else name
    wanted = _Wanted(
        reports=need_reports,
        findings=tuple(findings) if need_findings else None,
        sequences=tuple(sequences),
        fold=fold,
    )
    odelia = (folder / "metadata_unilateral").is_dir()
    uka = (folder / "metadata" / "split_regex.csv").is_file()
    if not (folder / "data_unilateral").is_dir():
        raise site_fault(site, "folder data_unilateral/ is missing", path=folder)
    if odelia and uka:
        fact = "two layouts at once: metadata_unilateral/ (ODELIA) and metadata/split_regex.csv (UKA)"
        raise site_fault(site, fact, path=folder)
    if not odelia and not uka:
        fact = "unknown layout: neither metadata_unilateral/ (ODELIA) nor metadata/split_regex.csv (UKA)"
        raise site_fault(site, fact, path=folder)
    tables = _odelia_tables(folder, site, wanted) if odelia else _uka_tables(folder, site, wanted)
    check_patients({uid: row["Split"] for uid, row in tables.splits.items()}, tables.patients, site=site)
    return _assemble(folder, site, tables, wanted)


def has_findings(root: Path, findings: Sequence[str], name: str | None = None) -> bool:
    """Whether a site's tables hold findings: `findings.csv`, or in the UKA layout any column of them.

    True too for a folder of no known layout: what is wrong there is for `read_site` to say.

    Raises:
        DataError: as `read_site`, on the folder and on the UKA split table.
    """
    folder = _site_folder(root, name)
    if (folder / "metadata_unilateral").is_dir():
        return (folder / "metadata_unilateral" / "findings.csv").is_file()
    path = folder / "metadata" / "split_regex.csv"
    if not path.is_file():
        return True
    table = read_table(path, ("UID",), findings, site=name or folder.resolve().name)
    return any(row[finding] for row in table.rows for finding in findings)


def require_split(site: SiteData, split: str) -> tuple[ExamRecord, ...]:
    """The exams of a split that must have some, in the order of their UIDs.

    Raises:
        DataError: the split is empty; says what was left out of the site.
    """
    exams = site.of_split(split)
    if not exams:
        others = ", ".join(f"{count} x {reason}" for reason, count in left_out_counts(site).items())
        raise site_fault(site.name, f"no exam in split '{split}'; left out: {others or 'none'}")
    return exams


def left_out_counts(site: SiteData) -> dict[str, int]:
    """Reason to number of exams left out, most frequent first. Names no exam."""
    return dict(Counter(site.left_out.values()).most_common())


def _site_folder(root: Path, name: str | None) -> Path:
    if not root.is_dir():
        fact = "data folder is missing" if name is None else f"site '{name}': data folder is missing"
        raise DataError(f"{fact} ({root})", public=fact)
    parts = ("data_unilateral", "metadata_unilateral", "metadata/split_regex.csv")
    if any((root / part).exists() for part in parts):
        return root
    if name is not None:
        if not (root / name).is_dir():
            there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "none"
            raise site_fault(name, "folder is missing", detail=f"; there are: {there}", path=root)
        return root / name
    sites = list_sites(root)
    if len(sites) > 1:
        raise DataError(
            f"data folder holds {len(sites)} sites ({', '.join(sites)}): name one ({root})",
            public=f"data folder holds {len(sites)} sites: name one",
        )
    return next(iter(sites.values()))


def _odelia_tables(folder: Path, site: str, wanted: _Wanted) -> _Tables:
    metadata = folder / "metadata_unilateral"
    splits = read_table(metadata / "split.csv", ("UID", "Split"), ("Fold",), site=site)
    annotation = read_table(metadata / "annotation.csv", ("UID", "PatientID"), ("Age", "Lesion"), site=site)
    annotations = by_uid(annotation)
    reports = findings = None
    if wanted.reports:
        table = read_table(metadata / "reports.csv", ("UID", "Report"), site=site)
        reports = {uid: row["Report"] for uid, row in by_uid(table).items()}
    if wanted.findings is not None:
        table = read_table(metadata / "findings.csv", ("UID", *wanted.findings), site=site)
        findings = read_findings(table, wanted.findings)
    return _Tables(
        splits=split_rows(splits, wanted.fold),
        patients={uid: row["PatientID"] for uid, row in annotations.items() if row["PatientID"]},
        annotations=annotations,
        reports=reports,
        findings=findings,
    )


def _uka_tables(folder: Path, site: str, wanted: _Wanted) -> _Tables:
    metadata = folder / "metadata"
    columns = ("UID", "Split", *(wanted.findings or ()))
    table = read_table(metadata / "split_regex.csv", columns, ("Fold", "PatientID"), site=site)
    splits = split_rows(table, wanted.fold)
    findings = None
    if wanted.findings is not None:
        findings = read_findings(replace(table, rows=tuple(splits.values())), wanted.findings)
    return _Tables(
        splits=splits,
        patients={uid: row["PatientID"] or request_of(uid) for uid, row in splits.items()},
        annotations={},
        reports=_uka_reports(metadata / "mrt-befund.csv", site) if wanted.reports else None,
        findings=findings,
    )


def _uka_reports(path: Path, site: str) -> dict[str, str]:
    keys = UKA_KEYS
    table = read_table(path, (*keys, *UKA_SIDES.values()), site=site)
    complete = [row for row in table.rows if all(row[key] for key in keys)]
    if len(complete) < len(table.rows):
        count = len(table.rows) - len(complete)
        raise site_fault(site, f"{path.name}: rows without {' or '.join(keys)}: {count}", path=path)
    rows = [row | {"UID": row[keys[0]] + row[keys[1]].zfill(2)} for row in complete]
    studies = by_uid(replace(table, rows=tuple(rows)))
    return {
        f"{uid}_{side}": row[column] for uid, row in studies.items() for side, column in UKA_SIDES.items()
    }


def request_of(uid: str) -> str:
    """AnforderungsNr of a UKA UID: what stands before the two digits of the UntersuchungsNr."""
    return uid.removesuffix("_left").removesuffix("_right")[:-2] or uid


def _assemble(folder: Path, site: str, tables: _Tables, wanted: _Wanted) -> SiteData:
    folders = {
        path.name: path
        for path in (folder / "data_unilateral").iterdir()
        if path.is_dir() and not path.name.startswith(".")
    }
    exams: list[ExamRecord] = []
    left_out: dict[str, str] = {}
    for uid in sorted({*folders, *tables.splits, *tables.annotations}):
        exam = _exam(uid, folders.get(uid), tables, wanted)
        if isinstance(exam, str):
            left_out[uid] = exam
        else:
            exams.append(exam)
    return SiteData(name=site, exams=tuple(exams), left_out=left_out)


def _exam(uid: str, folder: Path | None, tables: _Tables, wanted: _Wanted) -> ExamRecord | str:
    """The exam, or the reason why it is left out."""
    split, annotation = tables.splits.get(uid), tables.annotations.get(uid, {})
    if split is None:
        return NO_ROW
    if folder is None:
        return NO_FOLDER
    if not uid.endswith(("_left", "_right")):
        return NO_SIDE
    if uid not in tables.patients:
        return NO_PATIENT
    files = sequence_files(folder, wanted.sequences)
    if not any(sequence in files for sequence in wanted.sequences):
        return NO_SEQUENCE
    report = None if tables.reports is None else tables.reports.get(uid, "")
    if report == "":
        return NO_REPORT
    if tables.findings is not None and uid not in tables.findings:
        return NO_FINDINGS
    try:
        fold, age, lesion = (
            whole_number(cell)
            for cell in (split["Fold"], annotation.get("Age", ""), annotation.get("Lesion", ""))
        )
    except (ValueError, OverflowError):
        return BAD_NUMBER
    return ExamRecord(
        uid=uid,
        patient=tables.patients[uid],
        split=split["Split"],
        files=files,
        report=report,
        findings={} if tables.findings is None else tables.findings[uid],
        fold=fold,
        age_days=age,
        lesion=lesion,
    )


def sequence_files(folder: Path, sequences: Sequence[str]) -> dict[str, Path]:
    """Sequence name to file. `Sub_1` is `Sub` under another script's name; of both, the one asked for."""
    spelling = {folded(name): name for name in ("Pre", "Sub", "T2", *sequences)}
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        if path.name.startswith(".") or path.name not in (f"{stem}.nii.gz", f"{stem}.nii"):
            continue
        files.setdefault(spelling.get(folded(stem), stem), path)
    wanted, other = ("Sub_1", "Sub") if "Sub_1" in sequences else ("Sub", "Sub_1")
    if other in files:
        path = files.pop(other)
        files.setdefault(wanted, path)
    return files
