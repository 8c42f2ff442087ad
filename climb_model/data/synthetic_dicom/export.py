"""Virtual hospitals as their archives would export them: `climb-sim make-dicom`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from climb_model.data.exam import DataError, ExamRecord
from climb_model.data.folders import list_sites, read_site
from climb_model.data.synthetic_dicom.encode import file_bytes, make_uid
from climb_model.data.synthetic_dicom.habits import Habit, habits_of
from climb_model.data.synthetic_dicom.persons import draw_person
from climb_model.data.synthetic_dicom.study import Kind, StudyPlan, write_study
from climb_model.data.synthetic_dicom.tables import write_tables

TRUTH = "truth.json"
"""What was exported and what is to become of it; for tests, never for an import."""

EXTRA: tuple[Kind, ...] = ("prior", "missing slice", "truncated file", "no post", "other modality")
"""Studies of a hospital beside those of the drawn exams: one of each kind, two from 100 patients on."""

_PATIENTS_PER_EXTRA = 50
_DAYS_BEFORE = {"prior": 402, "missing slice": 7, "truncated file": 14, "no post": 21, "other modality": 90}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `make-dicom` wrote, in numbers."""

    num_hospitals: int
    num_studies: int
    num_files: int
    """DICOM files of studies."""

    num_left_out: int
    """Patients with one breast only, who are not exported."""


@dataclass(frozen=True)
class _Patient:
    number: str
    """As drawn, not as exported."""

    breasts: dict[str, ExamRecord]


def make_dicom(data: Path, out: Path, *, seed: int = 0, workers: int = 2) -> Exported:
    """Export the hospitals that `make-data` drew as trees of DICOM files with report tables.

    Each hospital `OUT/NAME/` holds `dicom/`, `reports.csv` or `reports.xlsx`, and `mapping.yaml`;
    `OUT/truth.json` says what is in them. The same data and seed give the same bytes.

    Raises:
        DataError: `out` is not empty, `data` holds no hospital, or one that cannot be read.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"make-dicom: {out} is not empty; name a new folder", "the folder is not empty")
    sites = list_sites(data)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    habits = habits_of(list(sites))
    plans: dict[str, list[StudyPlan]] = {}
    num_left_out = 0
    for place, (name, folder) in enumerate(sites.items()):
        whole, odd = _patients(folder)
        num_left_out += odd
        plans[name] = list(_studies(partial / name, whole, habits[name], (seed, 11, place)))
    jobs = [plan for name in plans for plan in plans[name]]
    written = iter(_write_all(jobs, workers))
    hospitals: dict[str, object] = {}
    num_files = 0
    for place, name in enumerate(plans):
        rng = np.random.default_rng([seed, 12, place])
        entries = [next(written) for _ in plans[name]]
        num_files += sum(int(str(entry["num_files"])) for entry in entries)
        write_tables(partial / name, plans[name], habits[name], rng)
        _litter(partial / name / "dicom", plans[name], rng)
        hospitals[name] = {"studies": entries}
    truth = {"kind": "synthetic: no patient", "seed": seed, "hospitals": hospitals}
    (partial / TRUTH).write_text(json.dumps(truth, indent=1, ensure_ascii=False), encoding="utf-8")
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return Exported(
        num_hospitals=len(plans), num_studies=len(jobs), num_files=num_files, num_left_out=num_left_out
    )


def _write_all(jobs: Sequence[StudyPlan], workers: int) -> list[dict[str, object]]:
    if workers == 1:
        return [write_study(job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(write_study, jobs, chunksize=4))


def _patients(folder: Path) -> tuple[list[_Patient], int]:
    """Patients with both breasts, and how many have only one."""
    site = read_site(
        folder, need_reports=True, need_findings=False, sequences=("Pre", "Sub", "T2"), findings=()
    )
    found: dict[str, dict[str, ExamRecord]] = {}
    for exam in site.exams:
        found.setdefault(exam.patient, {})[exam.uid.rpartition("_")[2]] = exam
    whole = [_Patient(number, breasts) for number, breasts in sorted(found.items()) if len(breasts) == 2]
    return whole, len(found) - len(whole)


def _studies(
    folder: Path, patients: Sequence[_Patient], habit: Habit, seed: tuple[int, int, int]
) -> Iterator[StudyPlan]:
    """The studies of one hospital: each patient's, and some that an import must refuse or tell apart."""
    rng = np.random.default_rng(seed)
    num_extra = len(EXTRA) * max(1, len(patients) // _PATIENTS_PER_EXTRA)
    total = len(patients) + num_extra
    accessions = rng.choice(9_000_000, total, replace=False)
    folders = rng.choice(900_000, total, replace=False)
    numbers = rng.choice(9_000_000, len(patients), replace=False)
    drawn: list[tuple[Kind, int]] = [("drawn", place) for place in range(len(patients))]
    others = np.resize(rng.permutation(len(patients)), num_extra)
    extra: list[tuple[Kind, int]] = [
        (EXTRA[number % len(EXTRA)], int(place)) for number, place in enumerate(others)
    ]
    days = rng.integers(0, 1500, len(patients))
    minutes = rng.integers(8 * 60, 17 * 60, len(patients))
    for number, (kind, place) in enumerate([*drawn, *extra]):
        patient = patients[place]
        age = patient.breasts["left"].age_days or 20_000
        day = datetime(2019, 1, 7) + timedelta(days=int(days[place]), minutes=int(minutes[place]))
        person = draw_person(np.random.default_rng([*seed, place]), int(numbers[place]), day.date(), age)
        before = _DAYS_BEFORE.get(kind, 0)
        when = day - timedelta(days=before)
        unnumbered = kind == "prior" or (habit.joined_by == "patient" and kind == "drawn" and place == 0)
        yield StudyPlan(
            folder=folder,
            place=f"{when:%Y/%m/%d}/{folders[number]:06d}"
            if habit.folders == "dates"
            else f"{folders[number]:06d}",
            habit=habit,
            kind=kind,
            person=person,
            breasts=patient.breasts,
            accession="" if unnumbered else f"00{accessions[number]:07d}",
            uid=make_uid(*seed, "study", number),
            when=when,
            age_days=age - before,
            report=kind == "drawn",
            mess=tuple(
                what
                for what, share in (("name in a description", 0.2), ("duplicate files", 0.3))
                if rng.random() < share
            ),
            seed=(*seed, 1, number),
        )


def _litter(root: Path, studies: Sequence[StudyPlan], rng: np.random.Generator) -> None:
    """What else lies in an exported tree: an index, notes, a thumbnail cache, the start of a file."""
    people = sorted({(study.person.surname, study.person.given, study.person.number) for study in studies})
    index = Dataset()
    index.SpecificCharacterSet, index.FileSetID = "ISO_IR 192", "EXPORT"
    index.SOPClassUID, index.SOPInstanceUID = MediaStorageDirectoryStorage, make_uid(str(root.parent.name))
    records: list[Dataset] = []
    for surname, given, number in people:
        record = Dataset()
        record.DirectoryRecordType, record.PatientID = "PATIENT", number
        record.PatientName = f"{surname}^{given}"
        records.append(record)
    index.DirectoryRecordSequence = records
    whole = file_bytes(index)
    (root / "DICOMDIR").write_bytes(whole)
    note = "\n".join(f"{surname}, {given}: {number}" for surname, given, number in people)
    (root / "README.txt").write_text(f"Export auf Anforderung\n{note}\n", encoding="utf-8")
    (root / "Thumbs.db").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + rng.bytes(900))
    some = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size > 4000)
    (root / "IM_99999").write_bytes(some[int(rng.integers(len(some)))].read_bytes()[:700])
