"""What a site's tables hold before an import."""

from __future__ import annotations

from pathlib import Path

from climb_model.data.exam import SPLITS
from climb_model.data.tables import read_table
from climb_model.intake.reports.site_tables import FOLDER


def known_splits(site_dir: Path) -> dict[str, str]:
    """Patient to split, as the site's tables have it."""
    folder = site_dir / FOLDER
    if not (folder / "split.csv").is_file() or not (folder / "annotation.csv").is_file():
        return {}
    name = site_dir.resolve().name
    patients = {
        row["UID"]: row["PatientID"]
        for row in read_table(folder / "annotation.csv", ("UID", "PatientID"), site=name).rows
    }
    splits = read_table(folder / "split.csv", ("UID", "Split"), site=name).rows
    found = {patients[row["UID"]]: row["Split"].casefold() for row in splits if row["UID"] in patients}
    return {patient: split for patient, split in found.items() if split in SPLITS}


def read_reports(site_dir: Path) -> dict[str, str]:
    """UID to text of reports.csv; empty without one."""
    path = site_dir / FOLDER / "reports.csv"
    if not path.is_file():
        return {}
    table = read_table(path, ("UID", "Report"), site=site_dir.resolve().name)
    return {row["UID"]: row["Report"] for row in table.rows}
