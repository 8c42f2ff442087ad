"""Virtual hospitals with a known answer, written to disk as a real one would be."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from climb_model.data.exam import DataError
from climb_model.data.lesions import PAINTERS, plant
from climb_model.data.phantom import ImageStyle, acquire, draw_breast
from climb_model.data.synthetic_reports import write_report
from climb_model.data.tissue import TissueBank, lay_tissue

CENTRAL = "CENTRAL"
RECORD = "made.json"
"""What a data set was made of; copied into the summary of a run on it."""
CENTRAL_NUMBER = -1
FINDINGS = tuple(PAINTERS)
HEALTHY_SHARE = 0.15
"""Share of breasts that have no finding by design; chance adds about as many."""
PREVALENCE = 0.16
"""Chance of each finding in the other breasts, before a hospital's own factor."""
MALIGNANT = ("Duktales Karzinom in situ", "Karzinom")

BASE_STYLES = (
    ImageStyle(shape=(20, 80, 80), spacing_mm=(4.0, 1.80, 1.80), gain=420, noise=0.030),
    ImageStyle(
        shape=(22, 88, 88), spacing_mm=(3.6, 1.60, 1.60), gain=1100, gamma=0.9, noise=0.045, density=0.3
    ),
    ImageStyle(
        shape=(18, 76, 76), spacing_mm=(4.5, 1.95, 1.95), gain=230, gamma=1.1, noise=0.035, t2_missing=0.12
    ),
    ImageStyle(
        shape=(21, 84, 84), spacing_mm=(3.8, 1.70, 1.70), gain=700, noise=0.040, bias=0.25, enhancement=0.18
    ),
)
CENTRAL_STYLE = ImageStyle(
    shape=(19, 82, 82),
    spacing_mm=(4.2, 1.75, 1.75),
    gain=540,
    gamma=0.95,
    noise=0.038,
    bias=0.2,
    density=0.15,
)


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """A virtual hospital: its name, its number in the study, its look and its case mix."""

    name: str
    number: int
    style: ImageStyle
    prevalence: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PlannedExam:
    """One breast, decided before anything is drawn."""

    uid: str
    patient: str
    side: str
    split: str
    fold: int
    findings: tuple[str, ...]
    age_days: int
    number: int


def hospital(number: int, seed: int) -> Hospital:
    """The hospital of a number: styles repeat every four, with a variation of their own."""
    rng = np.random.default_rng([seed, 1, number + 1])
    factor = {finding: float(rng.uniform(0.7, 1.3)) for finding in FINDINGS}
    if number == CENTRAL_NUMBER:
        return Hospital(
            name=CENTRAL, number=number, style=CENTRAL_STYLE, prevalence=dict.fromkeys(FINDINGS, 1.0)
        )
    style = BASE_STYLES[number % len(BASE_STYLES)]
    if number >= len(BASE_STYLES):
        style = replace(
            style,
            gain=style.gain * float(rng.uniform(0.5, 2.0)),
            gamma=style.gamma * float(rng.uniform(0.92, 1.08)),
            noise=style.noise * float(rng.uniform(0.8, 1.3)),
            density=style.density + float(rng.normal(0, 0.2)),
        )
    return Hospital(name=site_name(number), number=number, style=style, prevalence=factor)


def site_name(number: int) -> str:
    """SITE_A, SITE_B ... SITE_Z, SITE_27 ..."""
    return f"SITE_{chr(ord('A') + number)}" if number < 26 else f"SITE_{number + 1}"


def plan_exams(
    place: Hospital, num_exams: int, seed: int, shares: tuple[float, float, float]
) -> list[PlannedExam]:
    """Both breasts of half as many patients, split by patient, findings drawn independently."""
    rng = np.random.default_rng([seed, 2, place.number + 1])
    num_patients = (num_exams + 1) // 2
    codes = rng.choice(900_000, num_patients, replace=False) + 1_000 + 1_000_000 * (place.number + 2)
    order = rng.permutation(num_patients)
    first, second = round(shares[0] * num_patients), round((shares[0] + shares[1]) * num_patients)
    split_of = np.empty(num_patients, dtype=object)
    split_of[order[:first]], split_of[order[first:second]], split_of[order[second:]] = "train", "val", "test"
    planned: list[PlannedExam] = []
    for patient in range(num_patients):
        code = f"{codes[patient]:010d}"
        age = int(rng.uniform(28 * 365, 80 * 365))
        for side in ("left", "right")[: num_exams - 2 * patient]:
            healthy = rng.uniform() < HEALTHY_SHARE
            drawn = {f: rng.uniform() < PREVALENCE * place.prevalence[f] for f in FINDINGS}
            found = () if healthy else tuple(f for f in FINDINGS if drawn[f])
            planned.append(
                PlannedExam(
                    uid=f"{code}_{side}",
                    patient=code,
                    side=side,
                    split=split_of[patient],
                    fold=patient % 5,
                    findings=found,
                    age_days=age,
                    number=len(planned),
                )
            )
    return planned


@dataclass(frozen=True, kw_only=True)
class DrawJob:
    """Everything a worker needs to draw and write one exam."""

    folder: Path
    place: Hospital
    exam: PlannedExam
    seed: int
    difficulty: float
    tissue: TissueBank | None


def draw_exam(job: DrawJob) -> tuple[str, float]:
    """Draw one exam and write its volumes.

    Returns:
        The report, and the share of Pre's voxels that are real tissue (0 without `tissue`).
    """
    import nibabel as nib

    place, exam = job.place, job.exam
    patient = np.random.default_rng([job.seed, 3, place.number + 1, int(exam.patient)])
    density = place.style.density + float(patient.normal(0, 0.35))
    enhancement = place.style.enhancement * float(patient.uniform(0.5, 1.6))
    rng = np.random.default_rng([job.seed, 4, place.number + 1, exam.number])
    canvas = draw_breast(rng, place.style, 1 if exam.side == "left" else -1, density, enhancement)
    if job.tissue is not None:
        lay_tissue(rng, canvas, place.style, job.tissue)
    before = canvas.pre.copy()
    contrast = min(1.0, 1.0 / job.difficulty)
    planted = [plant(rng, canvas, finding, contrast) for finding in exam.findings]
    real = float(np.mean(np.abs(canvas.pre - before) < 0.02)) if job.tissue is not None else 0.0
    style = replace(place.style, noise=place.style.noise * max(job.difficulty, 0.1))
    images = acquire(rng, style, canvas)

    depth, down, across = place.style.spacing_mm
    origin = [0.5 * across * place.style.shape[2], 0.5 * down * place.style.shape[1], 0.0]
    # columns to the left, rows to the back, slices upwards: LPS
    affine = np.diag([-across, -down, depth, 1.0])
    affine[:3, 3] = origin
    target = job.folder / "data_unilateral" / exam.uid
    target.mkdir(parents=True)
    names = {"Pre": "Pre", "Sub": "Sub_1" if place.number % 2 == 0 else "Sub", "T2": "T2"}
    for sequence, image in images.items():
        volume = nib.Nifti1Image(np.ascontiguousarray(image.transpose(2, 1, 0)), affine)
        volume.header.set_xyzt_units("mm")
        nib.save(volume, target / f"{names[sequence]}.nii.gz")
    words = np.random.default_rng([job.seed, 5, place.number + 1, exam.number])
    return write_report(planted, side=exam.side, hospital=place.number, rng=words), real


def write_tables(folder: Path, exams: Sequence[PlannedExam], reports: Sequence[str]) -> None:
    """The four tables of the ODELIA layout."""
    tables = folder / "metadata_unilateral"
    tables.mkdir(parents=True)
    rows: dict[str, list[list[object]]] = {
        "annotation.csv": [["UID", "PatientID", "Age", "Lesion"]],
        "split.csv": [["UID", "Split", "Fold"]],
        "reports.csv": [["UID", "Report"]],
        "findings.csv": [["UID", *FINDINGS]],
    }
    for exam, report in zip(exams, reports, strict=True):
        lesion = 2 if any(f in MALIGNANT for f in exam.findings) else int(bool(exam.findings))
        rows["annotation.csv"].append([exam.uid, exam.patient, exam.age_days, lesion])
        rows["split.csv"].append([exam.uid, exam.split, exam.fold])
        rows["reports.csv"].append([exam.uid, report])
        rows["findings.csv"].append([exam.uid, *(int(f in exam.findings) for f in FINDINGS)])
    for name, table in rows.items():
        with (tables / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table)


def make_hospitals(
    out: Path,
    *,
    num_sites: int,
    exams: int,
    central_exams: int,
    seed: int,
    difficulty: float = 1.0,
    tissue: Path | None = None,
    workers: int = 2,
) -> dict[str, object]:
    """Write `num_sites` training hospitals and CENTRAL, the server's own, below `out`.

    Args:
        exams: breasts per hospital: both breasts of half as many patients, split 70/10/20 by patient.
        central_exams: breasts of CENTRAL, a quarter validation and the rest test.
        difficulty: 1 is the standard; above it lesions fade and noise grows, below it noise shrinks.
        tissue: folder of NIfTI volumes used as background instead of drawn tissue.

    Returns:
        The record that is also written to `OUT/made.json`.

    Raises:
        DataError: if `out` exists, a number is impossible, or `tissue` holds no volume.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"make-data: {out} is not empty; name a new folder", "the folder is not empty")
    if num_sites < 1 or exams < 20 or central_exams < 20 or difficulty <= 0:
        raise DataError(
            f"make-data: wanted >= 1 site, >= 20 exams, >= 20 central exams and difficulty > 0, "
            f"got {num_sites}, {exams}, {central_exams} and {difficulty}",
            "impossible numbers",
        )
    bank = TissueBank.load(tissue) if tissue is not None else None
    places = [hospital(number, seed) for number in [*range(num_sites), CENTRAL_NUMBER]]
    plans = {
        place.name: plan_exams(place, central_exams, seed, (0.0, 0.25, 0.75))
        if place.number == CENTRAL_NUMBER
        else plan_exams(place, exams, seed, (0.7, 0.1, 0.2))
        for place in places
    }
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    jobs = [
        DrawJob(
            folder=partial / place.name, place=place, exam=exam, seed=seed, difficulty=difficulty, tissue=bank
        )
        for place in places
        for exam in plans[place.name]
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        drawn = list(pool.map(draw_exam, jobs, chunksize=16))
    first = 0
    for place in places:
        planned = plans[place.name]
        write_tables(partial / place.name, planned, [text for text, _ in drawn[first : first + len(planned)]])
        first += len(planned)
    record: dict[str, object] = {
        "kind": "synthetic: no patient, every exam drawn from a seed",
        "sites": num_sites,
        "exams": exams,
        "central_exams": central_exams,
        "seed": seed,
        "difficulty": difficulty,
        "tissue": None if bank is None else {"volumes": bank.record(), "real_voxel_share": mean_share(drawn)},
    }
    (partial / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return record


def mean_share(drawn: Sequence[tuple[str, float]]) -> float:
    """Mean share of real voxels over exams."""
    return round(float(np.mean([share for _, share in drawn])), 4)


def one_thread() -> None:
    """A worker draws on one core: there is one worker a core."""
    import torch

    torch.set_num_threads(1)
